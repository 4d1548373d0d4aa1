"""Abilities that do something once: dispense, water, move, say, play, take a picture, …"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from edgellm.training.devices import phrases, words
from edgellm.training.devices.ability import Ability, Use, declared
from edgellm.training.devices.arguments import Choice, Phrase, number

TEXTS = (
    "hello", "hello world", "dinner is ready", "good morning", "welcome home", "the door is open",
    "come here", "time to go", "water is boiling", "happy birthday", "back at five",
    "the mail is here",
    "mind the step", "out of order", "please wait", "no entry", "all clear", "call grandma",
)  # fmt: skip
TITLES = (
    "jazz", "beethoven", "the news", "white noise", "abbey road", "summer hits", "rain sounds",
    "bach",
    "techno", "bolero", "kind of blue", "lullaby", "radio one", "polka", "the four seasons",
)  # fmt: skip
FILES = (
    "cube",
    "boat",
    "vase_2",
    "bracket",
    "gear",
    "hook",
    "lid_v3",
    "knob",
    "benchy",
    "case_top",
)


def dispensing(thing: str, rng: Random) -> list[Ability]:
    """Gives an amount of something."""
    what = rng.choice(("water", "food", "fertilizer", "coffee", "soap", "oil", "paint", "beer",
                       "feed",
                       "chlorine", "milk", "glue", "seeds", "syrup", "salt"))  # fmt: skip
    verb = rng.choice(("dispense", "dose", "pump", "pour", "feed", "add"))
    free = number(rng.choice(("ml", "grams", "litres", "count", "ml", "seconds")), rng)
    tool = declared(
        rng, thing,
        (f"{verb}_{what}", f"{verb}_{what}", f"{verb}", f"{{t}}_{verb}", f"give_{what}"),
        (f"{verb.title()}s {what}", f"{verb.title()}s some {what}", f"Gives {what} from the {{t}}",
         f"Lets the {{t}} {verb} {what}"),
        {free.name: free.schema()},
    )  # fmt: skip
    ways = (
        "{d} {v} of {n}", "{d} {v} {n}", "give me {v} of {n}", "i need {v} of {n}", "{v} of {n}",
        "{v} {n}", "{n}, {v}", "let me have {v} of {n}", "{d} {n}, {v}", "add {v} of {n}",
        "put in {v} of {n}",
        "{t} {v}", "{d} {v}",
    )  # fmt: skip
    unseen = ("i could do with {v} of {n}", "spare me {v} of {n}")
    lacking = ("{d} {n}", "{d} some {n}", "i need {n}", "{n} please", "give me some {n}")

    def about(some: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(way.replace("{d}", verb).replace("{n}", what) for way in some)

    use = Use(about(ways), about(unseen), about(lacking))
    return [Ability("dispensing " + what, thing, tool, (use,), (free,))]


def watering(thing: str, rng: Random) -> list[Ability]:
    """Waters one of several plants for some time."""
    plants = tuple(rng.sample(words.PLANTS, rng.randint(2, 4)))
    zone = Choice(rng.choice(("zone", "bed", "plants", "valve", "area")), plants)
    free = number(rng.choice(("minutes", "minutes", "seconds", "litres")), rng)
    tool = declared(
        rng, "",
        ("water_zone", "water", "irrigate", "open_valve", "water_plants", "start_watering"),
        ("Waters one zone", "Waters a bed", "Opens the water for some plants",
         "Irrigates the plants"),
        {zone.name: zone.schema(), free.name: free.schema()},
    )  # fmt: skip
    use = Use(
        ("water the {v} for {w}", "water the {v} with {w}", "give the {v} {w}",
         "the {v} need {w} of water",
         "{w} of water for the {v}", "irrigate the {v} for {w}", "the {v}, {w}", "{w} on the {v}",
         "let the {v} have {w} of water", "run water on the {v} for {w}"),
        ("the {v} look thirsty, {w} please", "soak the {v} for {w}"),
        ("water something for {w}", "start watering for {w}", "water for {w}"),
    )  # fmt: skip
    return [Ability("watering", "", tool, (use,), (zone, free))]


def moving(thing: str, rng: Random) -> list[Ability]:
    """Moves by a distance in a direction, or to two coordinates."""
    if rng.random() < 0.5:
        ways = rng.choice(
            (("left", "right"), ("up", "down"), ("forward", "back"), ("left", "right", "up"))
        )
        way = Choice(rng.choice(("direction", "axis", "way")), ways)
        free = number(rng.choice(("mm", "angle", "count", "seconds")), rng)
        tool = declared(
            rng, thing, ("move_{t}", "move", "drive", "{t}_move", "step", "jog_{t}"),
            ("Moves the {t}", "Drives the {t} in a direction", "Moves the {t} by a distance"),
            {way.name: way.schema(), free.name: free.schema()},
        )  # fmt: skip
        use = Use(
            ("move {t} {v} by {w}", "move {t} {w} {v}", "{w} {v}", "go {v} {w}", "move {v} {w}",
             "drive {t} {v} for {w}", "{v} {w}", "{t} {w} to the {v}", "go {w} {v}",
             "push {t} {v} by {w}"),
            ("nudge {t} {v} by {w}", "a bit of {v}, say {w}"),
            ("move {t} {w}", "move {t} by {w}", "drive {w}"),
        )  # fmt: skip
        return [Ability("moving", thing, tool, (use,), (way, free))]
    first, second = number("mm", rng), number("mm", rng)
    names = rng.choice(
        (("x", "y"), ("x", "z"), ("pan", "tilt"), ("low", "high"), ("left", "right"))
    )
    one = replace(first, name=names[0])
    two = replace(second, name=names[1])
    verb = "Keeps the {t} between two values" if names[0] == "low" else "Moves the {t} to a place"
    tool = declared(
        rng, thing, ("move_{t}", "{t}_to", "set_{t}_position", "goto") if names[0] != "low"
        else ("set_{t}_limits", "{t}_range", "set_limits"),
        (verb,), {one.name: one.schema(), two.name: two.schema()},
    )  # fmt: skip
    use = Use(
        (f"move {{t}} to {names[0]} {{v}} {names[1]} {{w}}", f"{names[0]} {{v}}, {names[1]} {{w}}",
         "move {t} to {v} and {w}", "{t} to {v}, {w}", "set {t} to {v} and {w}",
         f"set {names[0]} to {{v}} and {names[1]} to {{w}}", "go to {v} {w}",
         "{t} from {v} to {w}"),
        (f"take {{t}} to {{v}} in {names[0]} and {{w}} in {names[1]}",),
        (f"move {{t}} to {names[1]} {{w}}", f"set {names[1]} to {{w}}"),
    )  # fmt: skip
    return [Ability("moving", thing, tool, (use,), (one, two))]


def saying(thing: str, rng: Random) -> list[Ability]:
    """Says, shows, plays or prints something that is named."""
    kind = rng.choice(("say", "show", "play", "print", "name"))
    texts, argument, names, does, ways, unseen, lacking = {
        "say": (
            TEXTS, ("text", "message", "words"), ("say", "speak", "announce", "{t}_say"),
            ("Says a text", "Speaks words aloud", "Announces a message over the {t}"),
            ("say {v}", "announce {v}", "tell them {v}", "say the words {v}", "let {t} say {v}",
             "speak {v}"),
            ("shout {v}", "pass on {v}"), ("say something", "make an announcement", "announce it"),
        ),
        "show": (
            TEXTS, ("text", "message", "line"), ("show_text", "display", "write_{t}", "show",
                                                 "set_text"),
            ("Shows a text on the {t}", "Displays a message", "Writes a line on the {t}"),
            ("show {v}", "display {v}", "write {v} on {t}", "show the text {v}", "put {v} on {t}",
             "print {v} on {t}", "the display should say {v}"),
            ("let {t} read {v}",), ("show a text", "write something on {t}", "display a message"),
        ),
        "play": (
            TITLES, ("title", "song", "name", "playlist"), ("play", "play_music", "{t}_play",
                                                            "play_title"),
            ("Plays music", "Plays a title", "Plays a song on the {t}"),
            ("play {v}", "put on {v}", "i want to hear {v}", "play some {v}", "start {v}",
             "play {v} on {t}"),
            ("how about {v}", "get {v} on"), ("play something", "play music", "put on some music"),
        ),
        "print": (
            FILES, ("file", "name", "job"), ("print_file", "start_print", "print", "load_file",
                                             "run_job"),
            ("Prints a file", "Starts a job", "Loads a file and starts it"),
            ("print {v}", "start printing {v}", "print the file {v}", "run {v}",
             "start the job {v}"),
            ("make me {v}", "i'd like a {v}"), ("print something", "start a print", "print a file"),
        ),
        "name": (
            phrases.NAMES, ("name", "person", "contact"), ("call", "notify", "page", "send_to"),
            ("Calls a person", "Notifies somebody", "Sends a notice to a person"),
            ("call {v}", "notify {v}", "ring {v}", "let {v} know", "tell {v}",
             "send a notice to {v}"),
            ("get hold of {v}",), ("call somebody", "notify someone", "make a call"),
        ),
    }[kind]  # fmt: skip
    free = Phrase(rng.choice(argument), texts)
    tool = declared(rng, thing, names, does, {free.name: free.schema()})
    return [Ability(kind, thing, tool, (Use(ways, unseen, lacking),), (free,))]


ACTS: tuple[tuple[tuple[str, ...], str, tuple[str, ...], tuple[str, ...]], ...] = (
    (("take_photo", "{t}_snapshot", "take_picture"), "Takes a picture",
     ("take a picture", "take a photo", "snap a picture", "photo please", "make a photo with {t}"),
     ("shoot one", "get me a picture")),
    (("home", "{t}_home", "go_home"), "Moves the {t} to its home position",
     ("home {t}", "go home", "send {t} home", "move {t} home", "return {t} to home"),
     ("bring {t} home",)),
    (("calibrate", "calibrate_{t}"), "Calibrates the {t}",
     ("calibrate {t}", "calibrate", "run a calibration of {t}", "do a calibration"),
     ("get {t} calibrated",)),
    (("reset", "reset_{t}", "{t}_reset"), "Resets the {t}",
     ("reset {t}", "reset", "do a reset of {t}", "reset everything on {t}"), ("start {t} over",)),
    (("reboot", "restart_{t}", "restart"), "Restarts the {t}",
     ("restart {t}", "reboot {t}", "reboot", "restart"), ("give {t} a reboot",)),
    (("pause", "pause_{t}", "{t}_pause"), "Pauses the {t}",
     ("pause {t}", "pause", "hold {t}", "pause for now", "take a break with {t}"), ("freeze {t}",)),
    (("resume", "resume_{t}", "continue_{t}"), "Resumes the {t}",
     ("resume {t}", "continue", "go on with {t}", "resume", "continue {t}"),
     ("carry on with {t}",)),
    (("emergency_stop", "stop_all", "stop_everything", "abort"), "Stops everything at once",
     ("stop everything", "emergency stop", "stop it all", "abort", "stop all"),
     ("halt, all of it",)),
    (("next_track", "next", "skip"), "Goes to the next title",
     ("next", "skip this", "next track", "next song", "play the next one"),
     ("another one please",)),
    (("ring", "ring_bell", "beep", "{t}_beep"), "Rings the bell",
     ("ring the bell", "ring", "beep", "make a sound", "ring it"), ("sound the bell",)),
    (("rinse", "clean_{t}", "flush_{t}"), "Cleans the {t}",
     ("clean {t}", "rinse {t}", "flush {t}", "run the cleaning of {t}"), ("give {t} a wash",)),
    (("feed_now", "feed", "feed_{t}"), "Feeds the animals once",
     ("feed them", "give them food", "feed the animals", "feed now", "time to feed"),
     ("dinner for them",)),
    (("park", "park_{t}"), "Parks the {t}",
     ("park {t}", "park", "put {t} in its park position"), ("tuck {t} away",)),
    (("dock", "return_to_base", "dock_{t}"), "Sends the {t} to its dock",
     ("dock {t}", "go back to the dock", "send {t} back to base", "return to base", "charge {t}"),
     ("get {t} back to its base",)),
    (("find", "locate_{t}", "blink"), "Blinks so that the {t} is found",
     ("blink", "where are you, blink", "locate {t}", "find {t}"), ("give a sign, {t}",)),
    (("all_off", "lights_out"), "Switches everything off",
     ("turn everything off", "all off", "switch everything off", "everything off"),
     ("kill all of it",)),
    (("tare", "tare_{t}", "zero_{t}"), "Sets the {t} to zero",
     ("tare {t}", "zero {t}", "tare", "set {t} to zero"), ("null {t}",)),
    (("arm_alarm", "arm", "arm_{t}"), "Arms the alarm", ("arm the alarm", "arm {t}", "alarm on"),
     ("set the alarm sharp",)),
    (("disarm", "disarm_alarm", "disarm_{t}"), "Disarms the alarm",
     ("disarm the alarm", "disarm {t}", "alarm off"), ("no alarm any more",)),
)  # fmt: skip


def acting(thing: str, rng: Random) -> list[Ability]:
    """Does one thing that needs no argument."""
    names, does, ways, unseen = rng.choice(ACTS)
    tool = declared(rng, thing, names, (does,))
    return [Ability("acting " + does, thing, tool, (Use(ways, unseen),))]


def inventing(thing: str, rng: Random) -> list[Ability]:
    """Does what nobody has heard of: only its words tell which tool is meant."""
    verb = words.invented(rng)
    free = number(rng.choice(("count", "level", "number", "percent")), rng)
    with_number = rng.random() < 0.5
    tool = declared(
        rng, thing, (f"{verb}_{{t}}", verb, f"do_{verb}", f"{{t}}_{verb}"),
        (f"{verb.title()} the {{t}}", f"Does the {verb} of the {{t}}", f"{verb} with the {{t}}"),
        {free.name: free.schema()} if with_number else {},
    )  # fmt: skip
    ways: tuple[str, ...]
    lacking: tuple[str, ...] = ()
    if with_number:
        ways = (
            f"{verb} {{t}} {{v}}",
            f"{verb} {{t}} with {{v}}",
            f"{verb} {{v}}",
            f"do a {verb} of {{v}}",
        )
        lacking = (f"{verb} {{t}}", f"{verb}", f"do a {verb}")
    else:
        ways = (f"{verb} {{t}}", verb, f"do a {verb}", f"please {verb} {{t}}")
    use = Use(
        ways, (f"let's {verb} {{t}} {{v}}" if with_number else f"let's {verb} {{t}}",), lacking
    )
    return [Ability("inventing " + verb, thing, tool, (use,), (free,) if with_number else ())]
