"""Filters of chat templates whose result could be large: each judges its arguments beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import jinja2
from jinja2 import filters, nodes

from edgellm.template.meter import ELEMENT, METER


def _center(value: Any, width: int = 80) -> str:
    METER.get().room(width)
    return str(value).center(width)


@jinja2.pass_eval_context
def _replace(
    eval_context: nodes.EvalContext, value: Any, old: Any, new: Any, count: int | None = None
) -> str:
    METER.get().replace(str(value), str(old), str(new))
    return filters.do_replace(eval_context, value, old, new, count)


def _round(
    value: float, precision: int = 0, method: Literal["common", "ceil", "floor"] = "common"
) -> float:
    if not -100 <= precision <= 100:
        raise ValueError("round() takes up to 100 digits")
    return filters.do_round(value, precision, method)


def _trim(value: Any, chars: str | None = None) -> str:
    if chars is not None:
        METER.get().search(str(value), chars)
    return filters.do_trim(value, chars)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    METER.get().printf(str(value), args or kwargs)
    return filters.do_format(value, *args, **kwargs)


def _indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    each = len(width) if isinstance(width, str) else width
    METER.get().room(len(value) + (value.count("\n") + 2) * each)
    return filters.do_indent(value, width, first, blank)


@jinja2.pass_eval_context
def _join(
    eval_context: nodes.EvalContext,
    value: Iterable[Any],
    d: str = "",
    attribute: str | int | None = None,
) -> str:
    if attribute is not None:
        value = map(filters.make_attrgetter(eval_context.environment, attribute), value)
    items = [*METER.get().consumed(value)]
    METER.get().join(str(d), items)
    return filters.sync_do_join(eval_context, items, d)


def _batch(value: Iterable[Any], linecount: int, fill_with: Any = None) -> Iterator[list[Any]]:
    METER.get().room(ELEMENT * linecount)
    return filters.do_batch(value, linecount, fill_with)


@jinja2.pass_environment
def _sum(
    environment: jinja2.Environment, iterable: Iterable[Any], attribute: Any = None, start: Any = 0
) -> Any:
    """Of numbers only: lists added up one by one take quadratic time."""
    if not isinstance(start, int | float):
        raise TypeError("sum() adds numbers")
    return filters.sync_do_sum(environment, iterable, attribute, start)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as the Hugging Face libraries write it: no HTML escapes, non-ASCII as it is."""
    meter = METER.get()
    meter.size(value)
    meter.room(indent if isinstance(indent, int) else len(indent or ""))
    meter.room(sum(map(len, separators or ())))
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return meter.joined(encoder.iterencode(value))


FILTERS: dict[str, Callable[..., Any]] = {
    "batch": _batch,
    "center": _center,
    "format": _format,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "sum": _sum,
    "tojson": _tojson,
    "trim": _trim,
}
