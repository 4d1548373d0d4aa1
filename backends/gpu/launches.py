"""A StepGraph's calls as launches on a device: their programs, arguments, and numbers of groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgellm.config import Config
from edgellm.errors import BackendError
from edgellm.graph import Argument, Call, StepGraph
from edgellm.interleave import GROUP as GROUP_ROWS

from . import sources, tuning
from .device import Argument as Given
from .device import Device, Groups, Launch, Memory
from .sources import Texts
from .tuning import Tuning

ITEMS = 64
"""Work items of a group, where each computes one number."""
NORM_ITEMS = 64
CHUNK = 128
"""Positions that attention computes at a time."""
SPREAD_ROWS = 8
"""Up to so many rows of a step have their chunks computed by different groups of work items."""
TILE = 4
"""Rows of a step that share the reading of weights."""
HEADER = 2
"""As in kernels/attend.c."""
BODY, HEAD = 0, 1
STORE = ("state.h", "rotate.h", "store.c")


@dataclass(frozen=True)
class Count:
    """What the numbers of groups depend on."""

    rows: int
    chunks: int
    """Of the positions that rows see, where those are spread over groups; else 0."""


Listed = list[tuple[Launch, Groups]]
Emit = Callable[[Count], Listed]
"""The launches of a call."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where everything is on the device."""

    step: Memory
    buffers: Mapping[int, Memory]
    """Of the graph; of states, their keys or, of convolutions, all."""
    values: Mapping[int, Memory]
    """Of states, their values."""
    parts: Memory
    """What attention leaves of its chunks."""
    context: int
    """Positions that there is room for."""
    kv_half: bool
    half: bool
    """Whether products compute in half precision."""


