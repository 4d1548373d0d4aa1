/* A device's end of edgellm's link, in C99 or C++11: ask a language model over a serial line, get
 * the answer exactly once whatever the line does, and let the model call the device's functions.
 *
 * One header, static memory, no allocation, no other library. The wire is described in edgellm's
 * README; boards/clients/greenhouse is an example. In one file of the program:
 *
 *     #include "edgellm.h"
 *
 *     static edgellm client;
 *
 *     edgellm_begin(&client, "greenhouse", tools, sizeof tools);    once, of a zeroed client
 *     edgellm_ask(&client, "Is it warm in here?");                  false: one is under way
 *     edgellm_poll(&client);                                        again and again, from loop()
 *
 *     edgellm_stop(&client);            end the answer; a question not sent yet is dropped
 *     edgellm_new(&client);             forget the conversation
 *     edgellm_connected(&client), edgellm_busy(&client)
 *
 * and four functions of the program's own, which edgellm_poll calls, empty or not:
 *
 *     void edgellm_on_text(edgellm *c, uint16_t offset, const char *text, uint8_t length)
 *         A piece of the answer, whole UTF-8 characters, ended by a zero byte. Offset 0 begins the
 *         answer: anew, should the host have lost it in the middle, or its checksum be wrong.
 *     void edgellm_on_done(edgellm *c, const char *reason)
 *         The whole answer has been given. "stop", "length", "cancel" or "deadline".
 *     void edgellm_on_error(edgellm *c, const char *code, const char *text, uint32_t retry_ms)
 *         "busy", "toolong", "tools", ...: the question, if one was under way, has ended.
 *     void edgellm_on_call(edgellm *c)
 *         The model calls a function, once for each call, whatever the line does:
 *             if (edgellm_called(c, "fan")) edgellm_result_int(c, fan(edgellm_int(c, "speed", 0)));
 *             else edgellm_result_error(c, "no such function");
 *         Arguments can be read until it returns; the result may also be given later, up to the
 *         call's deadline. Integers, booleans, numbers and text can be read; names of functions
 *         and arguments have at most 31 bytes.
 *
 * The question's and a result's text are sent from where they stand, so leave them there until the
 * answer or the next call comes. `tools` is what tools_to_c.py makes of a JSON file. Answers go up
 * to 64 KiB.
 *
 * Between two polls the line's receiver must hold what comes in. The host sends at most
 * EDGELLM_CREDIT frames of EDGELLM_MTU + 7 bytes before it hears from us, so a ring with room for
 * them loses nothing however long the program is busy elsewhere: the 63 bytes that Arduino's
 * `Serial` holds take one frame of the default size. With a larger one, poll within the time of 63
 * bytes (5 ms at 115,200 baud); what is lost is sent again, only later.
 *
 * Define before the #include, if need be:
 *
 *     EDGELLM_GET(c)        a byte that came in, or a negative number      Serial.read()
 *     EDGELLM_PUT(c, byte)  send a byte, waiting if it must be             Serial.write(byte)
 *     EDGELLM_MILLIS()      a clock of 16 bits or more, which may wrap     millis()
 *     EDGELLM_PORT          on Arduino, another port                       Serial
 *     EDGELLM_MTU           largest body of a frame in bytes, 36 to 160    54
 *     EDGELLM_CREDIT        frames that the receiver holds, 1 to 8         1
 *     EDGELLM_NO_TOOLS      leaves calls out; edgellm_begin(&client, "greenhouse")
 *
 * A line that asks for a secret isn't for this client: it knows no HMAC.
 *
 * On an ATmega328P it takes 2,046 bytes of flash and 253 of RAM, with one tool of an integer and a
 * text but for the tool's description; without tools, 1,652 and 243 (avr-gcc 5.4, -Os).
 */
#ifndef EDGELLM_H
#define EDGELLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef EDGELLM_MTU
#define EDGELLM_MTU 54
#endif
#ifndef EDGELLM_CREDIT
#define EDGELLM_CREDIT 1
#endif
#if EDGELLM_MTU < 36 || EDGELLM_MTU > 160
#error "EDGELLM_MTU must be from 36 to 160"
#endif
#if EDGELLM_CREDIT < 1 || EDGELLM_CREDIT > 8
#error "EDGELLM_CREDIT must be from 1 to 8"
#endif
#if defined __BYTE_ORDER__ && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "edgellm.h is written for little-endian processors"
#endif

