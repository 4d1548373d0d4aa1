"""Named prompt formats, for models whose files carry no chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgellm.errors import TemplateError

ROLES = ("system", "user", "assistant", "tool")
Affixes = tuple[str, str]
"""What stands before and after a message; {bos} and {eos} are the vocabulary's own tokens."""


@dataclass(frozen=True)
class Format:
    """How one kind of model was taught to see a conversation."""

    roles: Mapping[str, Affixes]
    """A role that isn't here is an error, but for "system": its messages are then left out, because
    the model never saw any."""
    prompt: str
    """What makes the model answer."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; {eos} as above."""
    preamble: str = ""
    """Opens a conversation that has no system message."""
    preamble_input: str = ""
    """The same where a message has an "input" beside its instruction."""
    input_key: str = ""
    """Stands before such an input; empty: the format has none."""
    system_inside: bool = False
    """The system message is a part of the first user turn."""
    strip: bool = False
    """White space around messages is taken off."""
    bos: str = ""
    eos: str = ""
    """What {bos} and {eos} are where the vocabulary isn't known."""

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        add_generation_prompt: bool = True,
        bos_token: str = "",
        eos_token: str = "",
    ) -> str:
        """The prompt, without the token that the vocabulary begins every text with.

        Raises TemplateError for a role that the format doesn't know.
        """
        bos, eos = bos_token or self.bos, eos_token or self.eos
        parts = []
        waiting = ""  # a system message on its way into the user's turn
        if "system" not in self.roles or all(m["role"] != "system" for m in messages):
            with_input = self.preamble_input and any(m.get("input") for m in messages)
            parts.append(self.preamble_input if with_input else self.preamble)
        for message in messages:
            role = message["role"]
            if role not in self.roles:
                if role == "system":
                    continue
                known = ", ".join(self.roles)
                raise TemplateError(f"this prompt format has no role {role!r}; it has {known}")
            before, after = (_filled(affix, bos, eos) for affix in self.roles[role])
            content = message["content"].strip() if self.strip else message["content"]
            if role == "system" and self.system_inside:
                waiting += before + content + after
                continue
            if role == "user":
                content, waiting = waiting + content, ""
                if self.input_key and message.get("input"):
                    content += f"\n\n{self.input_key}\n{message['input']}"
            parts += [before, content, after]
        parts.append(waiting)
        if add_generation_prompt:
            parts.append(_filled(self.prompt, bos, eos))
        text = "".join(parts)
        return text.removeprefix(bos) if self.roles["user"][0].startswith("{bos}") else text

    @property
    def wording(self) -> str:
        """All that it writes around messages."""
        affixes = [affix for both in self.roles.values() for affix in both]
        return "".join([*affixes, self.prompt, self.preamble])

    def stops(self, eos_token: str = "") -> tuple[str, ...]:
        """The texts that end an answer."""
        return tuple(_filled(text, "", eos_token or self.eos) for text in self.stop)


def _filled(affix: str, bos: str, eos: str) -> str:
    return affix.replace("{bos}", bos).replace("{eos}", eos)


def _turns(before: str, after: str) -> dict[str, Affixes]:
    """Affixes that are the same for each role but for its name."""
    return {role: (before.replace("{role}", role), after) for role in ROLES}


_TASK = "Below is an instruction that describes a task"
_ANSWER = "Write a response that appropriately completes the request.\n\n"
_STABLELM = """<|SYSTEM|># StableLM Tuned (Alpha version)
- StableLM is a helpful and harmless open-source AI language model developed by StabilityAI.
- StableLM is excited to be able to help the user, but will refuse to do anything that could be \
considered harmful to the user.
- StableLM is more than just an information source, StableLM is also able to write poetry, short \
stories, and make jokes.
- StableLM will refuse to participate in anything that could harm a human.
"""


def _oasst(eos: str) -> Format:
    return Format(
        roles={"user": ("<|prompter|>", eos), "assistant": ("<|assistant|>", eos)},
        prompt="<|assistant|>",
        stop=(eos,),
    )


def _zephyr(eos: str, system: bool) -> Format:
    roles = _turns("<|{role}|>\n", "{eos}\n")
    if not system:
        del roles["system"]
    return Format(roles, "<|assistant|>\n", stop=("{eos}",), eos=eos)


