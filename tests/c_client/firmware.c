/* Asks for ever, and tells the simulator by GPIOR0 what comes: each piece of an answer, and letters
 * for what happens.
 */
#include "board.h"

#define EDGELLM_GET(c) board_get()
#define EDGELLM_PUT(c, byte) board_put(byte)
#define EDGELLM_MILLIS() board_millis()
#include "edgellm.h"
#include "tools.h"

static edgellm client;
static uint8_t asked;

static void tell(uint8_t what) {
    GPIOR0 = what;
}

void edgellm_on_text(edgellm *c, uint16_t offset, const char *text, uint8_t length) {
    (void)c;
    if (offset == 0) tell(1);
    while (length--) tell(*text++);
}

void edgellm_on_done(edgellm *c, const char *reason) {
    (void)c;
    tell(2);
    tell(*reason);
}

void edgellm_on_error(edgellm *c, const char *code, const char *text, uint32_t retry_ms) {
    (void)c, (void)text, (void)retry_ms;
    tell(3);
    tell(*code);
}

void edgellm_on_call(edgellm *c) {
    if (edgellm_called(c, "fan")) {
        int32_t speed = edgellm_int(c, "speed", -1);
        tell(4);
        tell((uint8_t)speed);
        edgellm_result_int(c, speed * 1000);
    } else if (edgellm_called(c, "pump")) {
        uint8_t length, i = 0;
        const char *mode = edgellm_text(c, "mode", &length);
        float litres = edgellm_float(c, "litres", 0.0f);
        tell(5);
        for (; i < length; i++) tell(mode[i]);
        edgellm_result_float(c, litres * 2);
    } else {
        tell(6);
        edgellm_result_error(c, "no such function");
    }
}

int main(void) {
    board_begin();
    edgellm_begin(&client, "simulated", tools, sizeof tools);
    for (;;) {
        edgellm_poll(&client);
        if (edgellm_busy(&client)) continue;
        asked++;
        if (asked & 1) edgellm_ask(&client, "Is it warm?");
        else edgellm_ask_P(&client, PSTR("A question that is too long for a single frame of this "
                                         "client, and so comes in several: is it warm in here?"));
    }
}
