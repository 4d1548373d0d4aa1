/* An ATmega328P in simavr whose time and line belong to the test: it says how long to run.
 *
 *     simulator FIRMWARE
 *
 * standard input:   cycles u32, count u16, bytes for the receiver
 * standard output:  count u16, bytes from the sender, count u16, bytes written to GPIOR0
 *
 * and so on until the input ends; numbers are little-endian.
 */
#include <simavr/avr_uart.h>
#include <simavr/sim_avr.h>
#include <simavr/sim_elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GPIOR0 0x3E /* in data space */

struct bytes {
    uint8_t byte[65535];
    uint16_t count;
};

static struct bytes received, sent, told;

static void append(struct bytes *bytes, uint8_t byte) {
    if (bytes->count < sizeof bytes->byte) bytes->byte[bytes->count++] = byte;
}

static void on_sent(struct avr_irq_t *irq, uint32_t value, void *parameter) {
    (void)irq, (void)parameter;
    append(&sent, (uint8_t)value);
}

static void on_told(struct avr_t *avr, avr_io_addr_t address, uint8_t value, void *parameter) {
    (void)parameter;
    avr->data[address] = value;
    append(&told, value);
}

static void report(FILE *to, struct bytes *bytes) {
    uint8_t count[2] = {bytes->count & 255, bytes->count >> 8};
    fwrite(count, 1, 2, to);
    fwrite(bytes->byte, 1, bytes->count, to);
    bytes->count = 0;
}

int main(int argc, char **argv) {
    static elf_firmware_t firmware;
    FILE *answers = fdopen(dup(1), "wb");
    if (!answers || dup2(2, 1) < 0) return 2; /* simavr says things on standard output */
    if (argc != 2 || elf_read_firmware(argv[1], &firmware)) return 2;
    avr_t *avr = avr_make_mcu_by_name("atmega328p");
    if (!avr || avr_init(avr)) return 2;
    avr->frequency = 16000000;
    avr_load_firmware(avr, &firmware);
    uint32_t flags = 0;
    avr_ioctl(avr, AVR_IOCTL_UART_SET_FLAGS('0'), &flags);
    avr_irq_t *in = avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_INPUT);
    avr_irq_t *out = avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_OUTPUT);
    avr_irq_register_notify(out, on_sent, NULL);
    avr_register_io_write(avr, GPIOR0, on_told, NULL);

    uint8_t head[6];
    avr_cycle_count_t byte_time = avr->frequency * 10 / BAUD, end = 0, free = 0;
    while (fread(head, 1, 6, stdin) == 6) {
        uint32_t cycles;
        uint16_t next = 0;
        memcpy(&cycles, head, 4);
        memcpy(&received.count, head + 4, 2);
        if (fread(received.byte, 1, received.count, stdin) != received.count) return 2;
        end += cycles;
        while (avr->cycle < end || next < received.count) {
            if (next < received.count && avr->cycle >= free) {
                free = avr->cycle + byte_time;
                avr_raise_irq(in, received.byte[next++]);
            }
            int state = avr_run(avr);
            if (state == cpu_Done || state == cpu_Crashed) return 1;
        }
        report(answers, &sent);
        report(answers, &told);
        fflush(answers);
    }
    return 0;
}
