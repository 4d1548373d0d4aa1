"""Scenes without a device: small talk, and what the model can't do or understand."""

from __future__ import annotations

from edgellm.training.dialogues import phrases, words
from edgellm.training.dialogues.conversation import BEFORE, Conversation
from edgellm.training.dialogues.noise import mistype_around
from edgellm.training.dialogues.things import thing


def small_talk(c: Conversation) -> None:
    rng = c.rng
    ways, unseen, answer = rng.choice(phrases.SMALL_TALK)
    if answer.startswith(("OK. ", "Tell me")) and c.turns and "?" in c.turns[-1][1]:
        return  # after a question of ours, yes and no mean something else
    text = rng.choice(unseen if c.held_out and unseen else ways)
    if rng.random() < 0.1 and not (c.held_out and unseen):
        text = mistype_around(text, rng)
    asks = text.startswith(
        ("who", "what", "how", "are", "do", "where", "can", "when", "is", "may", "which", "did")
    )
    if rng.random() < 0.06 and asks:
        text = (
            rng.choice(("please ", "tell me, ", "hey, ", "hi, ", "hello, ", "and ", "so ")) + text
        )
    elif rng.random() < 0.06:
        text += rng.choice(
            (" edgellm", " please", " then", " now", " today", ", edgellm", " my friend")
        )
    c.say(text, answer, asks)


def off_topic(c: Conversation) -> None:
    rng = c.rng
    template = rng.choice(phrases.UNSEEN_OFF_TOPIC if c.held_out else phrases.OFF_TOPIC)
    name = rng.choice(phrases.NAMES) if rng.random() < 0.7 else words.invented(rng)
    other = rng.choice(phrases.NAMES)
    noun = rng.choice(words.NOUNS)
    i, j = rng.randint(1, rng.choice((9, 99, 999))), rng.randint(1, 99)
    text = template.format(a=name, b=other, n=noun, c=rng.choice(phrases.COLOURS), i=i, j=j)
    if rng.random() < 0.1:
        text = mistype_around(text, rng)
    if rng.random() < 0.12:
        text = rng.choice(BEFORE[:10]) + text
    c.say(
        text, phrases.OFF_TOPIC_ANSWER, template.startswith(("wh", "how", "is", "are", "do", "can"))
    )


def cannot(c: Conversation) -> None:
    """A verb that no device here knows, on a thing; or a thing that can't be watered."""
    rng = c.rng
    verb = rng.choice(phrases.UNSEEN_CANNOT if c.held_out else phrases.CANNOT)
    if not c.held_out and rng.random() < 0.35:
        verb = words.invented(rng)
    x = thing(rng, rng.choice(("switched", "opened", "started", "plants")), c.held_out)
    text, asking = c.politely(verb + " {x}")
    c.say(text.replace("{x}", x.user), f"I don't know how to {verb} {x.answer}.", asking)


def gibberish(c: Conversation) -> None:
    rng = c.rng
    pick = rng.random()
    if pick < 0.35:
        text = "".join(rng.choice("asdfghjklqwertyuiopzxcvbnm") for _ in range(rng.randint(3, 10)))
    elif pick < 0.7:
        text = " ".join(words.invented(rng) for _ in range(rng.randint(1, 4)))
    elif pick < 0.85:
        text = "".join(rng.choice("?!.,-#*;:/()0123456789") for _ in range(rng.randint(1, 6)))
    else:
        text = " ".join(
            rng.choice(words.NOUNS + words.ADJECTIVES + ("the", "a", "of"))
            for _ in range(rng.randint(3, 6))
        )
    c.say(text, "I didn't understand that. Try: turn on the lamp.")
