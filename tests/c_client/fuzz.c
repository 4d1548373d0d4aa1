/* Feeds edgellm.h with frames that are sound but hold anything, frames that aren't sound, and junk.
 *
 *     fuzz COUNT SEED
 *
 * Builds as C99 and as C++11. Beyond what sanitizers see, it checks that the client's fields stay
 * what they may be and that every text handed out lies in the frame.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t line[4096];
static size_t line_count, line_at;
static uint32_t clock_ms, put_count;

#define EDGELLM_GET(c) (line_at < line_count ? (int)line[line_at++] : -1)
#define EDGELLM_PUT(c, byte) ((void)(byte), (void)put_count++)
#define EDGELLM_MILLIS() clock_ms
#include "edgellm.h"

static edgellm client;
static uint32_t state;
static unsigned long happened[8];

static void check(int right, const char *what) {
    if (right) return;
    fprintf(stderr, "wrong: %s\n", what);
    exit(1);
}
#define CHECK(condition) check(condition, #condition)

static uint32_t draw(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % below;
}

static void check_text(const char *text) {
    const char *in = (const char *)client.in;
    CHECK(text >= in && text < in + sizeof client.in);
    CHECK(memchr(text, 0, (size_t)(in + sizeof client.in - text)) != NULL);
}

void edgellm_on_text(edgellm *c, uint16_t offset, const char *text, uint8_t length) {
    (void)c, (void)offset;
    check_text(text);
    check_text(text + length);
    CHECK(text[length] == 0);
    happened[0]++;
}

void edgellm_on_done(edgellm *c, const char *reason) {
    check_text(reason);
    happened[1]++;
    if (draw(2)) CHECK(edgellm_ask(c, "again?"));
}

void edgellm_on_error(edgellm *c, const char *code, const char *text, uint32_t retry_ms) {
    (void)c, (void)retry_ms;
    check_text(code);
    check_text(text);
    happened[2]++;
}

#ifndef EDGELLM_NO_TOOLS
void edgellm_on_call(edgellm *c) {
    uint8_t length;
    const char *span;
    happened[3]++;
    if (edgellm_called(c, "fan")) happened[4]++;
    if (edgellm_int(c, "speed", 7) != 7) happened[5]++;
    if (edgellm_float(c, "litres", 0.0f) > 1.0f) happened[6]++;
    (void)edgellm_bool(c, "on", true);
    span = edgellm_text(c, "mode", &length);
    if (span) {
        check_text(span);
        check_text(span + length);
        happened[7] += length;
    }
    switch (draw(5)) {
    case 0: edgellm_result_int(c, -5); break;
    case 1: edgellm_result_float(c, 0.5f); break;
    case 2: edgellm_result_text(c, "text that takes more than a single frame of this one"); break;
    case 3: edgellm_result_error(c, "out of water"); break;
    default: break; /* later, or never */
    }
}
#endif

/* Bodies that mean something; what they hold of ours is filled in below. */
#define SAMPLE(bytes) {sizeof(bytes) - 1, bytes}
static const struct {
    uint8_t size;
    const char *payload;
} samples[] = {
    SAMPLE("\x10\x97\x01\xCD\x00\x00\xC4\x08" "01234567" "\xA7" "edgellm"
           "\xCC\xF4\xCD\x80\x00\xC2"),
    SAMPLE("\x11\x92\x00\xA8" "h\xC3\xA9llo.."),
    SAMPLE("\x12\x96\x01\x08\xA4" "stop" "\x05\xCD\x01\x02\xCE\x11\x22\x33\x44"),
    SAMPLE("\x13\x95\x01\xA4" "busy" "\xA5" "wait!" "\xCD\x10\x00\x02"),
    SAMPLE("\x13\x95\x00\xA5" "hello" "\xA0"),
    SAMPLE("\x18\x94\x01\xA3" "fan" "\x82\xA5" "speed" "\xD1\xFF\x38\xA4" "mode" "\xA2" "up"
           "\x09"),
    SAMPLE("\x18\x94\x02\xA4" "pump" "\x82\xA6" "litres"
           "\xCB\x40\x20\x80\x00\x00\x00\x00\x00\xA2" "on" "\xC3"),
    SAMPLE("\x17\x92\x01\x00"),
    SAMPLE("\x03"),
    SAMPLE("\x04"),
    SAMPLE("\x14"),
};

