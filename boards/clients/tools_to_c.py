"""Write a device's tools, a list of objects in a JSON file, as the C array that edgellm.h sends.

    python tools_to_c.py tools.json > tools.h

Each tool has a name, a description, parameters (the JSON Schema of an object) and, if it does
something that should be thought about, a danger: 0 (the default), 1 or 2.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import msgpack

HEAD = """/* Made by tools_to_c.py from {source}: change that, and make this anew. */
static const uint8_t tools[] PROGMEM = {{
{bytes}
}};
"""


def to_c(tools: list[dict[str, Any]], source: str) -> str:
    """The header; `source` is named in its comment."""
    elements = [
        [tool["name"], tool["description"], tool["parameters"], tool.get("danger", 0)]
        for tool in tools
    ]
    packed = msgpack.packb(elements)
    lines = [packed[at : at + 16] for at in range(0, len(packed), 16)]
    return HEAD.format(
        source=source,
        bytes="\n".join("    " + " ".join(f"0x{byte:02X}," for byte in line) for line in lines),
    )


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        tools = json.load(file)
    sys.stdout.write(to_c(tools, sys.argv[1]))


if __name__ == "__main__":
    main()
