/* As much of Arduino's core as the example needs, to see that it compiles: of C++11, with flash in
 * an address space of its own. */
#pragma once
#include <avr/pgmspace.h>
#include <stddef.h>
#include <stdint.h>

#define A0 14
#define LOW 0
#define HIGH 1
#define OUTPUT 1
#define constrain(value, low, high) \
    ((value) < (low) ? (low) : ((value) > (high) ? (high) : (value)))

class __FlashStringHelper;
#define F(literal) (reinterpret_cast<const __FlashStringHelper *>(PSTR(literal)))

struct HardwareSerial {
    void begin(unsigned long baud);
    int read();
    size_t write(uint8_t byte);
};
extern HardwareSerial Serial;

unsigned long millis();
int analogRead(uint8_t pin);
void analogWrite(uint8_t pin, int value);
void digitalWrite(uint8_t pin, uint8_t value);
void pinMode(uint8_t pin, uint8_t mode);
