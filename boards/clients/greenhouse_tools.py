"""A simulated greenhouse for `edgellm link URL --tools greenhouse_tools.py`: a fan, a pump and a
thermometer, and a sun that heats it up while you talk.

    edgellm serve --channel unix:///tmp/greenhouse &
    edgellm link unix:///tmp/greenhouse --tools boards/clients/greenhouse_tools.py \\
        -p "set the fan to 40 percent"
"""

import time
from typing import Annotated

OUTSIDE, SUN = 22.0, 14.0  # degrees; how much the sun adds in the end
SECONDS = 60.0  # until it has come 63 % of the way there


class Greenhouse:
    def __init__(self) -> None:
        self.celsius = 31.0
        self.fan = 0  # percent
        self.since = time.monotonic()

    def pass_time(self) -> None:
        now = time.monotonic()
        end = OUTSIDE + SUN * (1 - self.fan / 100)
        share = 2.718281828 ** (-(now - self.since) / SECONDS)
        self.celsius = end + (self.celsius - end) * share
        self.since = now


house = Greenhouse()


def read_thermometer() -> dict[str, float]:
    """Reads the temperature of the air in the greenhouse."""
    house.pass_time()
    return {"celsius": round(house.celsius, 1)}


def set_fan(percent: Annotated[int, 0, 100, "0 is off"]) -> dict[str, int]:
    """Sets the speed of the fan that blows warm air out of the greenhouse."""
    house.pass_time()
    house.fan = percent
    return {"percent": percent}


def run_pump(seconds: Annotated[int, 1, 5, "20 seconds are a litre"]) -> dict[str, float]:
    """Waters the plants for some seconds."""
    time.sleep(seconds)
    return {"litres": seconds * 0.05}
