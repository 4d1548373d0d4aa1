"""The words that lessons are made of: devices by what can be done with them, places, plants."""

from __future__ import annotations

from random import Random

SWITCHED = (
    "lamp", "light", "fan", "heater", "radio", "television", "tv", "kettle", "coffee machine",
    "toaster", "oven", "stove", "air conditioner", "humidifier", "dehumidifier", "speaker",
    "projector", "alarm", "doorbell", "router", "printer", "computer", "socket", "floor lamp",
    "desk lamp", "ceiling light", "night light", "reading lamp", "chandelier", "spotlight",
    "lantern", "string of lights", "fairy lights", "lights", "lamps", "electric blanket",
    "towel rail", "boiler", "radiator", "heating", "extractor fan", "hood", "freezer", "fridge",
    "pump", "fountain", "sprinkler", "sprinklers", "pond pump", "grow light", "grow lights",
    "flood light", "floodlights", "security camera", "camera", "motion sensor", "soldering iron",
    "dust extractor", "work light", "workbench light", "compressor", "glue gun", "hot plate",
    "charger", "battery charger", "laser", "welder", "amplifier", "hair dryer", "iron", "music",
    "power", "siren", "beacon", "mixer", "blender", "microwave", "porch light", "water heater",
)  # fmt: skip

OPENED = (
    "door", "garage door", "blinds", "curtains", "curtain", "window", "windows", "gate", "valve",
    "shutters", "shutter", "skylight", "awning", "vent", "vents", "roof hatch", "front door",
    "back door", "cellar door", "greenhouse roof", "greenhouse window", "garden gate", "tap",
    "water valve", "gas valve", "damper", "hatch", "barrier", "sluice", "cold frame", "clamp",
    "roller blind", "drawer", "lid", "chicken coop", "cat flap", "driveway gate", "air vent",
)  # fmt: skip

STARTED = (
    "washing machine", "dishwasher", "dryer", "vacuum cleaner", "robot vacuum", "lawn mower",
    "robot mower", "mower", "pump", "drill press", "drill", "lathe", "band saw", "table saw",
    "circular saw", "mill", "milling machine", "grinder", "bench grinder", "sander", "belt sander",
    "planer", "conveyor", "conveyor belt", "printer", "3d printer", "laser cutter", "engraver",
    "compressor", "generator", "motor", "mixer", "irrigation", "sprinkler", "drip irrigation",
    "water pump", "fan", "saw", "robot", "shredder", "wood chipper", "cement mixer", "kiln",
    "coffee machine", "bread maker", "engine", "tumble dryer", "scroll saw", "polisher", "crane",
)  # fmt: skip

PLANTS = (
    "tomatoes", "roses", "lawn", "grass", "flowers", "plants", "herbs", "basil", "carrots",
    "lettuce", "beans", "strawberries", "cucumbers", "hedge", "trees", "apple tree", "lavender",
    "orchid", "orchids", "cactus", "ferns", "flower bed", "vegetable bed", "raised bed", "pumpkins",
    "potatoes", "peppers", "seedlings", "pots", "mint", "parsley", "tulips", "raspberries",
    "rose bed", "balcony plants", "peas", "onions", "spinach", "garden", "vegetables",
)  # fmt: skip

PLACES = (
    "kitchen", "bedroom", "living room", "bathroom", "hall", "hallway", "garage", "cellar",
    "basement", "attic", "office", "study", "garden", "greenhouse", "workshop", "shed", "balcony",
    "terrace", "porch", "dining room", "nursery", "guest room", "laundry room", "pantry",
    "driveway", "yard", "entrance", "corridor", "library", "stable", "barn", "pool", "patio",
    "children's room", "kid's room", "toilet", "upstairs", "downstairs", "backyard", "lab",
    "storage room", "front yard", "loft", "sauna",
)  # fmt: skip

ADJECTIVES = (
    "left", "right", "big", "small", "front", "back", "upper", "lower", "old", "new", "red",
    "blue", "green", "white", "black", "main", "second", "first", "other", "outside", "inside",
    "north", "south", "east", "west", "little", "top", "bottom", "spare", "yellow", "wooden",
)  # fmt: skip