#ifdef ARDUINO
#include <Arduino.h>
#ifndef EDGELLM_PORT
#define EDGELLM_PORT Serial
#endif
#ifndef EDGELLM_GET
#define EDGELLM_GET(c) EDGELLM_PORT.read()
#endif
#ifndef EDGELLM_PUT
#define EDGELLM_PUT(c, byte) EDGELLM_PORT.write(byte)
#endif
#ifndef EDGELLM_MILLIS
#define EDGELLM_MILLIS() millis()
#endif
#elif !defined EDGELLM_GET || !defined EDGELLM_PUT || !defined EDGELLM_MILLIS
#error "define EDGELLM_GET(c), EDGELLM_PUT(c, byte) and EDGELLM_MILLIS() before the #include"
#endif

/* Flash is another address space on AVR; and size counts there, down to a few of the compiler's
 * passes that make code longer, to the register pair through which fields are reached, and to the
 * instructions that read and go on. EDGELLM_TAKE reads a byte from flash, EDGELLM_TAKE_FROM from
 * where `place` says. EDGELLM_NEAR and EDGELLM_KEEP have a pointer stay in registers that reach
 * what lies after it. */
#define EDGELLM_IN_FLASH 0x8000 /* said of a text together with its size, or in its place */
#ifdef __AVR__
#include <avr/pgmspace.h>
#define EDGELLM_FLASH(literal) PSTR(literal)
#define EDGELLM_READ(pointer) pgm_read_byte(pointer)
#define EDGELLM_TAKE(byte, pointer) __asm__("lpm %0, Z+" : "=r"(byte), "+z"(pointer))
#define EDGELLM_TAKE_FROM(place, byte, pointer)                                          \
    __asm__("sbrc %B2, 7\n\tlpm %0, Z+\n\tsbrs %B2, 7\n\tld %0, Z+"                      \
            : "=&r"(byte), "+z"(pointer)                                                 \
            : "r"(place)                                                                 \
            : "memory")
#define EDGELLM_NEAR(c) __asm__("" : "+y"(c))
#define EDGELLM_KEEP(pointer) __asm__("" : "+b"(pointer))
#define EDGELLM_OWN                                                                            \
    static __attribute__((noinline, noclone, unused,                                           \
                          optimize("no-optimize-sibling-calls", "no-move-loop-invariants",     \
                                   "no-tree-scev-cprop", "no-gcse", "no-tree-pre")))
#else
#define EDGELLM_FLASH(literal) (literal)
#define EDGELLM_READ(pointer) (*(const uint8_t *)(pointer))
#define EDGELLM_TAKE(byte, pointer) ((byte) = (uint8_t)*(pointer)++)
#define EDGELLM_TAKE_FROM(place, byte, pointer) EDGELLM_TAKE(byte, pointer)
#define EDGELLM_NEAR(c) ((void)(c))
#define EDGELLM_KEEP(pointer) ((void)(pointer))
#define EDGELLM_OWN static inline
#ifndef PROGMEM
#define PROGMEM
#endif
#endif

enum {
    EDGELLM_HELLO = 0x01,
    EDGELLM_ASK = 0x02,
    EDGELLM_ACK = 0x03,
    EDGELLM_PING = 0x04,
    EDGELLM_STOP = 0x05,
    EDGELLM_TOOLS = 0x07,
    EDGELLM_RESULT = 0x08,
    EDGELLM_TAKEN = 0x09,
    EDGELLM_NEW = 0x0A,
    EDGELLM_WELCOME = 0x10,
    EDGELLM_TEXT = 0x11,
    EDGELLM_DONE = 0x12,
    EDGELLM_ERR = 0x13,
    EDGELLM_PONG = 0x14,
    EDGELLM_CALL = 0x18,
    EDGELLM_MORE = 0x80
};

/* What stands at the end of a message to the host, and is cut into as many frames as it takes. */
struct edgellm_source {
    const char *text;
    uint16_t size; /* and EDGELLM_IN_FLASH, if it lies there */
};

