"""What can be done with a thing: how people ask for it, and the state it leads to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Action:
    kind: str
    """Which nouns fit: a key of `things.KINDS`."""
    verb: str
    """Infinitive, "turn on"; also the state's cause in "Shall I turn on the lamp?"."""
    state: str
    """ "on", or for `doing` actions the participle, "watering"."""
    asks: tuple[str, ...]
    """Ways to ask; `{x}` is the thing."""
    unseen: tuple[str, ...] = ()
    """Ways to ask that are held out for evaluation."""
    opposite: str = ""
    doing: bool = False
    """The answer is "watering the roses" and not "the roses are …"."""


ACTIONS = {
    "on": Action(
        "switched", "turn on", "on",
        ("turn on {x}", "turn on {x}", "turn {x} on", "switch on {x}", "switch {x} on",
         "put {x} on", "put on {x}", "{x} on", "power on {x}", "power up {x}", "activate {x}",
         "i want {x} on", "i need {x} on", "i'd like {x} on", "enable {x}", "set {x} to on",
         "turn {x} back on", "i want {x} to be on", "light up {x}", "get {x} on", "on with {x}"),
        ("flip {x} on", "i want to have {x} on", "{x} should be on"), "off",
    ),
    "off": Action(
        "switched", "turn off", "off",
        ("turn off {x}", "turn off {x}", "turn {x} off", "switch off {x}", "switch {x} off",
         "put {x} off", "{x} off", "power off {x}", "power down {x}", "deactivate {x}",
         "shut off {x}", "shut {x} off", "i want {x} off", "disable {x}", "kill {x}",
         "set {x} to off", "turn {x} back off", "i want {x} to be off", "cut {x}", "off with {x}",
         "put out {x}", "i don't need {x} any more", "turn down {x} completely"),
        ("flip {x} off", "i'd like {x} off", "{x} should be off"), "on",
    ),
    "open": Action(
        "opened", "open", "open",
        ("open {x}", "open {x}", "open up {x}", "{x} open", "i want {x} open", "get {x} open",
         "pull {x} open", "unshut {x}", "i'd like {x} open", "make {x} open", "slide {x} open"),
        ("i need {x} open", "have {x} opened"), "close",
    ),
    "close": Action(
        "opened", "close", "closed",
        ("close {x}", "close {x}", "shut {x}", "{x} closed", "i want {x} closed", "close up {x}",
         "pull {x} shut", "i'd like {x} closed", "get {x} closed", "close {x} up", "seal {x}"),
        ("i need {x} closed", "have {x} shut"), "open",
    ),
    "start": Action(
        "started", "start", "running",
        ("start {x}", "start {x}", "start up {x}", "run {x}", "start {x} up", "launch {x}",
         "get {x} running", "let {x} run", "fire up {x}", "begin {x}", "i want {x} running",
         "make {x} run", "set {x} going", "get {x} started", "kick off {x}"),
        ("have {x} running", "{x} should run", "spin up {x}"), "stop",
    ),
    "stop": Action(
        "started", "stop", "stopped",
        ("stop {x}", "stop {x}", "halt {x}", "end {x}", "make {x} stop", "stop {x} at once",
         "bring {x} to a stop", "i want {x} stopped", "cancel {x}", "interrupt {x}", "{x} stop"),
        ("have {x} stopped", "get {x} to stop"), "start",
    ),
    "pause": Action("started", "pause", "paused",
                    ("pause {x}", "put {x} on hold", "hold {x}", "suspend {x}"), (), "start"),
    "restart": Action("started", "restart", "restarting",
                      ("restart {x}", "reboot {x}", "reset {x}",
                       "turn {x} off and on again"), (), "stop"),
    "lock": Action(
        "locked", "lock", "locked",
        ("lock {x}", "lock {x}", "lock up {x}", "bolt {x}", "i want {x} locked",
         "make sure {x} is locked"),
        ("have {x} locked",), "unlock",
    ),
    "unlock": Action(
        "locked", "unlock", "unlocked",
        ("unlock {x}", "unlock {x}", "unbolt {x}", "i want {x} unlocked"),
        ("have {x} unlocked",), "lock",
    ),
    "raise": Action("opened", "raise", "raised",
                    ("raise {x}", "lift {x}", "pull up {x}", "move {x} up",
                     "roll up {x}"), (), "lower"),
    "lower": Action("opened", "lower", "lowered",
                    ("lower {x}", "let down {x}", "pull down {x}", "move {x} down",
                     "roll down {x}"), (), "raise"),
    "dim": Action("switched", "dim", "dimmed",
                  ("dim {x}", "make {x} darker",
                   "make {x} less bright"), ("{x} a bit darker",), "brighten"),
    "brighten": Action("switched", "brighten", "brighter",
                       ("brighten {x}", "make {x} brighter", "make {x} a bit brighter"), (), "dim"),
    "up": Action("settable", "turn up", "turned up",
                 ("turn up {x}", "turn {x} up", "turn {x} up a bit", "increase {x}",
                  "more {x}"), (), "down"),
    "down": Action("settable", "turn down", "turned down",
                   ("turn down {x}", "turn {x} down", "turn {x} down a little", "decrease {x}",
                    "reduce {x}",
                    "less {x}"), (), "up"),
    "water": Action(
        "plants", "water", "watering",
        ("water {x}", "water {x}", "give {x} some water", "irrigate {x}", "give water to {x}",
         "sprinkle {x}", "i want {x} watered", "{x} needs water", "start watering {x}"),
        ("have {x} watered", "pour some water on {x}"), "", True,
    ),
    "mow": Action("plants", "mow", "mowing", ("mow {x}", "cut {x}", "trim {x}"), (), "", True),
    "feed": Action("plants", "feed", "feeding", ("feed {x}", "give food to {x}"), (), "", True),
    "clean": Action("opened", "clean", "cleaning", ("clean {x}", "clean up {x}",
                                                    "wash {x}"), (), "", True),
    "vacuum": Action("locked", "vacuum", "vacuuming", ("vacuum {x}", "hoover {x}"), (), "", True),
    "heat": Action("locked", "heat", "heating", ("heat {x}", "heat up {x}", "warm up {x}",
                                                 "warm {x}"), (), "", True),
    "cool": Action("locked", "cool", "cooling", ("cool {x}", "cool down {x}"), (), "", True),
    "air": Action("locked", "air", "airing", ("air {x}", "ventilate {x}"), (), "", True),
    "charge": Action("started", "charge", "charging", ("charge {x}", "recharge {x}"), (), "", True),
    "fill": Action("opened", "fill", "filling", ("fill {x}", "fill up {x}"), (), "", True),
    "drain": Action("opened", "drain", "draining", ("drain {x}", "empty {x}"), (), "", True),
}  # fmt: skip

COMMON = ("on", "off", "on", "off", "on", "off", "open", "close", "open", "close", "start", "stop",
          "start", "stop", "lock", "unlock", "water", "water")  # fmt: skip
"""The actions of most commands; the others come by a smaller chance."""