class Launches:
    """The launches of a step's body or head, for any number of rows."""

    def __init__(
        self,
        device: Device,
        texts: Texts,
        graph: StepGraph,
        config: Config,
        tuned: Tuning,
        places: Places,
        part: int,
    ) -> None:
        self._device, self._texts, self._graph, self._config = device, texts, graph, config
        self._tuned, self._places, self._part = tuned, places, part
        self._rows = sources.row_kernels(graph)
        self._functions = {function.name for function in graph.functions}
        calls = graph.body if part == BODY else graph.head
        self._emits = [emit for call in calls for emit in self._call(call)]
        self._listed: dict[Count, Listed] = {}

    def of(self, count: Count) -> Listed:
        """What to launch, in order."""
        listed = self._listed.get(count)
        if listed is None:
            listed = [each for emit in self._emits for each in emit(count)]
            self._listed[count] = listed
        return listed

    # --- programs -------------------------------------------------------------------------------

    def _launch(
        self,
        kernel: str,
        names: tuple[str, ...],
        arguments: Sequence[Given],
        items: int,
        **defined: int,
    ) -> Launch:
        text = sources.program(self._texts, names, **defined)
        return self._device.program(text).launch(kernel, arguments, items)

    def _each(
        self,
        kernel: str,
        names: tuple[str, ...],
        arguments: Sequence[Given],
        width: int,
        **defined: int,
    ) -> Emit:
        """A kernel that has a work item for each of a row's `width` numbers."""
        launch = self._launch(kernel, names, arguments, ITEMS, WIDE=1, **defined)
        groups = -(-width // ITEMS)
        return lambda count: [(launch, (groups, count.rows, 1))]

    # --- calls ----------------------------------------------------------------------------------

    def _call(self, call: Call) -> list[Emit]:
        if call.kernel in self._functions:
            return [self._row_function(call)]
        if call.kernel == "linear":
            return self._linear(call)
        emits: dict[str, Callable[[Call], Emit]] = {
            "attend": self._attend,
            "attend_merge": self._attend_merge,
            "conv_store": self._conv_store,
            "convolve": self._convolve,
            "embed": self._embed,
            "gate": self._gate,
            "norm": self._norm,
            "rotate": self._rotate,
            "rotate_store": self._rotate_store,
            "store": self._store,
        }
        if call.kernel not in emits:
            raise BackendError(f"the bundle has an unknown kernel {call.kernel!r}; build it anew")
        return [emits[call.kernel](call)]

    def _memory(self, argument: Argument | None) -> Memory | None:
        if argument is None:
            return None
        if argument.offset:
            raise ValueError("kernels read whole rows")
        return self._places.buffers[argument.buffer]

    def _memories(self, call: Call) -> list[Memory | None]:
        return [self._memory(argument) for argument in call.arguments]

    def _row_function(self, call: Call) -> Emit:
        items = sources.row_items(call)
        key = call.kernel, items, sources.places(call, self._graph)
        buffers = [self._places.buffers[a.buffer] for a in call.arguments if a is not None]
        return self._each(self._rows[key], (sources.ROWS,), buffers, items)

    def _linear(self, call: Call) -> list[Emit]:
        """One launch for up to three matrices of the same format."""
        x, _, *pairs = self._memories(call)
        width, count, *numbers = call.numbers
        matrices = [
            (numbers[2 * i], (pairs[2 * i], pairs[2 * i + 1], numbers[2 * i + 1]))
            for i in range(count)
        ]
        emits = []
        for format in dict.fromkeys(each for each, _ in matrices):
            same = [matrix for each, matrix in matrices if each == format]
            for begin in range(0, len(same), 3):
                emits.append(self._products(format, x, width, same[begin : begin + 3]))
        return emits

    def _products(
        self,
        format: int,
        x: Memory | None,
        width: int,
        matrices: Sequence[tuple[Memory | None, Memory | None, int]],
    ) -> Emit:
        arguments: list[Memory | int | None] = [self._places.step, self._part, x, width]
        for matrix in (*matrices, *[(None, None, 0)] * (3 - len(matrices))):
            arguments += matrix
        tuned = self._tuned
        single, tiled = (
            self._device.program(
                tuning.linear(self._texts, tuned, format, rows, self._places.half)
            ).launch("edge_linear", arguments, tuned.items)
            for rows in (1, TILE)
        )
        groups = -(-sum(-(-rows // GROUP_ROWS) for _, _, rows in matrices) // tuned.beside)

        def emit(count: Count) -> Listed:
            if count.rows == 1:
                return [(single, (groups, 1, 1))]
            return [(tiled, (groups, -(-count.rows // TILE), 1))]

        return emit

    def _embed(self, call: Call) -> Emit:
        format, width, length, by_position = call.numbers
        out, matrix = self._memories(call)
        arguments = [self._places.step, out, matrix, width, length, by_position]
        return self._each("edge_embed", ("formats.h", "embed.c"), arguments, width, FORMAT=format)

    def _norm(self, call: Call) -> Emit:
        out, _, x, weight, bias = self._memories(call)
        groups, width, kind, own = call.numbers
        biased = int(bias is not None)
        numbers = (biased, groups, width, kind, own, float(call.reals[0]))
        launch = self._launch(
            "edge_norm",
            ("norm.c",),
            [out, x, weight, bias, *numbers],
            NORM_ITEMS,
            WIDE=1,
            NORM_ITEMS=NORM_ITEMS,
        )
        return lambda count: [(launch, (count.rows * groups, 1, 1))]

    def _gate(self, call: Call) -> Emit:
        out, _, gate, up = self._memories(call)
        width, activation = call.numbers
        arguments = [out, gate, up, int(up is not None), width, activation]
        return self._each("edge_gate", ("rows.c",), arguments, width)

    def _rotate(self, call: Call) -> Emit:
        heads, width, *_ = call.numbers
        arguments = [self._places.step, *self._memories(call), *call.numbers]
        return self._each("edge_rotate", ("rotate.h", "rotate.c"), arguments, heads * width)

    def _store(self, call: Call) -> Emit:
        state, keys, values = call.arguments
        assert state is not None
        heads, width = call.numbers
        places = self._places
        arguments = [places.step, self._memory(state), places.values[state.buffer]]
        arguments += [self._memory(keys), self._memory(values)]
        return self._each(
            "edge_store",
            STORE,
            [*arguments, heads, width, places.context],
            heads * width,
            **self._kept(),
        )

    def _rotate_store(self, call: Call) -> Emit:
        state = call.arguments[3]
        assert state is not None
        heads, key_heads, width, *_ = call.numbers
        places, memories = self._places, self._memories(call)
        arguments = [places.step, *memories[:4], places.values[state.buffer], *memories[4:]]
        return self._each(
            "edge_rotate_store",
            STORE,
            [*arguments, *call.numbers, places.context],
            (heads + 2 * key_heads) * width,
            **self._kept(),
        )

    def _conv_store(self, call: Call) -> Emit:
        (width,) = call.numbers
        arguments = [self._places.step, *self._memories(call), width, self._places.context]
        return self._each("edge_conv_store", ("convolve.c",), arguments, width)

    def _convolve(self, call: Call) -> Emit:
        width, taps = call.numbers
        arguments = [self._places.step, *self._memories(call), width, taps, self._places.context]
        return self._each("edge_convolve", ("convolve.c",), arguments, width)

    def _attend(self, call: Call) -> Emit:
        _, state, q, slopes = call.arguments
        assert state is not None
        out = self._memory(call.arguments[0])
        heads, key_heads, width, window = call.numbers
        places = self._places
        buffers = [places.step, self._memory(state), places.values[state.buffer]]
        buffers += [self._memory(q), self._memory(slopes), out, places.parts]
        numbers = (heads, key_heads, width, window, places.context, *map(float, call.reals))
        whole, spread = (
            self._attention("edge_attend", [*buffers, int(slopes is not None), is_spread, *numbers])
            for is_spread in (0, 1)
        )

        def emit(count: Count) -> Listed:
            if count.chunks:
                return [(spread, (count.chunks, heads, count.rows))]
            return [(whole, (1, heads, count.rows))]

        return emit

    def _attend_merge(self, call: Call) -> Emit:
        heads, _, width, window = call.numbers
        places = self._places
        arguments = [places.step, self._memory(call.arguments[0]), places.parts]
        launch = self._attention(
            "edge_attend_merge", [*arguments, heads, width, window, places.context]
        )
        return lambda count: [(launch, (1, heads, count.rows))] if count.chunks else []

    def _attention(self, kernel: str, arguments: Sequence[Given]) -> Launch:
        items = max(16, min(CHUNK // self._tuned.wide, self._device.about.items))
        return self._launch(
            kernel,
            ("state.h", "attend.c"),
            arguments,
            items,
            WIDE=self._tuned.wide,
            CHUNK=CHUNK,
            ATTEND_ITEMS=items,
            **self._kept(),
        )

    def _kept(self) -> dict[str, int]:
        return {"KV_HALF": 1} if self._places.kv_half else {}


def part_bytes(config: Config, context: int) -> int:
    """What attention leaves of its chunks takes, at most."""
    chunks = -(-context // CHUNK)
    return 4 * SPREAD_ROWS * config.heads * chunks * (HEADER + config.head_dim)