FORMATS: dict[str, Format] = {
    "alpaca": Format(
        roles={
            "system": ("", "\n\n"),
            "user": ("### Instruction:\n", "\n\n"),
            "assistant": ("### Response:", "\n\n"),
        },
        prompt="### Response:",
        stop=("{eos}",),
        preamble=f"{_TASK}. {_ANSWER}",
        preamble_input=f"{_TASK}, paired with an input that provides further context. {_ANSWER}",
        input_key="### Input:",
        eos="</s>",
    ),
    "chatml": Format(
        roles=_turns("<|im_start|>{role}\n", "<|im_end|>\n"),
        prompt="<|im_start|>assistant\n",
        stop=("<|im_end|>",),
    ),
    "dolly": Format(
        roles={
            "system": ("", "\n\n"),
            "user": ("### Instruction:\n", "\n\n"),
            "assistant": ("### Response:\n", "\n\n"),
        },
        prompt="### Response:\n",
        stop=("### End", "<|endoftext|>"),
        preamble=f"{_TASK}. {_ANSWER}",
        input_key="Input:",
    ),
    "falcon": Format(
        roles={"user": ("User: ", "\n"), "assistant": ("Assistant: ", "\n")},
        prompt="Assistant:",
        stop=("<|endoftext|>", "\nUser:"),
    ),
    "gemma": Format(
        roles={
            "system": ("", "\n\n"),
            "user": ("<start_of_turn>user\n", "<end_of_turn>\n"),
            "assistant": ("<start_of_turn>model\n", "<end_of_turn>\n"),
        },
        prompt="<start_of_turn>model\n",
        stop=("<end_of_turn>",),
        system_inside=True,
        strip=True,
    ),
    "granite": Format(
        roles=_turns("<|start_of_role|>{role}<|end_of_role|>", "<|end_of_text|>\n"),
        prompt="<|start_of_role|>assistant<|end_of_role|>",
        stop=("<|end_of_text|>",),
    ),
    "llama2": Format(
        roles={
            "system": ("<<SYS>>\n", "\n<</SYS>>\n\n"),
            "user": ("{bos}[INST] ", " [/INST]"),
            "assistant": (" ", " {eos}"),
        },
        prompt="",
        stop=("{eos}",),
        system_inside=True,
        strip=True,
        bos="<s>",
        eos="</s>",
    ),
    "llama3": Format(
        roles=_turns("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"),
        prompt="<|start_header_id|>assistant<|end_header_id|>\n\n",
        stop=("<|eot_id|>", "<|end_of_text|>"),
        strip=True,
    ),
    # Plain continuation, for models that were never taught to converse.
    "none": Format(
        roles={"system": ("", "\n"), "user": ("", ""), "assistant": ("", "\n")},
        prompt="",
    ),
    "oasst-llama": _oasst("</s>"),
    "oasst-pythia": _oasst("<|endoftext|>"),
    "phi3": Format(
        roles=_turns("<|{role}|>\n", "<|end|>\n"),
        prompt="<|assistant|>\n",
        stop=("<|end|>", "<|endoftext|>"),
    ),
    "stablelm-alpha": Format(
        roles={"user": ("<|USER|>", ""), "assistant": ("<|ASSISTANT|>", "")},
        prompt="<|ASSISTANT|>",
        stop=("<|USER|>", "<|ASSISTANT|>", "<|SYSTEM|>", "<|padding|>", "<|endoftext|>"),
        preamble=_STABLELM,
    ),
    "vicuna": Format(
        roles={
            "system": ("", "\n\n"),
            "user": ("USER: ", "\n"),
            "assistant": ("ASSISTANT: ", "{eos}\n"),
        },
        prompt="ASSISTANT:",
        stop=("{eos}", "\nUSER:"),
        eos="</s>",
    ),
    "zephyr": _zephyr("<|endoftext|>", system=True),
    "zephyr-stablelm": _zephyr("<|endoftext|>", system=False),
    "zephyr-tinyllama": _zephyr("</s>", system=True),
}
ALIASES = {
    "falcon-instruct": "falcon",
    "llama-2": "llama2",
    "llama-3": "llama3",
    "oasst": "oasst-pythia",
    "phi-3": "phi3",
    "stablelm": "stablelm-alpha",
    "tinyllama": "zephyr-tinyllama",
}

_BY_TOKENS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"<|im_start|>", "<|im_end|>"}), "chatml"),
    (frozenset({"<|start_header_id|>", "<|eot_id|>"}), "llama3"),
    (frozenset({"<start_of_turn>", "<end_of_turn>"}), "gemma"),
    (frozenset({"<|start_of_role|>", "<|end_of_role|>"}), "granite"),
    (frozenset({"<|USER|>", "<|ASSISTANT|>"}), "stablelm-alpha"),
    (frozenset({"<|prompter|>", "<|assistant|>", "</s>"}), "oasst-llama"),
    (frozenset({"<|prompter|>", "<|assistant|>"}), "oasst-pythia"),
    (frozenset({"<|user|>", "<|assistant|>", "<|end|>"}), "phi3"),
    (frozenset({"### Instruction:", "### End"}), "dolly"),
)
_BY_NAME: tuple[tuple[tuple[str, ...], str], ...] = (
    (("alpaca",), "alpaca"),
    (("vicuna",), "vicuna"),
    (("dolly",), "dolly"),
    (("stablelm", "tuned"), "stablelm-alpha"),
    (("oasst", "llama"), "oasst-llama"),
    (("oasst",), "oasst-pythia"),
    (("tinyllama", "chat"), "zephyr-tinyllama"),
    (("zephyr",), "zephyr"),
    (("falcon", "instruct"), "falcon"),
    (("llama-2", "chat"), "llama2"),
    (("phi-3",), "phi3"),
    (("phi3",), "phi3"),
    (("llama2", "chat"), "llama2"),
)


def guess(name: str, tokens: Iterable[str]) -> str:
    """The format that a model without a template was most likely taught, by the tokens that its
    vocabulary has, then by its name; "none" where nothing speaks for one."""
    marks = frozenset().union(*(needed for needed, _ in _BY_TOKENS)).intersection(tokens)
    for needed, found in _BY_TOKENS:
        if needed <= marks:
            return found
    name = name.lower().replace("_", "-").replace(" ", "-")
    for words, found in _BY_NAME:
        if all(word in name for word in words):
            return found
    return "none"