/* An element of a msgpack array. */
struct edgellm_element {
    uint8_t *start; /* of its bytes, if it has some */
    uint32_t value; /* its number, length or count */
};

/* All fields are the library's own. AVR reaches the first 64 bytes with the least code. */
typedef struct edgellm {
    uint8_t sending;  /* type of the message under way, EDGELLM_HELLO while not connected, or 0 */
    uint8_t seq;      /* of our frame under way, or of the next one */
    uint8_t expected; /* seq of the host's next frame */
    uint8_t nonce;    /* of the connection */
    uint8_t left;     /* bytes up to the next length byte of COBS */
    uint8_t count;    /* of what stands in `in` */
    uint8_t timer, wait;   /* in units of 128 ms */
    uint8_t asked;         /* EDGELLM_WAITS or EDGELLM_SENT, until the answer is whole */
    uint8_t tag;           /* first byte of the element that was read last */
    uint16_t acked, ahead; /* of the source under way: what the host has, or will have if not all */
    uint16_t got;          /* of the answer, */
    uint32_t crc;          /* and its CRC */
    uint8_t *at;           /* where a message is being read */
    uint8_t todo[EDGELLM_NEW + 1]; /* messages to send, by type */
#ifndef EDGELLM_NO_TOOLS
    uint8_t result_tag; /* what msgpack writes before `result`, or 0: there's none */
    bool failed;
    uint32_t call;
#endif
    struct edgellm_element last, element[7]; /* read last, and of the message or its beginning */
#ifndef EDGELLM_NO_TOOLS
    uint32_t result;
#endif
    uint32_t id;      /* of the question */
    uint16_t size;    /* of the source under way */
    uint8_t token[8]; /* from its end to its beginning */
    struct edgellm_source source[5];  /* none, name, question, tools, result */
    uint8_t in[1 + EDGELLM_MTU + 13]; /* a zero byte, body, CRC, and what an element may overrun */
    uint8_t out[1 + EDGELLM_MTU + 5]; /* length byte, body, CRC, zero byte */
} edgellm;

enum { EDGELLM_WAITS = 1, EDGELLM_SENT = 2 };

void edgellm_on_text(edgellm *c, uint16_t offset, const char *text, uint8_t length);
void edgellm_on_done(edgellm *c, const char *reason);
void edgellm_on_error(edgellm *c, const char *code, const char *text, uint32_t retry_ms);
#ifndef EDGELLM_NO_TOOLS
void edgellm_on_call(edgellm *c);
#endif

#define edgellm_connected(c) ((c)->sending != EDGELLM_HELLO)
#define edgellm_busy(c) ((c)->asked != 0)

/* ---- Frames ---- */

/* How many bytes, below 256, lie between two places: 8 bits of the addresses will do. */
static inline uint8_t edgellm_span(const uint8_t *from, const uint8_t *to) {
    return (uint8_t)((uint8_t)(uintptr_t)to - (uint8_t)(uintptr_t)from);
}

/* The CRC of what has that one, and so many bytes after it. */
EDGELLM_OWN uint32_t edgellm_crc32(uint32_t crc, const uint8_t *from, uint8_t count) {
    crc = ~crc;
    while (count--) {
        crc ^= *from++;
        for (uint8_t bit = 8; bit; bit--) {
            bool odd = (uint8_t)crc & 1;
            crc >>= 1;
            if (odd) crc ^= 0xEDB88320;
        }
    }
    return ~crc;
}

/* Send the frame whose payload stands in `out` up to `to`. */
EDGELLM_OWN void edgellm_frame(edgellm *c, uint8_t type, uint8_t *to) {
    EDGELLM_NEAR(c);
    uint8_t *byte = c->out, run = 0;
    EDGELLM_KEEP(byte);
    byte[0] = 0;
    byte[1] = type;
    byte[2] = c->seq;
    byte[3] = c->expected;
    byte[4] = EDGELLM_CREDIT;
    byte++;
    uint32_t crc = edgellm_crc32(0, byte, edgellm_span(byte, to));
    EDGELLM_KEEP(to);
    to[0] = (uint8_t)crc;
    to[1] = (uint8_t)(crc >> 8);
    to[2] = (uint8_t)(crc >> 16);
    to[3] = (uint8_t)(crc >> 24);
    to[4] = 0;
    to += 4;
    /* COBS from the end: each zero byte becomes the distance to the next one. */
    byte = c->out;
    do {
        run++;
        if (!*--to) {
            *to = run;
            run = 0;
        }
    } while (to != byte);
    EDGELLM_PUT(c, 0);
    for (;; byte++) {
        EDGELLM_PUT(c, *byte);
        EDGELLM_KEEP(byte);
        if (!*byte) break;
    }
}