/* Put a frame around a body, and harm it now and then. */
static void append(const uint8_t *body, size_t size) {
    uint8_t frame[300], *code = frame, *to = frame + 1;
    size_t half = size / 2;
    uint32_t crc = edgellm_crc32(0, body, (uint8_t)half);
    crc = edgellm_crc32(crc, body + half, (uint8_t)(size - half));
    uint8_t whole[280];
    memcpy(whole, body, size);
    for (int i = 0; i < 4; i++) whole[size++] = (uint8_t)(crc >> 8 * i);
    for (size_t i = 0; i < size; i++) {
        if (whole[i]) *to++ = whole[i];
        if (!whole[i] || to - code == 255) {
            *code = (uint8_t)(to - code);
            code = to++;
        }
    }
    *code = (uint8_t)(to - code);
    if (!draw(8)) frame[draw((uint32_t)(to - frame))] ^= (uint8_t)(1 << draw(8));
    line[line_count++] = 0;
    memcpy(line + line_count, frame, (size_t)(to - frame));
    line_count += (size_t)(to - frame);
    line[line_count++] = 0;
}

static void append_random_frame(void) {
    uint8_t body[260];
    size_t size;
    if (draw(8)) {
        size_t i = draw(sizeof samples / sizeof *samples);
        if (client.sending == EDGELLM_HELLO && draw(2)) i = 0;
        size = samples[i].size;
        memcpy(body + 3, samples[i].payload, size);
        body[0] = body[3];
        size += 3;
        if (i == 0) {
            body[8] = client.nonce;
        } else if (i < 4 && draw(2)) {
            body[5] = (uint8_t)(i == 1 ? client.got : client.id);
        }
        if (i == 2 && draw(2)) { /* the right total and CRC */
            uint32_t crc = client.crc;
            body[6] = (uint8_t)client.got & 0x7F;
            for (int k = 0; k < 4; k++) body[size - 4 + (size_t)k] = (uint8_t)(crc >> 8 * (3 - k));
        }
        while (!draw(3)) body[3 + draw((uint32_t)size - 3)] = (uint8_t)draw(256);
        if (!draw(10)) size = 4 + draw((uint32_t)size - 3);
    } else {
        size = draw(sizeof body);
        for (size_t i = 0; i < size; i++) body[i] = (uint8_t)draw(256);
    }
    body[1] = (uint8_t)(client.expected - (draw(8) == 0));
    body[2] = (uint8_t)(client.seq + (client.sending != 0 && draw(2)));
    if (client.sending == EDGELLM_HELLO) body[2] = (uint8_t)(draw(16) == 0);
    body[3] = 8;
    if (size >= 4) append(body, size);
}

int main(int argc, char **argv) {
    static const uint8_t tools[] = {0x91, 0x94, 0xA3, 'f', 'a', 'n', 0xA0, 0x80, 0x00};
    unsigned long count = argc > 1 ? strtoul(argv[1], NULL, 10) : 20000;
    state = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1;
#ifdef EDGELLM_NO_TOOLS
    (void)tools;
    edgellm_begin(&client, "fuzzed");
#else
    edgellm_begin(&client, "fuzzed", tools, sizeof tools);
#endif
    while (count--) {
        line_count = line_at = 0;
        if (!draw(10)) {
            for (uint32_t n = draw(300); n; n--) line[line_count++] = (uint8_t)draw(256);
        }
        append_random_frame();
        put_count = 0;
        do {
            edgellm_poll(&client);
            clock_ms += draw(16) ? draw(20) : draw(4000);
            CHECK(client.count <= EDGELLM_MTU + 5);
            CHECK(client.sending <= EDGELLM_NEW);
            CHECK(client.source[0].text == NULL && client.source[0].size == 0);
            CHECK(client.asked <= EDGELLM_SENT);
        } while (line_at < line_count);
        CHECK(put_count < 4096);
        if (!draw(50)) edgellm_stop(&client);
        if (!draw(200)) edgellm_new(&client);
        if (!draw(4)) edgellm_ask(&client, "a question of more than a single frame of this client");
    }
    for (int i = 0; i < 8; i++) printf("%lu ", happened[i]);
    printf("\n");
    return 0;
}
