"""Capture: the Transformer's step for one row, taken from tinygrad as a StepGraph; nothing runs.

The Transformer is called on placeholders. Its heavy operations become calls of a backend's kernels
(the files in `backends/cpu/kernels` say what each computes); what is left over tinygrad schedules
and writes as C or a kin of it, one function a kernel, for one row. This is the only place besides
the backends that uses tinygrad's internals: custom kernels, the schedule's calls, and its renderers
without a compiler.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tinygrad import Tensor, UOp, dtypes
from tinygrad.codegen import to_program
from tinygrad.device import Buffer as TinyBuffer
from tinygrad.device import Compiler
from tinygrad.helpers import Context, Target
from tinygrad.renderer import Renderer as TinyRenderer
from tinygrad.renderer.cstyle import ClangRenderer, CStyleLanguage
from tinygrad.uop.ops import KernelInfo, Ops

from edgellm.config import Config, Layer
from edgellm.graph import Argument, Buffer, Call, Role, RowFunction, StepGraph
from edgellm.model import Block, Position, Transformer, scaled
from edgellm.packing import BLOCKS, FLOAT_FORMATS

FORMATS = tuple(BLOCKS)
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu2")
BLOCK = 32


@dataclass(frozen=True)
class Weight:
    """What the capture needs to know of one tensor."""

    shape: tuple[int, ...]
    format: str | None
    """How its matrix is packed; None: plain float32."""


def capture(
    config: Config,
    weights: Mapping[str, Weight],
    *,
    codes: bool = True,
    renderer: TinyRenderer | None = None,
) -> StepGraph:
    """The graph of one step of the model with these weights.

    With `codes` products with integer formats read rows that are quantised to int8; without, all
    read floats. `renderer` writes the row functions, by default in C. One that knows work items has
    to spread them over one dimension, without groups; a call's only number is how many there are.
    """
    recorder = Recorder(renderer or Renderer())
    transformer = RowTransformer(config, weights, recorder, codes)
    hidden = transformer.embed(Tensor.empty(1, 1, dtype=dtypes.int32))
    for index, (block, layer) in enumerate(zip(transformer.blocks, config.layers, strict=True)):
        state = recorder.place("state", str(index))
        hidden = transformer.block(block, layer, hidden, state)
    body, last = recorder.calls(_stored(hidden))
    asked = _row(1, 1, config.dim)
    head, logits = recorder.calls(_stored(transformer.logits(transformer.final(asked))))
    # The head reads its rows from where the body has left them.
    head = [_renamed(call, recorder.buffer(asked), last) for call in head]
    body, head = _with_merges(_without_unread(body)), _without_unread(head)
    return StepGraph(
        buffers=tuple(recorder.buffers),
        body=tuple(body),
        head=tuple(head),
        hidden=last,
        logits=logits,
        functions=tuple(recorder.functions.values()),
    )


def _without_unread(calls: Sequence[Call]) -> list[Call]:
    """The calls without the codes that norms and gates offer but no product reads."""
    read = {call.arguments[1] for call in calls if call.kernel == "linear"}

    def pruned(call: Call) -> Call:
        if call.kernel not in ("norm", "gate") or call.arguments[1] in read:
            return call
        output, _, *inputs = call.arguments
        return call._replace(arguments=(output, None, *inputs))

    return [pruned(call) for call in calls]


def _with_merges(calls: Sequence[Call]) -> list[Call]:
    """Attention in its two calls, next to each other: the second joins what the first left."""
    merged: list[Call] = []
    for call in calls:
        merged.append(call)
        if call.kernel == "attend":
            merged.append(call._replace(kernel="attend_merge"))
    return merged


def _renamed(call: Call, old: int, new: int) -> Call:
    arguments = tuple(
        Argument(new, argument.offset) if argument and argument.buffer == old else argument
        for argument in call.arguments
    )
    return call._replace(arguments=arguments)


class Renderer(ClangRenderer):
    """tinygrad's C, without the compiler that its own constructor asks for."""

    has_threads = False

    def __init__(self) -> None:
        CStyleLanguage.__init__(self, Target.parse("CPU:CLANG:x86_64,generic"))
        self.compiler = Compiler()