EDGELLM_OWN void edgellm_empty_frame(edgellm *c, uint8_t type) {
    edgellm_frame(c, type, c->out + 5);
}

/* ---- Messages to the host ---- */

/* How messages begin: the offset of a source, then bytes as they are, but 0x20 + n and an offset
 * for n bytes of the client in reverse, that is big-endian, until a zero byte. */
#define EDGELLM_FIELD(field, size) 0x20 + (size), offsetof(edgellm, field)
#define EDGELLM_TEXT_SIZE 0xDA, EDGELLM_FIELD(size, 2)

#define EDGELLM_SOURCE(index) (index) * sizeof(struct edgellm_source)

static const uint8_t edgellm_scripts[] PROGMEM = {
    EDGELLM_SOURCE(1), 0x96, 1, 0xCC, EDGELLM_FIELD(nonce, 1), 0xC4, 8, EDGELLM_FIELD(token, 8),
        EDGELLM_TEXT_SIZE, 0,
    EDGELLM_SOURCE(2), 0x93, 0xCE, EDGELLM_FIELD(id, 4), 0xCD, EDGELLM_FIELD(got, 2),
        EDGELLM_TEXT_SIZE, 0,
    EDGELLM_SOURCE(0), 0x91, 0xCE, EDGELLM_FIELD(id, 4), 0,
    EDGELLM_SOURCE(0), 0,
#ifndef EDGELLM_NO_TOOLS
    EDGELLM_SOURCE(3), 0,
    EDGELLM_SOURCE(4), 0x93, 0xCE, EDGELLM_FIELD(call, 4), 0xA2, 'o', 'k',
        EDGELLM_FIELD(result_tag, 1), EDGELLM_FIELD(result, 4), 0,
    EDGELLM_SOURCE(4), 0x93, 0xCE, EDGELLM_FIELD(call, 4), 0xA5, 'e', 'r', 'r', 'o', 'r',
        EDGELLM_FIELD(result_tag, 1), EDGELLM_FIELD(result, 4), 0,
#endif
};

/* Where the script of each type begins. In place of the Ack that needs none: failed results. */
static const uint8_t edgellm_script_of[] PROGMEM = {0, 0, 14, 49, 0, 26, 0, 34, 36, 26, 32};

/* Send the frame that the host waits for. It is made anew each time, so there's no queue. */
static inline void edgellm_send(edgellm *c) {
    EDGELLM_NEAR(c);
    uint8_t type = c->sending, *to = c->out + 5, op;
#ifndef EDGELLM_NO_TOOLS
    if (type == EDGELLM_RESULT && c->failed) type = EDGELLM_ACK;
#endif
    const uint8_t *script = edgellm_scripts + EDGELLM_READ(edgellm_script_of + type);
    EDGELLM_TAKE(op, script);
    const struct edgellm_source *source =
        (const struct edgellm_source *)(const void *)((const uint8_t *)c->source + op);
    uint16_t place = source->size, size = place & (EDGELLM_IN_FLASH - 1);
    c->size = size;
    for (;;) {
        EDGELLM_TAKE(op, script);
        if (!op) break;
        uint8_t count = op - 0x20;
        if (count < 16) {
            EDGELLM_TAKE(op, script);
            const uint8_t *field = (const uint8_t *)c + op + count;
            while (count--) *to++ = *--field;
        } else *to++ = op;
    }
    type = c->sending;
    uint16_t ahead = c->acked;
    if (ahead) to = c->out + 5;
    const char *text = source->text + ahead;
    for (;; ahead++) {
        if (ahead >= size) {
            ahead = 0;
            break;
        }
        if (to == c->out + 1 + EDGELLM_MTU) {
            type |= EDGELLM_MORE;
            break;
        }
        EDGELLM_TAKE_FROM(place, op, text);
        *to++ = op;
    }
    c->ahead = ahead;
    if (type == EDGELLM_HELLO) {
#if EDGELLM_MTU > 127
        *to++ = 0xCC;
#endif
        *to++ = EDGELLM_MTU;
        *to++ = 0;
    }
    edgellm_frame(c, type, to);
}

