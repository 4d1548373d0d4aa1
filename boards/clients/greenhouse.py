"""A greenhouse that a language model looks after: a fan, a pump, and a thermometer on a Pico.

Copy it and edgellm.py onto the board, connect GP0 and GP1 to a serial port of the machine that
runs `edgellm serve model.gguf --channel serial:///dev/ttyUSB0`, and run it.
"""

import time

from machine import ADC, PWM, UART, Pin

import edgellm

FAN = PWM(Pin(15), freq=25000, duty_u16=0)
PUMP = Pin(14, Pin.OUT, value=0)
SENSOR = ADC(4)  # the chip's own
TASK = (
    "You look after a greenhouse. Tomatoes grow best from 20 to 28 degrees Celsius. "
    "Read the thermometer, then do what is needed, and say in one sentence what you did."
)


def read_thermometer():
    volts = SENSOR.read_u16() * 3.3 / 65535
    return {"celsius": round(27 - (volts - 0.706) / 0.001721, 1)}


def set_fan(percent):
    FAN.duty_u16(percent * 65535 // 100)
    return {"percent": percent}


def run_pump(seconds):
    PUMP.on()
    time.sleep(seconds)
    PUMP.off()
    return {"litres": seconds * 0.05}


def connect():
    # The buffer holds what comes while a tool runs.
    link = edgellm.Link(UART(0, 115200, tx=Pin(0), rx=Pin(1), rxbuf=2048), "greenhouse")
    link.tool(read_thermometer, "Reads the air temperature in degrees Celsius.")
    percent = {"type": "integer", "minimum": 0, "maximum": 100, "description": "0 is off"}
    link.tool(set_fan, "Sets the speed of the fan that blows hot air out.", {"percent": percent}, 1)
    seconds = {"type": "integer", "minimum": 1, "maximum": 5, "description": "20 s are a litre"}
    link.tool(run_pump, "Waters the plants for some seconds.", {"seconds": seconds}, 1)
    return link


def look_after(link):
    """One look at the greenhouse; returns the seconds until the next."""
    link.new()  # each is a conversation of its own
    try:
        link.ask(TASK, on_text=lambda piece: print(piece, end=""), max_tokens=200)
    except edgellm.LinkError as error:
        print(error)
        return max(error.retry_ms // 1000, 5)
    print()
    return 600


def main():
    link = connect()
    while True:
        until = time.time() + look_after(link)
        while time.time() < until:
            link.poll()
            time.sleep_ms(20)


if __name__ == "__main__":
    main()