@dataclass(frozen=True)
class _Kernel:
    """What a placeholder in tinygrad's graph stands for."""

    name: str
    present: tuple[bool, ...]
    """Which of the kernel's buffers are given."""
    numbers: tuple[int, ...]
    reals: tuple[float, ...]


class Recorder:
    """Numbers the buffers and turns tinygrad's schedule into calls."""

    def __init__(self, renderer: TinyRenderer) -> None:
        self.buffers: list[Buffer] = []
        self.functions: dict[str, RowFunction] = {}  # by source
        self._renderer = renderer
        self._kernels: dict[str, _Kernel] = {}
        self._index: dict[int, int] = {}  # by the identity of tinygrad's buffers
        self._kept: list[Tensor | UOp] = []  # whose identities must stay unique

    def place(self, role: Role, name: str, shape: Sequence[int] = (1,)) -> Tensor:
        """A placeholder for memory that isn't a row's."""
        tensor = Tensor.empty(*shape, dtype=dtypes.float32)
        self._index[id(tensor.uop.base.buffer)] = len(self.buffers)
        self.buffers.append(Buffer(role, name))
        self._kept.append(tensor)
        return tensor

    def kernel(
        self,
        name: str,
        buffers: Sequence[Tensor | None],
        numbers: Sequence[int] = (),
        reals: Sequence[float] = (),
    ) -> list[Tensor]:
        """Put a call into the graph; returns the given buffers as they are after it."""
        key = f"kernel_{len(self._kernels)}"
        present = tuple(buffer is not None for buffer in buffers)
        self._kernels[key] = _Kernel(name, present, tuple(numbers), tuple(reals))

        def stand_in(*uops: UOp) -> UOp:
            sink = UOp.sink(*uops, arg=KernelInfo(name=key))
            source = UOp(Ops.SOURCE, arg=key)
            return UOp(Ops.PROGRAM, src=(sink, UOp(Ops.LINEAR, src=tuple(sink.toposort())), source))

        given = [buffer for buffer in buffers if buffer is not None]
        after = Tensor.custom_kernel(*map(_stored, given), fxn=stand_in)
        return [made.reshape(buffer.shape) for made, buffer in zip(after, given, strict=True)]

    def calls(self, result: Tensor) -> tuple[list[Call], int]:
        """The calls that compute the result, in order, and the buffer where it ends up."""
        schedule = Tensor.schedule_linear(result)
        self._kept.append(result)
        return [self._call(call) for call in _flat(schedule)], self.buffer(result)

    def buffer(self, tensor: Tensor) -> int:
        return self._argument(tensor.uop.base).buffer

    def _call(self, call: UOp) -> Call:
        program, given = call.src[0], [self._argument(uop) for uop in call.src[1:]]
        if program.op is Ops.PROGRAM:
            kernel = self._kernels[program.src[2].arg]
            left = iter(given)
            arguments = tuple(next(left) if there else None for there in kernel.present)
            return Call(kernel.name, arguments, kernel.numbers, kernel.reals)
        if program.op is not Ops.SINK:
            raise NotImplementedError(f"a {program.op} in the step")
        # Where there are work items, each is to compute one number.
        with Context(NOOPT=int(self._renderer.has_local)):  # type: ignore[no-untyped-call]
            lowered = to_program(program, self._renderer)
        source, info = lowered.src[2].arg, lowered.arg
        items, *others = info.global_size
        if info.vars or set((*others, *info.local_size)) != {1}:
            raise NotImplementedError(f"{info.function_name} isn't a function of one row")
        if source not in self.functions:
            name = f"row_{len(self.functions)}"
            text = source.replace(f"void {info.function_name}(", f"void {name}(")
            self.functions[source] = RowFunction(name, text, len(info.globals))
        order = info.globals or range(len(given))
        numbers = (int(items),) if items > 1 else ()
        return Call(self.functions[source].name, tuple(given[index] for index in order), numbers)

    def _argument(self, uop: UOp) -> Argument:
        view = uop.buffer
        if not isinstance(view, TinyBuffer):
            raise NotImplementedError("a buffer on several devices")
        base = view.base
        if id(base) not in self._index:
            self._index[id(base)] = len(self.buffers)
            self.buffers.append(Buffer("row", nbytes=base.nbytes))
            self._kept.append(uop)
        return Argument(self._index[id(base)], view.offset)