/* Begin a connection anew; what hadn't arrived is sent there again. */
EDGELLM_OWN void edgellm_restart(edgellm *c) {
    c->todo[c->sending] = 1; /* of types below EDGELLM_ASK nobody looks there */
    c->todo[EDGELLM_ASK] = c->asked;
    c->sending = EDGELLM_HELLO;
    c->seq = c->expected = c->wait = 0;
    c->acked = 0;
    c->nonce++;
}

/* ---- Messages from the host ---- */

/* Read an element, the head alone of arrays and maps. */
EDGELLM_OWN void edgellm_next(edgellm *c) {
    uint8_t *byte = c->at, tag = *byte++, first = tag, more = 0;
    c->tag = tag;
    if (tag >= 0x80 && tag < 0xE0) {
        first = tag & 0x1F;
        if (tag >= 0xC4) {
            first = *byte++;
            uint8_t sizes = tag == 0xD9 ? 0 : tag & 3;
            while (sizes--) more = (uint8_t)(more * 2 + 1);
        }
    }
    int16_t head = first;
    if (tag >= 0xD0) head = (int8_t)first; /* signed, if a number */
    uint32_t value = (uint32_t)(int32_t)head;
    while (more--) value = value << 8 | *byte++;
    c->last.start = byte;
    c->last.value = value;
    if ((tag & 0xE0) == 0xA0 || tag == 0xC4 || tag == 0xD9) byte += (uint8_t)value;
    uint8_t *end = c->in + 1 + EDGELLM_MTU + 4;
    if (byte > end) byte = end;
    c->at = byte;
}

/* Read a message's elements; text before each of them is ended by a zero byte. Afterwards all of
 * `element` points into `in`, since the first message to be used is the Welcome of seven. */
static inline void edgellm_read(edgellm *c) {
    struct edgellm_element *element = c->element;
    uint8_t *head = c->in + 5;
    EDGELLM_KEEP(head);
    uint8_t count = *head++ & 7;
    if (count == 4) count = 3; /* the arguments of a call are read later, and stay as they are */
    c->at = head;
    while (count--) {
        head = c->at;
        edgellm_next(c);
        *head = 0;
        *element++ = c->last;
    }
}

static inline void edgellm_close(edgellm *c) {
    c->asked = 0;
    c->todo[EDGELLM_ASK] = c->todo[EDGELLM_STOP] = 0;
}

static inline void edgellm_welcome(edgellm *c, uint8_t array, uint8_t ack) {
    /* The only message of seven elements is WELCOME. */
    if (array != 0x97 || (uint8_t)c->element[1].value != c->nonce) return;
    if (ack) { /* we were reset, and have used this nonce before */
        c->nonce++;
        return;
    }
    c->sending = 0;
    const uint8_t *from = c->element[2].start;
    uint8_t *token = c->token + 8;
    for (uint8_t i = 8; i; i--) {
        *--token = *from++;
        EDGELLM_KEEP(token);
    }
    if (!((uint8_t)c->last.value & 1)) { /* the host doesn't have the session that we had */
        c->got = 0;
#ifndef EDGELLM_NO_TOOLS
        c->call = 0;
        c->todo[EDGELLM_TOOLS] = 1;
#endif
    }
}

