// A greenhouse: a model reads the thermometer, and decides about the fan and the pump.
//
// For an Arduino Uno, whose USB line goes to the computer where edgellm runs:
//   A0  a TMP36 thermometer (10 mV for each degree, 500 mV at 0 degrees Celsius)
//   9   a fan's transistor, by pulse width
//   8   a pump's relay
//   13  the built-in light: a question is under way
//
// Put edgellm.h, greenhouse.ino and tools.h into one folder. tools.h is made from tools.json:
//   python tools_to_c.py greenhouse/tools.json > greenhouse/tools.h

#include "edgellm.h"
#include "tools.h"

const uint8_t FAN = 9, PUMP = 8, LIGHT = 13;
const uint32_t MINUTE = 60000;

static edgellm client;
static uint32_t asked, watering, watering_for;

static int tenths_of_degrees() {
    return (int)((analogRead(A0) * 5000L / 1024 - 500));
}

static void set_fan(int32_t percent) {
    analogWrite(FAN, (int)(constrain(percent, 0, 100) * 255 / 100));
}

void edgellm_on_text(edgellm *c, uint16_t offset, const char *text, uint8_t length) {
    // Here a display would show the piece; at offset 0 it would be cleared first.
}

void edgellm_on_done(edgellm *c, const char *reason) {}

void edgellm_on_error(edgellm *c, const char *code, const char *text, uint32_t retry_ms) {
    set_fan(100);  // without advice, rather too cool
}

// The schema in tools.json has its bounds checked before a call gets here; a pump deserves a second
// look all the same.
void edgellm_on_call(edgellm *c) {
    if (edgellm_called(c, "thermometer")) {
        edgellm_result_int(c, tenths_of_degrees());
    } else if (edgellm_called(c, "fan")) {
        set_fan(edgellm_int(c, "speed", 0));
        edgellm_result_int(c, 0);
    } else if (edgellm_called(c, "pump")) {
        int32_t seconds = edgellm_int(c, "seconds", 0);
        if (seconds < 1 || seconds > 30) {
            edgellm_result_error(c, "the pump runs for 1 to 30 seconds");
            return;
        }
        watering = millis();
        watering_for = seconds * 1000;
        digitalWrite(PUMP, HIGH);
        edgellm_result_int(c, seconds);
    } else {
        edgellm_result_error(c, "there is no such function");
    }
}

void setup() {
    pinMode(FAN, OUTPUT);
    pinMode(PUMP, OUTPUT);
    pinMode(LIGHT, OUTPUT);
    Serial.begin(115200);
    edgellm_begin(&client, "greenhouse", tools, sizeof tools);
    asked = millis() - 10 * MINUTE;
}

void loop() {
    edgellm_poll(&client);
    digitalWrite(LIGHT, edgellm_busy(&client));
    if (watering_for && millis() - watering >= watering_for) {
        digitalWrite(PUMP, LOW);
        watering_for = 0;
    }
    if (millis() - asked >= 10 * MINUTE &&
        edgellm_ask(&client, F("Read the thermometer. Set the fan so that the plants have 18 to 24 "
                               "degrees Celsius. Water them for 5 seconds if it is above 30."))) {
        asked = millis();
    }
}
