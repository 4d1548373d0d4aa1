"""Scenes in which a device is told what to do."""

from __future__ import annotations

from edgellm.training.dialogues import words
from edgellm.training.dialogues.actions import ACTIONS, COMMON
from edgellm.training.dialogues.conversation import Conversation, done
from edgellm.training.dialogues.noise import mistype_around
from edgellm.training.dialogues.things import Thing, thing
from edgellm.training.dialogues.values import duration, moment, value


def pick_action(talk_: Conversation) -> str:
    rng = talk_.rng
    return rng.choice(COMMON) if rng.random() < 0.8 else rng.choice(tuple(ACTIONS))


def command(c: Conversation, name: str | None = None) -> None:
    name = name or pick_action(c)
    action = ACTIONS[name]
    x = thing(c.rng, action.kind, c.held_out)
    text, asking = c.politely(c.ask_for(action))
    c.say(text.replace("{x}", x.user), done(action, x), asking)
    c.last = name, x


def timed_command(c: Conversation) -> None:
    """With a duration ("for 10 minutes") or a moment ("at 7 pm")."""
    name = c.rng.choice((pick_action(c), "water", "on", "start"))
    action = ACTIONS[name]
    x = thing(c.rng, action.kind, c.held_out)
    text = c.ask_for(action)
    if c.rng.random() < 0.6 and name not in ("stop", "restart"):
        when = f"for {duration(c.rng)}"
        answer = done(action, x, f" {when}")
    else:
        when = moment(c.rng)
        answer = f"OK, I'll {action.verb} {x.answer} {when}."
    text = f"{when} {text}" if c.rng.random() < 0.08 else f"{text} {when}"
    text, asking = c.politely(text)
    c.say(text.replace("{x}", x.user), answer, asking)
    c.last = name, x


SET = ("set {x} to {v}", "set {x} to {v}", "set {x} to {v}", "put {x} at {v}", "turn {x} to {v}",
       "{x} to {v}",
       "change {x} to {v}", "adjust {x} to {v}", "i want {x} at {v}", "bring {x} to {v}",
       "put {x} on {v}",
       "set {x} at {v}", "set {x} {v}", "make {x} {v}", "{x} {v}", "i'd like {x} at {v}",
       "move {x} to {v}")  # fmt: skip
UNSEEN_SET = ("have {x} at {v}", "switch {x} to {v}", "let {x} go to {v}")


def setting(c: Conversation) -> None:
    rng = c.rng
    x = thing(rng, "settable", c.held_out)
    kinds = words.SETTABLE | words.UNSEEN_SETTABLE
    kind = kinds.get(x.noun) or rng.choice(tuple(words.SETTABLE.values()))
    v = value(rng, kind)
    unseen = c.held_out and rng.random() < 0.4
    template = rng.choice(UNSEEN_SET if unseen else SET)
    verb = "set to"
    if kind == "percent" and rng.random() < 0.25:
        template, verb = rng.choice(
            (
                ("dim {x} to {v}", "dimmed to"),
                ("raise {x} to {v}", "raised to"),
                ("lower {x} to {v}", "lowered to"),
            )
        )
    elif rng.random() < 0.15:
        template, verb = rng.choice(
            (("turn up {x} to {v}", "turned up to"), ("turn down {x} to {v}", "turned down to"),
             ("turn {x} up to {v}", "turned up to"), ("turn {x} down to {v}", "turned down to"),
             ("increase {x} to {v}", "turned up to"), ("raise {x} by {v}", "raised by"),
             ("reduce {x} to {v}", "turned down to"), ("lower {x} by {v}", "lowered by"))
        )  # fmt: skip
    if not unseen and rng.random() < 0.05:
        template = mistype_around(template, rng)
    text, asking = c.politely(template)
    c.say(text.replace("{x}", x.user).replace("{v}", v), f"OK, {x.state(verb)} {v}.", asking)
    c.last = "up", x
    if rng.random() < 0.2:
        v = value(rng, kind)
        text = rng.choice(("make it {v}", "set it to {v}", "no, {v}", "now {v}", "and now to {v}",
                           "{v} please",
                           "change it to {v}", "better {v}", "sorry, {v}", "i meant {v}",
                           "rather {v}"))  # fmt: skip
        c.say(text.replace("{v}", v), f"OK, {x.state('set to')} {v}.")