/* Do what the header of a frame says; whether it brings a message, too. */
static inline bool edgellm_link(edgellm *c, uint8_t type, uint8_t seq, uint8_t ack) {
    uint8_t news = (uint8_t)(ack - c->seq);
    if ((type == EDGELLM_ERR && *c->element[1].start == 'h') || /* of the codes, only "hello" */
        (news && (news != 1 || !c->sending))) {
        edgellm_restart(c);
        return false;
    }
    if (news) {
        c->seq = ack;
        c->acked = c->ahead;
        if (!c->acked) c->sending = 0;
    }
    if (news || type == EDGELLM_ACK) c->wait = 0; /* go on, or again: something was damaged */
    if (!c->sending) c->wait = 4;
    if (type == EDGELLM_PING) {
        edgellm_empty_frame(c, EDGELLM_PONG);
        return false;
    }
    if (type <= EDGELLM_WELCOME || type == EDGELLM_PONG) return false;
    bool fresh = seq == c->expected;
    c->expected += fresh;
    edgellm_empty_frame(c, EDGELLM_ACK);
    return fresh;
}

static inline void edgellm_message(edgellm *c, uint8_t type) {
    uint16_t first = (uint16_t)c->element[0].value;
#ifndef EDGELLM_NO_TOOLS
    if (type == EDGELLM_CALL) {
        if (first != (uint16_t)c->call) {
            c->call = c->element[0].value;
            c->result_tag = 0;
            edgellm_on_call(c);
        } else c->todo[EDGELLM_RESULT] = c->result_tag;
        return;
    }
#endif
    const char *text = (const char *)c->element[1].start;
    if (type == EDGELLM_TEXT) {
        uint8_t *start = c->element[1].start, *end = c->at;
        if (c->asked != EDGELLM_SENT || first != c->got || start > end) return;
        *end = 0;
        uint8_t length = edgellm_span(start, end);
        c->got += length;
        c->crc = edgellm_crc32(c->crc, start, length);
        edgellm_on_text(c, first, text, length);
        return;
    }
    bool ours = true; /* or of no question, as an error may be */
    if (c->asked != EDGELLM_SENT || first != (uint16_t)c->id) {
        if (first || type != EDGELLM_ERR) return;
        ours = false;
    }
    if (type == EDGELLM_DONE) {
        if (c->last.value != c->crc) {
            c->got = 0;
            c->todo[EDGELLM_ASK] = 1;
            return;
        }
        c->todo[EDGELLM_TAKEN] = 1;
        edgellm_close(c);
        edgellm_on_done(c, (const char *)c->element[2].start);
    } else if (type == EDGELLM_ERR) {
        if (ours) edgellm_close(c);
        edgellm_on_error(c, text, (const char *)c->element[2].start, c->element[3].value);
    }
}

/* Take a byte; whether it ends a frame. */
static inline bool edgellm_receive(edgellm *c, uint8_t byte) {
    if (!byte) return c->count;
    if (!c->left) { /* a length byte stands for the zero byte before the next so many */
        c->left = byte;
        byte = 0;
    }
    c->left--;
    if (c->count != 1 + EDGELLM_MTU + 4) c->in[c->count++] = byte;
    return false;
}

/* Choose what to send next. */
static inline void edgellm_choose(edgellm *c) {
    uint8_t type = EDGELLM_NEW, *due = c->todo + EDGELLM_NEW;
    while (!*due) {
        due--;
        if (--type < EDGELLM_ASK) return;
    }
    *due = 0;
    c->sending = type;
    c->wait = 0;
    if (type == EDGELLM_ASK) {
        if (c->asked == EDGELLM_WAITS) {
            c->asked = EDGELLM_SENT;
            uint8_t *byte = (uint8_t *)&c->id;
            while (!++*byte) byte++; /* 32 bits with less code */
            c->got = 0;
        }
        if (!c->got) c->crc = 0;
    }
}

