/* A program of which the client is the most, to be measured: on an ATmega328P against the same
 * without CLIENT, elsewhere without a library. All but the tools' description is in it.
 */
#include <stdint.h>

#ifdef __AVR__
#include "board.h"
#else
int board_get(void);
void board_put(uint8_t byte);
uint32_t board_millis(void);
static inline void board_begin(void) {}
#endif

static volatile uint8_t seen;

#ifdef CLIENT
#define EDGELLM_GET(c) board_get()
#define EDGELLM_PUT(c, byte) board_put(byte)
#define EDGELLM_MILLIS() board_millis()
#include "edgellm.h"

static edgellm client;

void edgellm_on_text(edgellm *c, uint16_t offset, const char *text, uint8_t length) {
    (void)c, (void)offset, (void)length;
    seen = (uint8_t)*text;
}

void edgellm_on_done(edgellm *c, const char *reason) {
    (void)c;
    seen = (uint8_t)*reason;
}

void edgellm_on_error(edgellm *c, const char *code, const char *text, uint32_t retry_ms) {
    (void)c, (void)text, (void)retry_ms;
    seen = (uint8_t)*code;
}

#ifndef EDGELLM_NO_TOOLS
static const uint8_t tools[] PROGMEM = {0x90};

void edgellm_on_call(edgellm *c) {
    uint8_t length;
    if (!edgellm_called(c, "fan")) return;
    const char *mode = edgellm_text(c, "mode", &length);
    if (length) seen = (uint8_t)*mode;
    edgellm_result_int(c, edgellm_int(c, "speed", 0));
}
#endif
#endif

int main(void) {
    board_begin();
#ifndef CLIENT
#elif defined EDGELLM_NO_TOOLS
    edgellm_begin(&client, "measured");
#else
    edgellm_begin(&client, "measured", tools, sizeof tools);
#endif
    for (;;) {
#ifdef CLIENT
        edgellm_poll(&client);
        if (seen == 's') edgellm_stop(&client);
        if (seen) edgellm_ask_P(&client, EDGELLM_FLASH("Is it warm?"));
#else
        int byte = board_get();
        if (byte >= 0) board_put((uint8_t)byte);
        if ((uint8_t)board_millis() == seen) board_put(0);
#endif
    }
}
