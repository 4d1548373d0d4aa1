/* The ATmega328P's port and clock as Arduino's core has them: a receiver's ring of 64 bytes that
 * interrupts fill, a sender that waits, milliseconds by timer 0. Measured without the client, too.
 */
#include <avr/interrupt.h>
#include <avr/io.h>
#include <stdint.h>

static volatile uint8_t ring[64], ring_head, ring_tail;
static volatile uint32_t milliseconds;

ISR(USART_RX_vect) {
    uint8_t byte = UDR0, next = (ring_head + 1) & 63;
    if (next != ring_tail) {
        ring[ring_head] = byte;
        ring_head = next;
    }
}

ISR(TIMER0_COMPA_vect) {
    milliseconds++;
}

static void board_begin(void) {
    UBRR0 = F_CPU / 8 / BAUD - 1;
    UCSR0A = _BV(U2X0);
    UCSR0B = _BV(RXEN0) | _BV(TXEN0) | _BV(RXCIE0);
    OCR0A = F_CPU / 64 / 1000 - 1;
    TCCR0A = _BV(WGM01);
    TCCR0B = _BV(CS01) | _BV(CS00);
    TIMSK0 = _BV(OCIE0A);
    sei();
}

static __attribute__((noinline)) int board_get(void) {
    if (ring_tail == ring_head) return -1;
    uint8_t byte = ring[ring_tail];
    ring_tail = (ring_tail + 1) & 63;
    return byte;
}

static __attribute__((noinline)) void board_put(uint8_t byte) {
    while (!(UCSR0A & _BV(UDRE0))) {}
    UDR0 = byte;
}

static __attribute__((noinline)) uint32_t board_millis(void) {
    uint8_t status = SREG;
    cli();
    uint32_t now = milliseconds;
    SREG = status;
    return now;
}
