"""Scenes with a question: for a state or a measure, or back to the user for what is missing."""

from __future__ import annotations

from edgellm.training.dialogues import phrases, words
from edgellm.training.dialogues.actions import ACTIONS
from edgellm.training.dialogues.commands import pick_action
from edgellm.training.dialogues.conversation import Conversation, done
from edgellm.training.dialogues.things import Thing, thing
from edgellm.training.dialogues.values import value


def status(c: Conversation) -> None:
    """Asks for a state: known if it was set in this conversation, else honestly unknown."""
    rng = c.rng
    if (
        c.last
        and not ACTIONS[c.last[0]].doing
        and ACTIONS[c.last[0]].opposite
        and rng.random() < 0.65
    ):
        name, x = c.last
        if name in ("on", "off", "open", "close", "start", "stop", "lock", "unlock"):
            said = x.user if rng.random() < 0.5 else ("they" if x.plural else "it")
            asked = rng.choice((name, ACTIONS[name].opposite))
            be = "are" if x.plural else "is"
            state = ACTIONS[asked].state
            question = f"{be} {said} {state}" if state != "stopped" else f"has {said} stopped"
            c.say(
                question,
                f"{'Yes' if asked == name else 'No'}, {x.state(ACTIONS[name].state)}.",
                True,
            )
            return
    name = rng.choice(
        ("on", "on", "off", "open", "open", "close", "start", "start", "lock", "unlock")
    )
    action = ACTIONS[name]
    x = thing(rng, action.kind, c.held_out)
    be = "are" if x.plural else "is"
    question = rng.choice(
        (f"{be} {x.user} {action.state}", f"{be} {x.user} {action.state}",
         f"{be} {x.user} {action.state}",
         f"do you know if {x.user} {be} {action.state}", f"tell me if {x.user} {be} {action.state}",
         f"{be} {x.user} still {action.state}", f"can you check if {x.user} {be} {action.state}",
         f"did i leave {x.user} {action.state}", f"check if {x.user} {be} {action.state}")
    )  # fmt: skip
    c.say(
        question,
        f"I can't tell whether {x.state(action.state)}. Shall I {action.verb} {x.answer}?",
        True,
    )
    consent(c, name, x)


def consent(c: Conversation, name: str, x: Thing) -> None:
    """Perhaps a yes or no to "Shall I …?"."""
    rng = c.rng
    pick = rng.random()
    if pick < 0.45:
        c.say(rng.choice(("yes", "yes please", "yes", "do it", "ok", "sure", "please do", "yeah",
                          "go ahead",
                          "yes, do that", "y", "of course", "please", "yep", "good idea",
                          "yes you may")),
              done(ACTIONS[name], x))  # fmt: skip
        c.last = name, x
    elif pick < 0.65:
        c.say(rng.choice(("no", "no thanks", "no", "not now", "leave it", "nope", "don't",
                          "no, thank you",
                          "better not", "never mind", "n", "no, leave it")),
              f"OK, I won't {ACTIONS[name].verb} {x.answer}.")  # fmt: skip


SENSED = ("temperature", "humidity", "pressure", "water level", "air quality", "brightness",
          "battery level",
          "power consumption", "level", "moisture", "speed", "noise level",
          "oil level")  # fmt: skip


def measure(c: Conversation) -> None:
    rng = c.rng
    what = rng.choice(SENSED)
    x = thing(rng, rng.choice(("opened", "locked", "started", "plants")), c.held_out)
    link = rng.choice(("in", "of"))
    question = rng.choice(
        (f"what is the {what} {link} {x.user}", f"what's the {what} {link} {x.user}",
         f"tell me the {what} {link} {x.user}", f"how high is the {what} {link} {x.user}",
         f"show me the {what} {link} {x.user}", f"measure the {what} {link} {x.user}")
    )  # fmt: skip
    c.say(question, f"I can't tell the {what} {link} {x.answer}: no sensor reports to me.", True)


VAGUE = (
    "{x}", "{x}", "{x}", "{x} please", "do something with {x}", "i need {x}", "use {x}",
    "what about {x}", "control {x}", "please {x}",
)  # fmt: skip


def incomplete(c: Conversation) -> None:
    """The command lacks its thing, its action or its value; mostly supplied in the next turn."""
    rng = c.rng
    goes_on = rng.random() < 0.6
    pick = rng.random()
    if pick < 0.4:
        name = pick_action(c)
        action = ACTIONS[name]
        text = c.ask_for(action)
        text = (
            text.replace("{x}", rng.choice(("it", "that", "them", "something")))
            if c.last is None and rng.random() < 0.5
            else action.verb
        )
        text, _ = c.politely(text)
        c.say(text, f"What shall I {action.verb}?")
        if goes_on:
            x = thing(rng, action.kind, c.held_out)
            c.say(x.user + rng.choice(("", "", "", " please")), done(action, x))
            c.last = name, x
    elif pick < 0.7:
        name = pick_action(c)
        action = ACTIONS[name]
        x = thing(rng, action.kind, c.held_out)
        text = rng.choice(VAGUE) if c.last is None else "do something with {x}"
        c.say(text.replace("{x}", x.user), f"What shall I do with {x.answer}?")
        if goes_on:
            text = c.ask_for(action).replace("{x}", "them" if x.plural else "it")
            c.say(text, done(action, x))
            c.last = name, x
    else:
        x = thing(rng, "settable", c.held_out)
        text, _ = c.politely(
            rng.choice(("set {x}", "adjust {x}", "change {x}", "set {x} to", "set up {x}"))
        )
        c.say(text.replace("{x}", x.user), f"To what value shall I set {x.answer}?")
        if goes_on:
            v = value(rng, words.SETTABLE.get(x.noun) or "temperature")
            c.say(
                rng.choice(("", "", "to ")) + v + rng.choice(("", "", " please")),
                f"OK, {x.state('set to')} {v}.",
            )
            c.last = "up", x


def hint(c: Conversation) -> None:
    """A complaint; the answer offers what would help."""
    rng = c.rng
    complaints, name, object_ = rng.choice(phrases.HINTS)
    text = rng.choice(complaints)
    if object_ in ("the light", "the fan", "the heating", "the blinds") and rng.random() < 0.3:
        where = rng.choice(words.PLACES)
        if where not in ("upstairs", "downstairs"):
            text = text.replace(" in here", "") + f" in the {where}"
            object_ += f" in the {where}"
    x = Thing(
        object_, object_, object_.split(" in ")[0].endswith("s"), object_.removeprefix("the ")
    )
    c.say(text, f"Shall I {ACTIONS[name].verb} {x.answer}?")
    consent(c, name, x)
