"""Call forms: how a model is told of tools, writes a call, and is shown what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgellm.errors import BackendError, TemplateError
from edgellm.session import Message

if TYPE_CHECKING:
    from edgellm.tools.tool import Tool

Render = Callable[..., str]
"""Messages to the text of a prompt that the model is to answer: a template or a named format. Where
the model knows tools, it takes them as `tools`."""

RESULT_LIMIT = 4096
"""Characters of a result that a model is shown."""
_PROBE = "edgellm_probe"


@dataclass(frozen=True)
class CallForm:
    """A call is `mark`, `before`, the tool's name, `between`, its arguments as JSON, `after`.

    Text is free until a mark; what follows it is constrained. The model ends with `after`: whatever
    its template adds to a call, such as a closing tag, is added when the conversation is rendered.
    """

    mark: str
    before: str
    between: str
    after: str
    named: bool = False
    """The mark may stand in other text, too: it counts only with the name of a tool, which the
    model has then chosen by itself."""
    numbered: bool = False
    """A tool is called by its number, counted from 1 in the order of declaration."""
    own: bool = False
    """The model's template knows nothing of tools: they are put into its system message, a call
    into its own words and the result into the user's."""
    system: bool = True
    """Whether there can be a system message; else the tools come with the first question."""

    @property
    def marks(self) -> tuple[str, ...]:
        """What nobody else may write."""
        return (self.mark, RESULT_MARK) if self.own else () if self.named else (self.mark,)

    def grammars(self, tools: Sequence[Tool]) -> dict[str, str]:
        """The texts that a call begins with, and for each the rules of what follows it."""
        if not self.named:
            names = [
                str(number) if self.numbered else tool.name for number, tool in enumerate(tools, 1)
            ]
            openings = [self.before + name + self.between for name in names]
            return {self.mark: _rules(tools, openings, self.after)}
        # A name with the quote after it isn't the beginning of a longer name.
        return {
            self.mark + self.before + tool.name + self.between[:1]: _rules(
                [tool], [self.between[1:]], self.after
            )
            for tool in tools
        }

    def parse(self, text: str, tools: Sequence[str] = ()) -> tuple[str, Any]:
        """Name and arguments of a call, its mark included, of one of the tools of these names.
        Raises BackendError if it isn't one."""
        opening, name, rest = text.partition(self.mark + self.before)
        name, between, rest = rest.partition(self.between)
        try:
            arguments = json.loads(rest.removesuffix(self.after))
        except (ValueError, RecursionError) as error:
            raise BackendError(f"the model's call isn't JSON: {error}") from error
        if opening or not between or not rest.endswith(self.after):
            raise BackendError("the model's call isn't of the form that its grammar has")
        if self.numbered:
            if name not in map(str, range(1, len(tools) + 1)):
                raise BackendError(f"the model calls tool {name[:64]!r} of {len(tools)}")
            name = tools[int(name) - 1]
        return name, arguments

    def prompt(
        self,
        render: Render,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        harmless: Callable[[str], str],
    ) -> str:
        """The prompt of a conversation whose model may call these tools.

        All that isn't the system's own words goes through `harmless`.
        """
        safe = [_safe(message, harmless) for message in messages]
        if not self.own:
            rows = [self._native(message) for message in safe]
            declared = [_safe_json(_declared(tool), harmless) for tool in tools]
            return render(rows, tools=declared) if tools else render(rows)
        rows = [self._plain(message) for message in safe]
        if tools:
            told = _instructions([harmless(tool.line()) for tool in tools], self)
            role = "system" if self.system else "user"
            first = next((row for row in rows if row["role"] == role), None)
            if first is not None:
                words = [first["content"], told] if self.system else [told, first["content"]]
                first["content"] = "\n\n".join(words)
            else:
                rows.insert(0, {"role": role, "content": told})
        return render(rows)

    def _native(self, message: Message) -> dict[str, Any]:
        row: dict[str, Any] = {"role": message["role"], "content": message["content"]}
        call = message.get("call")
        if call is None:
            return row
        key = f"{call['number']:09d}"  # some templates insist on nine letters or digits
        if message["role"] == "tool":
            return {**row, "name": call["name"], "tool_call_id": key}
        function = {"name": call["name"], "arguments": call["arguments"]}
        return {**row, "tool_calls": [{"id": key, "type": "function", "function": function}]}

    def _plain(self, message: Message) -> dict[str, Any]:
        role, content, call = message["role"], message["content"], message.get("call")
        if role == "tool":
            return {"role": "user", "content": f"{RESULT_MARK} {content}"}
        if call is not None:
            arguments = json.dumps(call["arguments"], ensure_ascii=False)
            called = f"{self.before}{call['name']}{self.between}{arguments}{self.after}"
            content = content + self.mark + called
        return {"role": role, "content": content}


