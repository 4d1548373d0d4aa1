"""Scenes of lessons: what people ask, from a plain command to what no tool can do."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from edgellm.training.devices import phrases, words
from edgellm.training.devices.ability import FIELDS, Ability
from edgellm.training.devices.arguments import Choice, Number, Phrase
from edgellm.training.devices.device import abilities, noun
from edgellm.training.devices.lesson import Call, Lesson, report
from edgellm.training.devices.noise import mistype_around

REFUSAL = "None of my tools can do that."
LISTS = "I can call "
NO_TOOLS = "I see no tools."


def request(c: Lesson, ability: Ability) -> tuple[str, Call] | None:
    """A sentence that asks for an ability, and the call that is right."""
    rng = c.rng
    index = rng.randrange(len(ability.uses))
    use = ability.uses[index]
    way = c.way(ability, use.unseen if c.held.phrasings else use.asks)
    if way is None:
        return None
    way, given = _filled(way, ability, rng)
    arguments = {**use.fixed, **given}
    text = way.replace("{t}", c.thing(ability.thing))
    if ability.optional and rng.random() < 0.5:
        value, said = ability.optional.draw(rng)
        if value:
            arguments[ability.optional.name] = value
            text += f" for {said}"
    return text, c.called(ability, index, arguments)


def _filled(way: str, ability: Ability, rng: Random) -> tuple[str, dict[str, object]]:
    """A way to ask with values in it, and these by their arguments."""
    given = {}
    for argument, field in zip(ability.free, FIELDS, strict=False):
        if field in way:
            given[argument.name], said = argument.draw(rng)
            way = way.replace(field, said)
    return way, given


def command(c: Lesson) -> None:
    ability = c.rng.choice(c.device.abilities)
    if asked := request(c, ability):
        text, call = asked
        c.say(c.politely(text), report(ability, call), call)


def reading(c: Lesson) -> None:
    sensors = [ability for ability in c.device.abilities if ability.quantity]
    if sensors and (asked := request(c, c.rng.choice(sensors))):
        c.say(asked[0], report(c.last[0] if c.last else sensors[0], asked[1]), asked[1])


def two(c: Lesson) -> None:
    """Two commands in one sentence."""
    if len(c.device.abilities) < 2:
        return
    first, second = c.rng.sample(c.device.abilities, 2)
    if first.quantity or second.quantity or _clash(first, second):
        return
    one, other = request(c, first), request(c, second)
    if not one or not other:
        return
    joint = c.rng.choice((" and ", " and ", " and then ", ", ", ", then ", ". ", " and also "))
    answer = report(first, one[1]) if not one[1].ok else report(second, other[1])
    c.say(c.politely(one[0]) + joint + other[0], answer, one[1], other[1])


def _clash(first: Ability, second: Ability) -> bool:
    """Whether the one undoes the other."""
    return first.thing == second.thing and first.kind == second.kind


def missing(c: Lesson) -> None:
    """A command that lacks a value: it's asked for, and mostly given."""
    rng = c.rng
    lacking = [
        ability for ability in c.device.abilities if any(use.lacking for use in ability.uses)
    ]
    if not lacking:
        return
    ability = rng.choice(lacking)
    index = rng.choice([index for index, use in enumerate(ability.uses) if use.lacking])
    use = ability.uses[index]
    second = bool(use.lacking_second) and rng.random() < 0.5
    way = c.way(ability, use.lacking_second if second else use.lacking)
    if way is None:
        return
    wanted = ability.free[1 if second else 0]
    way, given = _filled(way, ability, rng)
    arguments = {**use.fixed, **given}
    text = way.replace("{t}", c.thing(ability.thing))
    c.say(c.politely(text), wanted.question(), lacking=ability.tool.name)
    if rng.random() < 0.55:
        value, said = wanted.draw(rng)
        arguments[wanted.name] = value
        said = rng.choice(("{}", "{}", "{} please", "make it {}", "{} i think", "the {}")).format(
            said
        )
        call = c.called(ability, index, arguments)
        c.say(said, report(ability, call), call, refers=True)


def beyond(c: Lesson) -> None:
    """A number that is out of range, or a choice that isn't there."""
    rng = c.rng
    found = [
        ability for ability in c.device.abilities
        if len(ability.free) == 1 and isinstance(ability.free[0], Number | Choice)
    ]  # fmt: skip
    if not found:
        return
    ability = rng.choice(found)
    asks = tuple(way for use in ability.uses for way in use.asks if FIELDS[0] in way)
    way = c.way(ability, asks)
    if way is None:
        return
    argument = ability.free[0]
    if isinstance(argument, Number):
        said, answer = argument.beyond(rng), f"It must be from {argument.low} to {argument.high}."
    else:
        said, answer = words.invented(rng), argument.question()
    text = way.replace("{t}", c.thing(ability.thing)).replace(FIELDS[0], said)
    c.say(c.politely(text), answer, lacking=ability.tool.name)


def refusal(c: Lesson) -> None:
    """What no tool of the device can do."""
    rng = c.rng
    if c.device.declines:
        _known_refusal(c)
        return
    things = {ability.thing for ability in c.device.abilities}
    own = sorted(filter(None, things))
    thing = rng.choice(own) if own and rng.random() < 0.35 else noun(rng, c.held.devices)
    ability = rng.choice(abilities(thing, rng, c.held.devices))
    rivals = [one for one in c.device.abilities if one.family == ability.family]
    if any(one.thing == thing or not one.thing or not ability.thing for one in rivals):
        return
    use = rng.choice(ability.uses)
    ways = [way for way in (use.unseen if c.held.phrasings else use.asks) if "{t}" in way]
    if not ways or (thing in things and ability.family in _DOING and rivals):
        return
    way, _ = _filled(rng.choice(ways), ability, rng)
    if rng.random() < 0.1:
        way = mistype_around(way, rng)
    c.say(c.politely(way.replace("{t}", c.thing(thing))), REFUSAL)