/* Take what has come, up to one frame, and send what is due. Not to be called by callbacks. */
EDGELLM_OWN void edgellm_poll(edgellm *c) {
    EDGELLM_NEAR(c);
    int byte;
    while ((byte = EDGELLM_GET(c)) >= 0) {
        if (!edgellm_receive(c, (uint8_t)byte)) continue;
        uint8_t count = c->count;
        c->count = c->left = 0;
        if (count > 8 && edgellm_crc32(0, c->in + 1, count - 1) == 0x2144DF1C) {
            edgellm_read(c);
            const uint8_t *head = c->in;
            EDGELLM_KEEP(head);
            uint8_t type = head[1], seq = head[2], ack = head[3];
            if (c->sending == EDGELLM_HELLO) edgellm_welcome(c, head[5], ack);
            else if (edgellm_link(c, type, seq, ack)) edgellm_message(c, type);
        } else edgellm_empty_frame(c, EDGELLM_ACK);
        break;
    }
    uint8_t now = (uint8_t)((uint16_t)((uint16_t)EDGELLM_MILLIS() * 2) >> 8);
    if (!c->sending) edgellm_choose(c);
    if ((uint8_t)(now - c->timer) < c->wait) return;
    c->timer = now;
    if (c->wait > 15) {
        edgellm_restart(c);
        return;
    }
    c->wait = (uint8_t)(c->wait * 2 + 2);
    if (c->sending) edgellm_send(c);
    else if (c->asked) edgellm_empty_frame(c, EDGELLM_PING);
    else c->wait = 2;
}

/* ---- What a program calls ---- */

static inline void edgellm_put_source(edgellm *c, uint8_t index, const void *text, uint16_t size) {
    struct edgellm_source *source = c->source + index;
    source->text = (const char *)text;
    source->size = size;
}

static inline void edgellm_start(edgellm *c, const char *name, uint16_t size) {
    edgellm_put_source(c, 1, name, size | EDGELLM_IN_FLASH);
    edgellm_restart(c);
}

/* The length of a name that is a literal; one too long for the first frame doesn't compile. */
#define EDGELLM_NAME_SIZE(name) \
    (sizeof(name) - 1 + 0 * sizeof(char[sizeof(name) <= EDGELLM_MTU - 24 ? 1 : -1]))

#ifdef EDGELLM_NO_TOOLS
#define edgellm_begin(c, name) edgellm_start(c, EDGELLM_FLASH(name), EDGELLM_NAME_SIZE(name))
#else
#define edgellm_begin(c, name, tools, tools_size)                              \
    do {                                                                       \
        edgellm_put_source(c, 3, tools, (tools_size) | EDGELLM_IN_FLASH);      \
        edgellm_start(c, EDGELLM_FLASH(name), EDGELLM_NAME_SIZE(name));        \
    } while (0)
#endif

/* The size of a text in `place`, EDGELLM_IN_FLASH or 0, and this place. */
EDGELLM_OWN uint16_t edgellm_size(const char *text, uint16_t place) {
    uint8_t byte;
    for (;;) {
        EDGELLM_TAKE_FROM(place, byte, text);
        if (!byte) break;
        place++;
    }
    return place;
}

static inline bool edgellm_question(edgellm *c, const char *text, uint16_t place) {
    if (edgellm_busy(c)) return false;
    c->asked = EDGELLM_WAITS;
    c->todo[EDGELLM_ASK] = 1;
    edgellm_put_source(c, 2, text, edgellm_size(text, place));
    return true;
}

static inline bool edgellm_ask(edgellm *c, const char *text) {
    return edgellm_question(c, text, 0);
}

/* `text` lies in flash on AVR: PSTR("..."). */
static inline bool edgellm_ask_P(edgellm *c, const char *text) {
    return edgellm_question(c, text, EDGELLM_IN_FLASH);
}

#if defined ARDUINO && defined __cplusplus
static inline bool edgellm_ask(edgellm *c, const __FlashStringHelper *text) {
    return edgellm_question(c, (const char *)text, EDGELLM_IN_FLASH);
}
#endif

static inline void edgellm_stop(edgellm *c) {
    if (c->asked == EDGELLM_SENT) c->todo[EDGELLM_STOP] = 1;
    else c->asked = c->todo[EDGELLM_ASK] = 0;
}

static inline void edgellm_new(edgellm *c) {
    c->todo[EDGELLM_NEW] = 1;
}

#ifndef EDGELLM_NO_TOOLS
/* Whether the text is the literal. What is read of it ends with a zero byte, which no name has. */
EDGELLM_OWN bool edgellm_same(const struct edgellm_element *text, const char *literal,
                              uint8_t size) {
    const uint8_t *byte = text->start;
    if ((uint8_t)text->value != size) return false;
    do {
        uint8_t wanted;
        EDGELLM_TAKE(wanted, literal);
        if (*byte++ != wanted) return false;
    } while (--size);
    return true;
}
#define edgellm_called(c, function) \
    edgellm_same((c)->element + 1, EDGELLM_FLASH(function), sizeof(function) - 1)