RESULT_MARK = "[[result]]"
OWN = CallForm("[[call]]", " ", " ", "", own=True)
HERMES = CallForm("<tool_call>", '\n{"name": "', '", "arguments": ', "}")
LLAMA = CallForm('{"name": "', "", '", "parameters": ', "}", named=True)
NUMBERED = CallForm(OWN.mark, "", " ", "", numbered=True)
"""By a template that itself tells of the tools, in numbered lines."""
MISTRAL = CallForm("[TOOL_CALLS]", '[{"name": "', '", "arguments": ', "}")
MARKS = frozenset(mark for form in (OWN, HERMES, LLAMA, MISTRAL) for mark in form.marks)
"""What nobody but a model may write, whatever form it was taught."""


def choose(render: Render | None, template: str | None) -> CallForm:
    """The form that a model was taught, by its template's text; else ours."""
    if render is None:  # it only goes on with text
        return OWN
    from edgellm.tools.tool import Tool  # most conversations have none

    question = Message(role="user", content="U")
    if template is not None and _shows(render, question, tools=[_declared(Tool(_PROBE, _PROBE))]):
        if "[TOOL_CALLS]" in template and "[ARGS]" not in template:
            return MISTRAL
        if "<tool_call>" in template and "arguments" in template and "<function=" not in template:
            return HERMES
        if '{"name": ' in template and '"parameters": ' in template:
            return LLAMA
        if OWN.mark in template:
            return NUMBERED
    system = Message(role="system", content=_PROBE)
    return replace(OWN, system=_shows(render, system, question))


def result_text(ok: bool, value: object) -> str:
    """What a model is shown of a call's result."""
    if isinstance(value, str):
        text = value
    else:
        try:
            text = json.dumps(value, ensure_ascii=False, default=str)
        except (TypeError, ValueError, RecursionError):
            ok, text = False, "the device's result can't be shown"
    if len(text) > RESULT_LIMIT:
        text = text[:RESULT_LIMIT] + "…"
    return text if ok else f"error: {text}"


def _shows(render: Render, *messages: Message, **variables: Any) -> bool:
    """Whether the probe, wherever it is in there, gets into the prompt."""
    try:
        return _PROBE in render(messages, **variables)
    except TemplateError:
        return False


def _declared(tool: Tool) -> dict[str, Any]:
    """A tool as templates expect it."""
    parameters = {"properties": {}, **tool.parameters}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _safe(message: Message, harmless: Callable[[str], str]) -> Message:
    if message["role"] == "system":  # ours
        return message
    safe = Message(role=message["role"], content=harmless(message["content"]))
    if "call" in message:
        safe["call"] = _safe_json(message["call"], harmless)
    return safe


def _safe_json(value: Any, harmless: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, Mapping):
        return {harmless(str(key)): _safe_json(one, harmless) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_safe_json(one, harmless) for one in value]
    return value


def _instructions(lines: Sequence[str], form: CallForm) -> str:
    told = "\n".join(lines)
    return (
        f"You can call these functions:\n{told}\n"
        f"To call one, write {form.mark}{form.before}name{form.between}"
        '{"argument": value} and nothing more. '
        f"What came of it follows after {RESULT_MARK}."
    )


def _rules(tools: Sequence[Tool], openings: Sequence[str], after: str) -> str:
    """Lark rules of what follows a mark: each tool's opening, its arguments, `after`."""
    from edgellm.tools import schema_rules

    rules = schema_rules.Rules()
    calls = []
    for tool, opening in zip(tools, openings, strict=True):
        closing = f" {schema_rules.literal(after)}" if after else ""
        values = rules.values(tool.schema)
        calls.append(f"{schema_rules.literal(opening)} {values}{closing}")
    return "\n".join([f"start: {' | '.join(calls)}", *rules.lines, ""])