def follow_up(c: Conversation) -> None:
    """A command that refers to the thing, or to the action, just spoken of."""
    if c.last is None:
        command(c)
    if c.last is None:
        return
    rng = c.rng
    name, x = c.last
    pick = rng.random()
    if pick < 0.6:
        opposite = ACTIONS[name].opposite
        names = [opposite] * 3 if opposite else []
        names += [n for n, a in ACTIONS.items() if a.kind == ACTIONS[name].kind and n != name][:6]
        name = rng.choice(names)
        action = ACTIONS[name]
        pronoun = (
            "them" if x.plural and rng.random() < 0.8 else rng.choice(("it", "it", "it", "that"))
        )
        again = rng.random() < 0.35
        if name in ("on", "off") and rng.random() < 0.15:
            text = rng.choice(
                (f"{name} again", f"now {name}", f"and {name} again", f"{name}", f"{name} please")
            )
        else:
            text = c.ask_for(action).replace("{x}", pronoun) + (" again" if again else "")
            text, _ = c.politely(text)
        c.say(text, done(action, x))
        c.last = name, x
    elif pick < 0.75:
        y = thing(rng, ACTIONS[name].kind, c.held_out)
        text = rng.choice(("and {y}", "{y} too", "also {y}", "and {y} too", "the same for {y}",
                           "{y} as well",
                           "now {y}", "and now {y}", "do the same with {y}", "same with {y}",
                           "and {y} please",
                           "what about {y}", "how about {y}", "then {y}", "{y} also"))  # fmt: skip
        c.say(text.replace("{y}", y.user), done(ACTIONS[name], y))
        c.last = name, y
    elif pick < 0.85:
        y = thing(rng, ACTIONS[name].kind, c.held_out)
        text = rng.choice(("no, {y}", "i meant {y}", "sorry, {y}", "no, i meant {y}",
                           "not that, {y}",
                           "i mean {y}", "wrong, i want {y}", "no, not that one, {y}"))  # fmt: skip
        c.say(text.replace("{y}", y.user), done(ACTIONS[name], y))
        c.last = name, y
    elif ACTIONS[name].opposite:
        name = ACTIONS[name].opposite
        text = rng.choice(("undo that", "undo", "undo it", "take that back", "reverse that",
                           "change it back",
                           "back again", "put it back as it was"))  # fmt: skip
        c.say(text, done(ACTIONS[name], x))
        c.last = name, x


def two_things(c: Conversation) -> None:
    rng = c.rng
    name = rng.choice(COMMON)
    action = ACTIONS[name]
    x, y = thing(rng, action.kind, c.held_out), thing(rng, action.kind, c.held_out)
    pair = Thing(f"{x.user} and {y.user}", f"{x.answer} and {y.answer}", True, x.noun)
    if rng.random() < 0.3 and not action.doing and action.opposite:
        other = ACTIONS[action.opposite]
        first = c.ask_for(action).replace("{x}", x.user)
        second = c.ask_for(other).replace("{x}", y.user)
        c.say(f"{first} and {second}", f"OK, {x.state(action.state)} and {y.state(other.state)}.")
        c.last = action.opposite, y
        return
    text, asking = c.politely(c.ask_for(action))
    c.say(text.replace("{x}", pair.user), done(action, pair), asking)
    c.last = name, pair


def everything(c: Conversation) -> None:
    rng = c.rng
    name = rng.choice(("on", "off", "off", "open", "close", "stop", "lock", "unlock"))
    action = ACTIONS[name]
    x = thing(rng, action.kind, c.held_out)
    noun = x.noun if x.plural else x.noun + "s"
    said = rng.choice(
        (f"all the {noun}", f"all {noun}", f"every {x.noun}", "everything", "all", f"both {noun}")
    )
    answers = {
        f"all {noun}": f"all the {noun}",
        "all": "everything",
        f"both {noun}": f"both {noun}",
    }
    plural = said.startswith(("all ", "both"))
    everything_ = Thing(said, answers.get(said, said), plural, x.noun)
    text, asking = c.politely(c.ask_for(action))
    c.say(text.replace("{x}", everything_.user), done(action, everything_), asking)
    c.last = name, everything_
