"""Own tools: a service whose model may call functions of this program, whoever asks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from edgellm.channel import Answer, Call, Done, Service, Text
from edgellm.tools.toolbox import Toolbox


class OwnTools:
    """A `Service` like the one given, in whose sessions the toolbox's tools are declared. Their
    calls are answered here; `notices` tells what was called and what came of it."""

    def __init__(self, service: Service, toolbox: Toolbox) -> None:
        self._service, self._toolbox = service, toolbox
        self._declared: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def ask(self, session: str, text: str | None, *given: Any, **named: Any) -> Answer:
        if session not in self._declared:
            self._service.declare(session, self._toolbox.tools)
            self._declared.add(session)
        return _Answer(
            self._service, self._service.ask(session, text, *given, **named), self._toolbox
        )

    def close(self, session: str) -> None:
        self._declared.discard(session)
        self._service.close(session)


class _Answer:
    """An answer whose calls are made here."""

    def __init__(self, service: Service, answer: Answer, toolbox: Toolbox) -> None:
        self._service, self._answer, self._toolbox = service, answer, toolbox

    def __getattr__(self, name: str) -> Any:
        return getattr(self._answer, name)

    def __aiter__(self) -> AsyncIterator[Text | Call | Done]:
        return self.listen(0)

    async def listen(self, offset: int) -> AsyncIterator[Text | Call | Done]:
        async for event in self._answer.listen(offset):
            if not isinstance(event, Call):
                yield event
                continue
            ok, value = await self._toolbox.call(event.name, event.arguments, event.deadline_s)
            given = ", ".join(f"{name}={_json(one)}" for name, one in event.arguments.items())
            came = _json(value) if ok else f"error: {value}"
            self._service.notices.tell(f"{event.name}({given}): {came}")
            self._answer.result(event.number, ok, value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
