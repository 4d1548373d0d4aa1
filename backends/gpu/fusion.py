"""Calls of a captured step that one kernel does at once: fewer launches for the same work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgellm.graph import Call, StepGraph

TURNS = ("rotate", "rotate", "store")


def fused(graph: StepGraph) -> StepGraph:
    """The graph with such calls joined. Memory is planned for the joined ones: two calls may share
    what one can't."""
    return replace(graph, body=tuple(_joined(graph.body)))


def _joined(calls: Sequence[Call]) -> Iterator[Call]:
    read = Counter(
        argument.buffer for call in calls for argument in call.arguments[1:] if argument is not None
    )
    at = 0
    while at < len(calls):
        group = calls[at : at + len(TURNS)]
        names = tuple(call.kernel for call in group)
        call = _rotate_store(group, read) if names == TURNS else None
        yield call or calls[at]
        at += len(group) if call else 1


def _rotate_store(calls: Sequence[Call], read: Counter[int]) -> Call | None:
    """The turning of queries, and of keys that nobody else reads, and the storing of these; None
    where that isn't what the calls are.

    Arguments: the turned queries, what they were, the table, the state, keys, values. Numbers:
    heads, key heads, width, channels turned, pairs.
    """
    one, other, store = calls
    state, stored, values = store.arguments
    keys, queries = (one, other) if one.arguments[0] == stored else (other, one)
    alike = keys.arguments[2] == queries.arguments[2] and keys.numbers[1:] == queries.numbers[1:]
    if keys.arguments[0] != stored or stored is None or read[stored.buffer] != 1 or not alike:
        return None
    heads, *rest = queries.numbers
    return Call(
        "rotate_store",
        (*queries.arguments, state, keys.arguments[1], values),
        (heads, keys.numbers[0], *rest),
    )