def _known_refusal(c: Lesson) -> None:
    """What no device of its kind can do, or what only one with more tools could."""
    rng = c.rng
    if c.device.lacks and rng.random() < 0.5:
        ability = rng.choice(c.device.lacks)
        use = rng.choice(ability.uses)
        ways = use.unseen if c.held.phrasings else use.asks
        if not ways:
            return
        text, _ = _filled(rng.choice(ways), ability, rng)
    else:
        text = rng.choice(c.device.declines)
    if not c.held.phrasings and rng.random() < 0.1:
        text = mistype_around(text, rng)
    c.say(c.politely(text), REFUSAL)


_DOING = frozenset(("switched", "started", "opened", "setting", "choosing", "moving"))


_AGAIN = ("again", "once more", "do that again", "the same again", "repeat that", "one more time")
_NEW_VALUE = (
    "make it {v}", "no, {v}", "now {v}", "and now {v}", "better {v}", "change it to {v}",
    "rather {v}",
    "set it to {v}", "{v} instead", "actually {v}", "hmm, {v}",
)  # fmt: skip
_TOO = (
    "the same for {t}",
    "and {t}",
    "{t} too",
    "also {t}",
    "now {t}",
    "{t} as well",
    "and {t} too",
)


def follow_up(c: Lesson) -> None:
    """What refers to the last call."""
    if c.last is None or not c.turns or not c.turns[-1].calls:
        return
    rng = c.rng
    ability, index, arguments = c.last
    draw = rng.random()
    text = ""
    ways: tuple[str, ...]
    if draw < 0.25:
        ways = ("and now", "check again", *_AGAIN) if ability.quantity else _AGAIN
        text = rng.choice(ways)
    elif draw < 0.6 and len(ability.free) == 1 and not isinstance(ability.free[0], Phrase):
        value, said = ability.free[0].draw(rng)
        ways = ("and the {v}", "what about the {v}") if ability.quantity else _NEW_VALUE
        text = rng.choice(ways).replace("{v}", said)
        arguments = {**arguments, ability.free[0].name: value}
    elif draw < 0.8:
        others = [(ability, i) for i in range(len(ability.uses)) if i != index]
        others += [(one, 0) for one in c.device.alike(ability) if one.thing == ability.thing]
        others = [(one, i) for one, i in others if not one.free]
        if others:
            ability, index = rng.choice(others)
            arguments = ability.uses[index].fixed
            asks = [ask for ask in ability.uses[index].asks if "{t}" in ask]
        if others and asks:
            text = rng.choice(asks).replace("{t}", "it") + rng.choice(("", "", " again", " now"))
    else:
        others = [
            (one, index) for one in c.device.alike(ability)
            if not one.free and len(one.uses) == len(ability.uses) and one.thing != ability.thing
            and (len(one.uses) > 1 or one.uses[0].asks == ability.uses[0].asks)
        ]  # fmt: skip
        if others:
            ability, index = rng.choice(others)
            arguments = ability.uses[index].fixed
            text = rng.choice(_TOO).replace("{t}", c.thing(ability.thing))
    if text:
        call = c.called(ability, index, arguments)
        c.say(text, report(ability, call), call, refers=True)


def talk(c: Lesson) -> None:
    """Without a call: small talk, what isn't its business, what it can do."""
    rng, draw = c.rng, c.rng.random()
    if draw < 0.2:
        names = [tool.name for tool in c.tools][:4]
        listed = ", ".join(names[:-1]) + " and " + names[-1] if names[1:] else names[0]
        ways = next(
            ways for ways, _, answer in phrases.SMALL_TALK if answer.startswith("I understand")
        )
        more = (
            "what tools do you have",
            "which tools do you see",
            "what is connected",
            "list your tools",
        )
        c.say(rng.choice(ways + more * 3), f"{LISTS}{listed}.")
    elif draw < 0.4:
        template = rng.choice(phrases.UNSEEN_OFF_TOPIC if c.held.phrasings else phrases.OFF_TOPIC)
        name, other = rng.choice(phrases.NAMES), rng.choice(phrases.NAMES)
        i, j = rng.randint(1, rng.choice((9, 99))), rng.randint(1, 99)
        text = template.format(
            a=name, b=other, n=rng.choice(words.NOUNS), c=rng.choice(phrases.COLOURS), i=i, j=j
        )
        c.say(text, phrases.OFF_TOPIC_ANSWER)
    else:
        ways, unseen, answer = rng.choice(phrases.SMALL_TALK)
        if answer.startswith(("OK", "Tell me", "I understand")):
            return  # what they answer depends on what was spoken of
        text = rng.choice(unseen if c.held.phrasings and unseen else ways)
        c.say(text, answer)


SCENES: tuple[tuple[Callable[[Lesson], None], float], ...] = (
    (command, 40), (reading, 9), (two, 7), (missing, 9), (beyond, 4), (refusal, 14),
    (follow_up, 14),
    (talk, 5),
)  # fmt: skip


def scene(c: Lesson) -> None:
    """Add a scene, drawn by its weight; now and then none, where it doesn't fit the device."""
    acts, weights = zip(*SCENES, strict=True)
    c.rng.choices(acts, weights)[0](c)