/* Read the argument; whether it is there. */
EDGELLM_OWN bool edgellm_find(edgellm *c, const char *name, uint8_t size) {
    EDGELLM_NEAR(c);
    c->at = c->element[2].start;
    for (uint8_t i = (uint8_t)c->element[2].value; i; i--) {
        edgellm_next(c);
        bool found = edgellm_same(&c->last, name, size);
        edgellm_next(c);
        if (found) return true;
    }
    return false;
}
#define edgellm_argument(c, name) edgellm_find(c, EDGELLM_FLASH(name), sizeof(name) - 1)
#define edgellm_int(c, name, otherwise) \
    (edgellm_argument(c, name) ? (int32_t)(c)->last.value : (int32_t)(otherwise))
#define edgellm_bool(c, name, otherwise) \
    (edgellm_argument(c, name) ? (bool)((c)->last.value & 1) : (bool)(otherwise))

/* Of a number that has a fraction, or hasn't. */
static inline float edgellm_to_float(edgellm *c, uint32_t bits) {
    union {
        uint32_t bits;
        float value;
    } number;
    if (c->tag == 0xCB) { /* 64 bits: drop 29 bits of the fraction; what's too small becomes 0 */
        const uint8_t *byte = c->last.start - 8;
        uint16_t head = (uint16_t)(byte[0] << 8 | byte[1]);
        int16_t exponent = (int16_t)((head >> 4 & 0x7FF) - 1023 + 127);
        uint32_t fraction = (uint32_t)(head & 0x0F) << 19 | (uint32_t)byte[2] << 11 |
                            (uint32_t)byte[3] << 3 | byte[4] >> 5;
        if (exponent <= 0) exponent = 0, fraction = 0;
        if (exponent >= 255) exponent = 255, fraction = 0;
        number.bits = (uint32_t)(head >> 15) << 31 | (uint32_t)exponent << 23 | fraction;
        return number.value;
    }
    number.bits = bits;
    return c->tag == 0xCA ? number.value : (float)(int32_t)bits;
}
#define edgellm_float(c, name, otherwise) \
    (edgellm_argument(c, name) ? edgellm_to_float(c, (c)->last.value) : (otherwise))

/* Its bytes, not ended by a zero byte, and how many there are; NULL if it isn't there. */
static inline const char *edgellm_found(edgellm *c, uint8_t *length) {
    const uint8_t *start = c->last.start;
    *length = c->at > start ? edgellm_span(start, c->at) : 0;
    return (const char *)start;
}
#define edgellm_text(c, name, length) \
    (edgellm_argument(c, name) ? edgellm_found(c, length) \
                               : (*(length) = 0, (const char *)NULL))

/* Give the result of the latest call: a number, or text of so many bytes. */
static inline void edgellm_result(edgellm *c, uint8_t tag, uint32_t bits) {
    c->result_tag = tag;
    c->result = bits;
    c->failed = false;
    c->source[4].size = 0;
    c->todo[EDGELLM_RESULT] = 1;
}
#define edgellm_result_int(c, value) edgellm_result(c, 0xD2, (uint32_t)(int32_t)(value))

static inline void edgellm_result_float(edgellm *c, float value) {
    union {
        float value;
        uint32_t bits;
    } number = {value};
    edgellm_result(c, 0xCA, number.bits);
}

EDGELLM_OWN void edgellm_result_source(edgellm *c, const char *text, uint16_t place) {
    uint16_t size = edgellm_size(text, place);
    edgellm_result(c, 0xDB, size & (EDGELLM_IN_FLASH - 1));
    edgellm_put_source(c, 4, text, size);
}
#define edgellm_result_text(c, text) edgellm_result_source(c, text, 0)

/* The call has failed, for a reason that is a literal. */
#define edgellm_result_error(c, reason) \
    (edgellm_result_source(c, EDGELLM_FLASH(reason), EDGELLM_IN_FLASH), (void)((c)->failed = true))
#endif

#endif