# Ordinary nouns that are no devices: with made-up words, they teach copying what was said.
NOUNS = (
    "anchor", "anvil", "apron", "arrow", "badger", "banjo", "barrel", "basket", "beetle", "bell",
    "bench", "boat", "bottle", "bowl", "bridge", "bucket", "button", "cabin", "candle", "canoe",
    "carpet", "castle", "chain", "chair", "clock", "cloud", "comet", "copper", "cradle", "crystal",
    "dolphin", "dragon", "drum", "eagle", "easel", "falcon", "feather", "ferry", "fiddle", "flute",
    "forge", "fossil", "gadget", "gizmo", "glider", "goblet", "hammer", "harp", "hive", "hook",
    "jacket", "jungle", "kayak", "kite", "ladder", "lever", "magnet", "marble", "meadow", "mirror",
    "monkey", "needle", "nozzle", "orbit", "organ", "otter", "paddle", "panel", "parrot", "pedal",
    "pencil", "pepper mill", "piano", "pillar", "pillow", "piston", "planet", "pulley", "puppet",
    "quill", "rabbit", "raft", "relay", "ribbon", "rocket", "rope", "rotor", "saddle", "sail",
    "scale", "scanner", "screw", "shelf", "shovel", "sledge", "spade", "spider", "spring", "stereo",
    "stone", "switch", "table", "telescope", "tent", "thing", "tiger", "tower", "tractor", "train",
    "trolley", "tunnel", "turbine", "unit", "vase", "violin", "wagon", "walnut", "wheel", "whistle",
    "widget", "windmill", "winch", "yoke", "zebra", "elevator", "hoist", "machine", "device",
    "accordion", "antenna", "axle", "bagpipe", "balloon", "bamboo", "battery", "bicycle pump",
    "bobbin", "boiler room", "bonfire", "bread slicer", "bubble bath", "buzzer", "cable", "caravan",
    "carousel", "cartridge", "chisel", "clarinet", "coil", "compass", "cooler", "crossbow",
    "cupola",
    "cutter", "cymbal", "dehydrator", "disco ball", "dome", "drone", "ejector", "excavator",
    "feeder", "filter", "flap", "flashlight", "foundry", "furnace", "gearbox", "glove box", "gong",
    "guitar", "gutter", "harness", "heat gun", "hot tub", "hydrant", "igloo", "inverter", "jack",
    "jukebox", "keyboard", "lighthouse", "locker", "loom", "massage chair", "megaton", "metronome",
    "monitor", "mousetrap", "nail gun", "nightstand", "oboe", "pantograph", "periscope",
    "pizza oven",
    "plotter", "portal", "press", "propeller", "purifier", "rail", "recorder", "reel", "rig",
    "rolling pin",
    "sailboat", "sawmill", "scooter", "seesaw", "sensor", "shaker", "shower", "sink", "skate",
    "slicer",
    "smelter", "snow blower", "solar panel", "spinner", "steamer", "stirrer", "stretcher", "swing",
    "synthesizer", "tank", "tap dancer", "tiller", "toilet seat", "trampoline", "tripod", "trumpet",
    "typewriter", "ukulele", "umbrella", "vaporizer", "ventilator", "walkie talkie",
    "warmer", "washer", "water mill", "weather vane", "wedge", "whirlpool", "wind chime",
    "xylophone",
)  # fmt: skip

_ONSETS = (
    "b", "bl", "br", "c", "ch", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kr",
    "l", "m", "n", "p", "pl", "pr", "qu", "r", "s", "sh", "sk", "st", "t", "tr", "v", "w", "z",
)  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "oo", "ou")
_CODAS = (
    "", "", "b", "ck", "d", "g", "l", "ll", "m", "mp", "n", "nd", "nk", "p", "r", "rt", "t",
    "x",
)  # fmt: skip


_SOURCES = (*SWITCHED, *OPENED, *STARTED, *PLANTS, *PLACES, *ADJECTIVES, *NOUNS)


def invented(rng: Random) -> str:
    """A word that is in no dictionary: of one to three syllables, or spliced from two real words,
    for those are cut into other pieces."""
    if rng.random() < 0.5:
        head, tail = (rng.choice(_SOURCES).split()[-1] for _ in range(2))
        return head[: rng.randint(2, 5)] + tail[-rng.randint(2, 5) :]
    syllables = rng.choice((1, 2, 2, 2, 3))
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)]
    return "".join(parts) + rng.choice(_CODAS)