def _flat(schedule: UOp) -> Iterator[UOp]:
    for call in schedule.src:
        if call.op is Ops.LINEAR:
            yield from _flat(call)
        else:
            yield call


class RowTransformer(Transformer):
    """The Transformer for one row, B = T = 1, with kernels where speed is decided.

    Tensors that kernels read at the row's own position (rotary tables, keys and values) have no
    meaningful shape here; a state's `rows` is one placeholder for all that a layer remembers.
    """

    def __init__(
        self, config: Config, weights: Mapping[str, Weight], recorder: Recorder, codes: bool
    ) -> None:
        self.recorder, self.with_codes = recorder, codes
        self._formats: dict[int, str | None] = {}
        placed: dict[str, Tensor] = {}
        for name, weight in weights.items():
            tensor = placed[name] = recorder.place("weight", name, weight.shape or (1,))
            self._formats[id(tensor)] = weight.format
        self._quantised: dict[UOp, Tensor] = {}
        super().__init__(config, placed, config.context)

    def make_tables(self) -> None:
        config, place = self.config, self.recorder.place
        self.ropes = [place("table", f"rope.{index}") for index in range(len(config.ropes))]
        self.slopes = place("table", "slopes") if config.position == "alibi" else None

    def embed(self, tokens: Tensor, start: Position = 0) -> Tensor:
        x = self._rows_of("token_embd.weight", by_position=False)
        x = scaled(x, self.config.embed_scale)
        if self.config.position == "learned":
            x = x + self._rows_of("position_embd.weight", by_position=True)
        return x

    def _rows_of(self, name: str, by_position: bool) -> Tensor:
        weight = self.top[name]
        length, width = map(int, weight.shape)
        numbers = (self._format(weight), width, length, int(by_position))
        return self.recorder.kernel("embed", [_row(1, 1, width), weight], numbers)[0]

    def norm(self, x: Tensor, block: Block, name: str) -> Tensor:
        weight = block.get(f"{name}.weight")
        if weight is None:
            return x
        width = int(x.shape[-1])
        groups = int(x.numel()) // width
        kind, own = ("rms", "layer").index(self.config.norm), int(weight.numel() > width)
        codes = self._codes(width) if groups == 1 else None
        made = self.recorder.kernel(
            "norm",
            [_like(x), codes, x, weight, block.get(f"{name}.bias")],
            (groups, width, kind, own),
            (self.config.norm_eps,),
        )
        return self._with_codes(made, codes)

    def products(self, x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        width = int(x.shape[-1])
        formats = [self._format(weight) for weight in weights]
        floats = [not self.with_codes or FORMATS[each] in FLOAT_FORMATS for each in formats]
        buffers: list[Tensor | None] = [
            x if any(floats) else None,
            None if all(floats) else self._codes_of(x),
        ]
        numbers = [width, len(weights)]
        for matrix, each in zip(weights, formats, strict=True):
            buffers += [matrix, _row(1, 1, int(matrix.shape[0]))]
            numbers += [each, int(matrix.shape[0])]
        return self.recorder.kernel("linear", buffers, numbers)[-2 * len(weights) :][1::2]

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        return self._gate(gate, up)

    def activate(self, x: Tensor) -> Tensor:
        return self._gate(x, None)

    def _gate(self, gate: Tensor, up: Tensor | None) -> Tensor:
        width = int(gate.shape[-1])
        codes = self._codes(width)
        activation = ACTIVATIONS.index(self.config.activation)
        made = self.recorder.kernel(
            "gate", [_row(1, 1, width), codes, gate, up], (width, activation)
        )
        return self._with_codes(made, codes)

    def rotate(self, x: Tensor, layer: Layer, start: Position) -> Tensor:
        if layer.rope is None:
            return x
        _, heads, _, width = map(int, x.shape)
        turned = self.config.ropes[layer.rope].dim // 2 * 2
        style = ("half", "pair").index(self.config.rope_style)
        table = self.ropes[layer.rope]
        return self.recorder.kernel("rotate", [_like(x), x, table], (heads, width, turned, style))[
            0
        ]

    def attend(
        self,
        layer: Layer,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rows: Tensor | None,
        slot: Position,
        start: Position,
    ) -> Tensor:
        config, keys, width = self.config, layer.kv_heads, self.config.head_dim
        state = self.recorder.kernel("store", [rows, k, v], (keys, width))[0]
        scale = config.attn_scale or width**-0.5
        return self.recorder.kernel(
            "attend",
            [_row(1, 1, config.heads * width), state, q, self.slopes],
            (config.heads, keys, width, layer.window),
            (scale, config.attn_softcap),
        )[0]

    def convolve(
        self, block: Block, past: Tensor, rows: Tensor | None, slot: Position, start: Position
    ) -> Tensor:
        width = int(past.shape[-1])
        state = self.recorder.kernel("conv_store", [rows, past], (width,))[0]
        kernel = block["shortconv.conv.weight"]
        taps = self.config.conv_taps
        return self.recorder.kernel("convolve", [_row(1, 1, width), state, kernel], (width, taps))[
            0
        ]

    def _format(self, weight: Tensor) -> int:
        name = self._formats[id(weight)]
        if name is None:
            raise ValueError("a matrix of the step isn't packed")
        return FORMATS.index(name)

    def _codes(self, width: int) -> Tensor | None:
        """Room for a row in int8, where products read such and it can be quantised."""
        return _codes(width) if self.with_codes and width % BLOCK == 0 else None

    def _with_codes(self, made: list[Tensor], codes: Tensor | None) -> Tensor:
        """The first buffer after a kernel; its codes, the second, are remembered for products."""
        if codes is not None:
            self._quantised[_stored(made[0]).uop] = made[1]
        return made[0]

    def _codes_of(self, x: Tensor) -> Tensor:
        """x in int8, computed once."""
        key = _stored(x).uop
        if key not in self._quantised:
            width = int(x.shape[-1])
            made = self.recorder.kernel("quantise", [_codes(width), x], (width,))
            self._quantised[key] = made[0]
        return self._quantised[key]


def _stored(tensor: Tensor) -> Tensor:
    """The tensor as one piece of memory: itself where only its shape was changed, else a copy."""
    uop = tensor.uop
    while uop.op is Ops.RESHAPE or (uop.op is Ops.PERMUTE and _keeps_order(uop)):
        uop = uop.src[0]
    return Tensor(uop).contiguous()


def _keeps_order(permute: UOp) -> bool:
    """Whether a permutation moves only dimensions of 1."""
    shape = permute.src[0].shape
    wide = [axis for axis in permute.arg if shape[axis] != 1]
    return wide == sorted(wide)


def _row(*shape: int) -> Tensor:
    return Tensor.empty(*shape, dtype=dtypes.float32)


def _like(x: Tensor) -> Tensor:
    return _row(*map(int, x.shape))


def _codes(width: int) -> Tensor:
    """A row quantised to int8: per block of 32 the codes, a scale and two sums; in bytes."""
    return Tensor.empty(-(-(width + width // BLOCK * 12) // 64) * 64, dtype=dtypes.uint8)
