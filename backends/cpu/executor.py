"""The executor that runs a StepGraph through a bundle's own library; no tinygrad, no compiler.

All addresses are worked out when the model is opened: a step only writes its rows' tokens, slots
and positions and calls the engine once, or twice where not every row's logits are wanted.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from edgellm import adapter_graph, memory
from edgellm.config import Config
from edgellm.errors import BackendError
from edgellm.executor import BLOCK, ROWS, Cancelled
from edgellm.graph import StepGraph
from edgellm.rope import alibi_slopes, rope_table

from . import cores, thread_count
from .cache import cache_bytes
from .calls import CallTable
from .engine import Engine, Step

if TYPE_CHECKING:
    from edgellm.adapter import Adapter

SAMPLE_BYTES = 16 << 20
"""Of weights, read to find out how many threads are fastest: more than a board's caches hold."""
SAMPLE_POSITION = 128
IN_PLACE = {"gate": (0, 2)}
"""What `StepGraph.plan` takes: the result's place among a kernel's arguments, and the input's."""
PADDING = 256
"""Bytes past the end of scratch memory that kernels may read, as whole vectors."""


class BundleExecutor:
    """Implements `edgellm.executor.Executor`.

    A row's logits are the same to the bit however many rows a step has, however a prompt is cut and
    however many threads there are.
    """

    chunk = 1

    def __init__(
        self,
        config: Config,
        graph: StepGraph,
        library: bytes | memoryview,
        weights: Mapping[str, int],
        *,
        context: int,
        slots: int = 1,
        threads: int | None = None,
        kv: Literal["f16", "int8"] = "f16",
        max_rows: int = ROWS,
        name: object = "the model",
        weight_bytes: int = 0,
        owner: object = None,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        """`weights` are addresses of the packed tensors, in memory that lives as long as `owner`,
        which is kept until `close`.

        `weight_bytes` is how much of them a step reads. Raises FitError where the system refuses
        memory, and calls the model by `name`; BackendError if the library can't be
        loaded, or is too old for adapters.
        """
        self.config, self.context, self.slots = config, context, slots
        self.max_rows = max(max_rows, slots)
        self._int8, self._owner = kv == "int8", owner
        self._kernels = (*graph.kernels(), *adapter_graph.KERNELS)
        self._strengths = np.zeros((slots, len(adapters)), np.float32)
        if adapters:
            adapted = adapter_graph.with_adapters(graph, adapters)
            arrays = {**adapted.arrays, adapter_graph.STRENGTHS: self._strengths}
            weights = {**weights, **{key: each.ctypes.data for key, each in arrays.items()}}
            weight_bytes += sum(each.nbytes for each in arrays.values())
            graph, self._owner = adapted.graph, (owner, arrays)
        self._graph = graph
        self._kept = -(-context // BLOCK) * BLOCK  # positions
        found = cores.find()
        wished = threads or found.count
        # Whoever asks for more threads than there are big cores means the little ones, too.
        cpus = found.cpus if found.little and wished <= found.count else None
        engine = Engine(library, wished, cpus)
        self._engine: Engine | None = engine
        self._most = engine.threads
        try:
            if adapters and not self._engine.adapts:
                raise BackendError(f"{name}: built before adapters were known; build it anew")
            with memory.fitting(name):
                self._allocate(engine, weights, name, weight_bytes)
            self._single = self._most
            if threads is None and self._most > 1:
                known = thread_count.remembered(library, found.cpus, self._most)
                self._single = known.fastest(self._sample(engine, weight_bytes))
        except BaseException:
            self.close()
            raise

    # --- opening --------------------------------------------------------------------------------

    def _allocate(
        self, engine: Engine, weights: Mapping[str, int], name: object, weight_bytes: int
    ) -> None:
        graph, rows = self._graph, self.max_rows
        plan, self._calls = graph.plan(in_place=IN_PLACE), CallTable(graph, self._kernels)
        body, count = len(graph.body), len(self._calls.which)
        tokens, positions, slots = self._inputs = np.zeros((3, rows), np.int32)
        step = self._step = Step(rows=rows, threads=engine.threads, context=self._kept)
        step.slot_count, step.kv_int8 = self.slots, self._int8
        step.from_memory = weight_bytes > cache_bytes()
        step.tokens, step.positions = tokens.ctypes.data, positions.ctypes.data
        step.slots = slots.ctypes.data
        # Single numbers enter faster than by way of NumPy.
        self._tokens, self._positions = tokens.data, positions.data
        self._slots = slots.data
        states = {
            index: self._state_bytes(engine, int(buffer.name))
            for index, buffer in enumerate(graph.buffers)
            if buffer.role == "state"
        }
        scratch = engine.scratch(self._calls.part(0, count), step)
        self._states = {index: _memory(size * self.slots) for index, size in states.items()}
        self._rows, self._scratch = _memory(plan.nbytes * rows), _memory(scratch)
        self._tables = {
            index: self._position_table(buffer.name)
            for index, buffer in enumerate(graph.buffers)
            if buffer.role == "table"
        }
        step.scratch, step.scratch_bytes = self._scratch.ctypes.data, scratch

        starts = {index: offset * rows for index, offset in plan.offsets.items()}
        self._calls.place(self._addresses(starts, weights))
        self._hidden, self._logits = (
            self._rows[starts[index] :][: graph.buffers[index].nbytes * rows]
            .view(np.float32)
            .reshape(rows, -1)
            for index in (graph.hidden, graph.logits)
        )
        self._cancel = ctypes.c_int32()
        self._whole, self._body, self._head = (
            engine.prepared(self._calls.part(*part), step, self._cancel)
            for part in ((0, count), (0, body), (body, count))
        )

    def _sample(self, engine: Engine, weight_bytes: int) -> Callable[[int], int]:
        """A function that takes a step of one row, some way into a conversation, with so many
        threads: all of it, or about SAMPLE_BYTES of weights."""
        count = len(self._calls.which)
        if weight_bytes > SAMPLE_BYTES:
            count = -(-len(self._graph.body) * SAMPLE_BYTES // weight_bytes)
        part = engine.prepared(self._calls.part(0, count), self._step, self._cancel)

        self._positions[0] = min(SAMPLE_POSITION, self.context - 1)

        def run(threads: int) -> int:
            self._step.rows, self._step.threads = 1, threads
            return part()

        return run

    def _addresses(self, starts: Mapping[int, int], weights: Mapping[str, int]) -> dict[int, int]:
        """Of every buffer of the graph; row buffers start somewhere in the rows' memory."""
        rows = self._rows.ctypes.data
        addresses = {index: rows + start for index, start in starts.items()}
        addresses.update((index, state.ctypes.data) for index, state in self._states.items())
        addresses.update((index, table.ctypes.data) for index, table in self._tables.items())
        for index, buffer in enumerate(self._graph.buffers):
            if buffer.role == "weight":
                addresses[index] = weights[buffer.name]
        return addresses

    def _state_bytes(self, engine: Engine, layer: int) -> int:
        """Of one layer and slot."""
        if self.config.layers[layer].kind == "conv":
            return 4 * self._kept * self.config.dim
        return engine.state_bytes(*self._shape(layer))

    def _shape(self, layer: int) -> tuple[int, int, int, bool]:
        heads = self.config.layers[layer].kv_heads
        return heads, self.config.head_dim, self._kept, self._int8

    def _position_table(self, name: str) -> NDArray[np.float32]:
        if name == "slopes":
            return alibi_slopes(self.config.heads)
        rope = self.config.ropes[int(name.removeprefix("rope."))]
        return rope_table(rope, self.context, self._kept)

    # --- running --------------------------------------------------------------------------------

    @property
    def threads(self) -> int:
        return self._most

    @threads.setter
    def threads(self, count: int) -> None:
        self._most = max(1, min(count, self._running().threads))

    def run(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> NDArray[np.float32]:
        self._cancel.value = 0
        return self._run(tokens, slots, positions, wanted)

    def cancel(self) -> None:
        self._cancel.value = 1

    def step(
        self, tokens: Sequence[int], slots: Sequence[int], positions: Sequence[int]
    ) -> NDArray[np.float32]:
        return self.run(tokens, slots, positions, range(len(tokens))).copy()

    def prefill(
        self, tokens: Sequence[int], slot: int, position: int, every: bool = False
    ) -> NDArray[np.float32]:
        if not tokens or position + len(tokens) > self.context:
            raise ValueError(f"{len(tokens)} tokens at {position} in a context of {self.context}")
        self._cancel.value = 0
        pieces = []
        for begin in range(0, len(tokens), self.max_rows):
            piece = tokens[begin : begin + self.max_rows]
            count, last = len(piece), begin + len(piece) == len(tokens)
            wanted = range(count) if every else range(count - 1, count) if last else range(0)
            places = range(position + begin, position + begin + count)
            pieces.append(self._run(piece, [slot] * count, places, wanted).copy())
        return np.concatenate(pieces) if every else pieces[-1][0]

    def _run(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> NDArray[np.float32]:
        count, asked = len(tokens), len(wanted)
        if not 0 < count <= self.max_rows:
            raise ValueError(f"{count} rows in a step of 1 to {self.max_rows}")
        for row in range(count):
            slot, position = slots[row], positions[row]
            if not (0 <= slot < self.slots and 0 <= position < self.context):
                raise ValueError(f"slot {slot}, position {position} in a context of {self.context}")
            self._tokens[row], self._slots[row], self._positions[row] = tokens[row], slot, position
        self._step.rows = count
        self._step.threads = self._most if count > 1 else min(self._most, self._single)
        if asked == count:
            stopped = self._whole()
        else:
            stopped = self._body()
            if asked and not stopped:
                self._hidden[:asked] = self._hidden[list(wanted)]
                for row, source in enumerate(wanted):
                    self._slots[row] = slots[source]
                self._step.rows = asked
                stopped = self._head()
        if stopped:
            raise Cancelled
        return self._logits[:asked]

    @property
    def choice(self) -> Engine:
        return self._running()

    def copy(self, source: int, target: int, length: int) -> None:
        in_slots = 0 <= source < self.slots and 0 <= target < self.slots
        if not (in_slots and 0 <= length <= self.context):
            raise ValueError(f"{length} positions from slot {source} to {target} of {self.slots}")
        if source == target:
            return
        engine = self._running()
        for index, state in self._states.items():
            layer = int(self._graph.buffers[index].name)
            if self.config.layers[layer].kind == "conv":
                past = state.reshape(self.slots, self._kept, -1)
                past[target, :length] = past[source, :length]
            else:
                engine.copy_state(state.ctypes.data, self._shape(layer), (source, target), length)

    def adapt(self, slot: int, strengths: Sequence[float]) -> None:
        self._strengths[slot] = strengths

    def close(self) -> None:
        """Closing twice is harmless. Memory goes with the last of the arrays that lie in it."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None
        for name in ("_states", "_rows", "_scratch", "_tables", "_hidden", "_logits", "_owner"):
            self.__dict__.pop(name, None)
        for name in ("_whole", "_body", "_head"):
            self.__dict__[name] = _closed

    def _running(self) -> Engine:
        if self._engine is None:
            raise ValueError("the model has been closed")
        return self._engine


def _closed() -> int:
    raise ValueError("the model has been closed")


def _memory(size: int) -> NDArray[np.uint8]:
    """Zeros, which take memory only once they are written to."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return np.frombuffer(mmap.mmap(-1, size + PADDING, flags), np.uint8)[:size]
