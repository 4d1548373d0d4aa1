"""The executor that runs a StepGraph on a Device; no tinygrad.

All launches are prepared when the model is opened: a step writes its rows' tokens, slots and
positions, launches what is listed for its number of rows, and reads the logits that are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgellm import memory
from edgellm.config import Config
from edgellm.errors import FitError
from edgellm.executor import Cancelled, Progress
from edgellm.graph import RowPlan, StepGraph
from edgellm.interleave import GROUP
from edgellm.rope import alibi_slopes, rope_table

from . import sources
from .device import Argument, Device, Memory
from .launches import BODY, CHUNK, HEAD, ITEMS, SPREAD_ROWS, Count, Launches, Places, part_bytes
from .sources import Texts
from .tuning import Tuning
from .weights import Weights

MAX_ROWS = 128
HEAD_ROWS = 8
"""Rows whose logits are computed at once."""
BLOCK = 16
"""Positions are kept in blocks of so many: BESIDE_KEYS in kernels/state.h."""
STEP_WIDTH = 4
"""Numbers of a row in the step, and of its header: STEP_HEADER in kernels/dialect.h."""
AHEAD = 64
"""Launches of a long step before it is waited for them, and looked whether it was cancelled."""


@dataclass(frozen=True)
class Options:
    """How a model is run."""

    context: int
    slots: int = 1
    kv_half: bool = False
    half: bool = False
    max_rows: int = MAX_ROWS


class GPUExecutor:
    """Implements `edgellm.executor.Executor`.

    A row's logits are the same to the bit however many rows a step has and however a prompt is cut.
    """

    chunk = 1
    choice = None

    def __init__(
        self,
        device: Device,
        tuned: Tuning,
        config: Config,
        graph: StepGraph,
        texts: Texts,
        weights: Weights,
        options: Options,
        name: object = "the model",
        progress: Progress | None = None,
    ) -> None:
        """Owns the device from now on, and closes it.

        Raises FitError where it hasn't memory enough, before it is taken, and calls the model by
        `name`; BackendError if the driver can't compile the sources or fails.
        """
        self.config, self.context, self.slots = config, options.context, options.slots
        self.threads, self.max_rows = 1, max(options.max_rows, options.slots)
        self._graph, self._options = graph, options
        self._kept = -(-options.context // BLOCK) * BLOCK  # positions
        self._cancelled = False
        self._device: Device | None = device
        try:
            self._open(device, tuned, texts, weights, name, progress)
        except BaseException:
            self.close()
            raise

    # --- opening --------------------------------------------------------------------------------

    def _open(
        self,
        device: Device,
        tuned: Tuning,
        texts: Texts,
        weights: Weights,
        name: object,
        progress: Progress | None,
    ) -> None:
        graph, rows = self._graph, self.max_rows
        alignment = device.about.alignment
        body = replace(graph, head=(), logits=graph.hidden).plan(alignment)
        head = replace(graph, body=()).plan(alignment)
        sizes = {
            "rows": body.nbytes * rows,
            "head": head.nbytes * HEAD_ROWS,
            "parts": part_bytes(self.config, self._kept),
        }
        states = {
            index: self._state_bytes(int(buffer.name))
            for index, buffer in enumerate(graph.buffers)
            if buffer.role == "state"
        }
        used = {buffer.name for buffer in graph.buffers if buffer.role == "weight"}
        asked = [weights.nbytes(each) for each in used]
        asked += [part for pair in states.values() for part in pair]
        asked += sizes.values()
        asked += [4 * self._kept * rope.dim for rope in self.config.ropes]
        self._check_fit(device, asked, name)

        whole = {each: device.allocate(max(nbytes, alignment)) for each, nbytes in sizes.items()}
        self._steps = np.zeros((rows + 1, STEP_WIDTH), np.int32)
        self._step = device.allocate(self._steps.nbytes)
        lasting = self._upload(device, weights, progress)
        values: dict[int, Memory] = {}
        self._states: dict[int, tuple[Memory, ...]] = {}
        for index, parts in states.items():
            made = tuple(device.allocate(nbytes) for nbytes in parts)
            self._states[index], lasting[index] = made, made[0]
            values[index] = made[-1]
        of_body = self._views(device, whole["rows"], body, rows)
        of_head = self._views(device, whole["head"], head, HEAD_ROWS)
        places = Places(
            step=self._step,
            buffers=lasting | of_body,
            values=values,
            parts=whole["parts"],
            context=self._kept,
            kv_half=self._options.kv_half,
            half=self._options.half,
        )
        common = device, texts, graph, self.config, tuned
        self._body = Launches(*common, places, BODY)
        self._head = Launches(*common, replace(places, buffers=lasting | of_head), HEAD)
        width = self.config.dim
        gather = sources.program(texts, ("rows.c",), WIDE=1)
        arguments: list[Argument] = [
            self._step,
            of_head[graph.hidden],
            of_body[graph.hidden],
            width,
        ]
        self._gather = device.program(gather).launch("edge_gather", arguments, ITEMS)
        self._gather_groups = -(-width // ITEMS)
        self._logits = of_head[graph.logits]

    def _check_fit(self, device: Device, asked: Sequence[int], name: object) -> None:
        about, need = device.about, sum(asked)
        if need > about.memory:
            raise FitError(
                f"{name} needs about {memory.size(need)} on the device with {self.slots} contexts "
                f"of {self.context} tokens, {about.name} has {memory.size(about.memory)}; "
                f"{memory.REMEDY}"
            )
        if max(asked) > about.largest:
            raise FitError(
                f"{name} needs {memory.size(max(asked))} in one piece, {about.name} gives "
                f"{memory.size(about.largest)} at most; {memory.REMEDY}"
            )

    def _upload(
        self, device: Device, weights: Weights, progress: Progress | None
    ) -> dict[int, Memory]:
        """Weights and tables, by the numbers of their buffers."""
        made: dict[int, Memory] = {}
        named = [(i, b) for i, b in enumerate(self._graph.buffers) if b.role in ("weight", "table")]
        for done, (index, buffer) in enumerate(named):
            if progress:
                progress("loading", done, len(named))
            data = weights[buffer.name] if buffer.role == "weight" else self._table(buffer.name)
            made[index] = device.hold(data)
        return made

    def _views(self, device: Device, memory: Memory, plan: RowPlan, rows: int) -> dict[int, Memory]:
        return {
            index: device.view(memory, offset * rows, self._graph.buffers[index].nbytes * rows)
            for index, offset in plan.offsets.items()
        }

    def _state_bytes(self, layer: int) -> tuple[int, ...]:
        """Of one layer, for all slots: keys and values, or what convolutions remember."""
        config, found = self.config, self.config.layers[layer]
        positions = self.slots * self._kept
        if found.kind == "conv":
            return (4 * positions * config.dim,)
        padded = -(-config.head_dim // GROUP) * GROUP
        element = 2 if self._options.kv_half else 4
        return tuple(
            element * positions * found.kv_heads * width for width in (config.head_dim, padded)
        )

    def _table(self, name: str) -> NDArray[np.float32]:
        if name == "slopes":
            return alibi_slopes(self.config.heads)
        rope = self.config.ropes[int(name.removeprefix("rope."))]
        return rope_table(rope, self.context, self._kept)

    # --- running --------------------------------------------------------------------------------

    def run(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> NDArray[np.float32]:
        self._cancelled = False
        return self._run(tokens, slots, positions, wanted)

    def cancel(self) -> None:
        self._cancelled = True

    def step(
        self, tokens: Sequence[int], slots: Sequence[int], positions: Sequence[int]
    ) -> NDArray[np.float32]:
        return self.run(tokens, slots, positions, range(len(tokens)))

    def prefill(
        self, tokens: Sequence[int], slot: int, position: int, every: bool = False
    ) -> NDArray[np.float32]:
        if not tokens or position + len(tokens) > self.context:
            raise ValueError(f"{len(tokens)} tokens at {position} in a context of {self.context}")
        self._cancelled = False
        pieces = []
        for begin in range(0, len(tokens), self.max_rows):
            piece = tokens[begin : begin + self.max_rows]
            count, last = len(piece), begin + len(piece) == len(tokens)
            wanted = range(count) if every else range(count - 1, count) if last else range(0)
            places = range(position + begin, position + begin + count)
            pieces.append(self._run(piece, [slot] * count, places, wanted))
        return np.concatenate(pieces) if every else pieces[-1][0]

    def _run(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> NDArray[np.float32]:
        device, rows = self._running(), len(tokens)
        if not 0 < rows <= self.max_rows:
            raise ValueError(f"{rows} rows in a step of 1 to {self.max_rows}")
        fed = self._steps[1 : rows + 1]
        fed[:, 0], fed[:, 1], fed[:, 2] = tokens, positions, slots
        if not (
            0 <= fed[:, 2].min() <= fed[:, 2].max() < self.slots
            and 0 <= fed[:, 1].min() <= fed[:, 1].max() < self.context
        ):
            raise ValueError(f"slots {slots}, positions {positions}, a context of {self.context}")
        self._steps[0, BODY] = rows
        chunks = int(fed[:, 1].max()) // CHUNK + 1
        spread = rows <= SPREAD_ROWS and chunks > 1
        logits = np.empty((len(wanted), self.config.vocab), np.float32)
        pieces = range(0, len(wanted), HEAD_ROWS)
        for begin in pieces or range(1):
            asked = wanted[begin : begin + HEAD_ROWS]
            self._steps[0, HEAD] = len(asked)
            self._steps[1 : len(asked) + 1, 3] = asked
            device.write(self._step, self._steps[: max(rows, len(asked)) + 1])
            if begin == 0:
                self._launch(device, self._body, Count(rows, chunks if spread else 0))
            if asked:
                self._gather((self._gather_groups, len(asked), 1))
                self._launch(device, self._head, Count(len(asked), 0))
                device.read(self._logits, logits[begin : begin + len(asked)])
        return logits

    def _launch(self, device: Device, launches: Launches, count: Count) -> None:
        for number, (launch, groups) in enumerate(launches.of(count)):
            if self._cancelled:
                device.finish()
                raise Cancelled
            launch(groups)
            if count.rows > SPREAD_ROWS and number % AHEAD == AHEAD - 1:
                device.finish()

    def copy(self, source: int, target: int, length: int) -> None:
        in_slots = 0 <= source < self.slots and 0 <= target < self.slots
        if not (in_slots and 0 <= length <= self.context):
            raise ValueError(f"{length} positions from slot {source} to {target} of {self.slots}")
        device = self._running()
        if source == target or length == 0:
            return
        for index, parts in self._states.items():
            layer = self.config.layers[int(self._graph.buffers[index].name)]
            heads = 1 if layer.kind == "conv" else layer.kv_heads
            for part in parts:
                stride = part.nbytes // (self.slots * heads)  # of one head in one slot
                # Keys lie in blocks of positions: a whole number of them is copied.
                kept = -(-length // BLOCK) * BLOCK * (stride // self._kept)
                for head in range(heads):
                    begin, end = ((slot * heads + head) * stride for slot in (source, target))
                    device.copy(part, begin, end, kept)

    def close(self) -> None:
        """Closing twice is harmless."""
        if self._device is not None:
            self._device.close()
        self._device = None

    def _running(self) -> Device:
        if self._device is None:
            raise ValueError("the model has been closed")
        return self._device
