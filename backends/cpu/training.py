"""Training on the CPU: products, attention and cross-entropy as kernels within tinygrad's graph.

tinygrad runs a small function of C for each call; it fills in a call of `kernels/edge.h` and hands
it to the engine, whose threads share the work. Gradients are such calls, too. The places that use
tinygrad's internals are this, `edgellm.capture` and `edgellm.training.memory`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tinygrad import Tensor, UOp, dtypes
from tinygrad.uop.ops import KernelInfo, Ops, ProgramInfo

from edgellm import packing
from edgellm.capture import ACTIVATIONS
from edgellm.checkpoint import StoredTensor
from edgellm.packing import BLOCKS
from edgellm.training.operations import Attention, Form, Place

from .cores import usable
from .engine import Engine
from .library import library
from .recipe import KERNELS
from .target import native

FORMATS = tuple(BLOCKS)
NAMES = (
    "outputs",
    "inputs",
    "product",
    "attention",
    "attention_back",
    "gated",
    "gated_back",
    "entropy",
    "lookup",
    "lookup_back",
)

TYPES = {dtypes.float32: "float", dtypes.int32: "int", dtypes.uint8: "unsigned char"}


def training_library() -> bytes:
    """The kernels of training and the engine, as a shared object for this machine."""
    entries = "".join(f"extern const Kernel edge_{name};\n" for name in NAMES)
    table = ", ".join(f"&edge_{name}" for name in NAMES)
    source = (
        f'#include "edge.h"\n{entries}const Kernel *const *edge_kernels(void) {{\n'
        f"    static const Kernel *const kernels[] = {{{table}}};\n    return kernels;\n}}\n"
    )
    # The engine is declared with all that a bundle's library has.
    kernels = [*KERNELS.glob("*.c"), *KERNELS.glob("training/*.c")]
    return library(native(), source, kernels=sorted(kernels))


@dataclass(frozen=True)
class _Call:
    """A kernel's call but for its buffers."""

    kernel: str
    outputs: int
    """Buffers that it writes; they come first."""
    numbers: tuple[int, ...] = ()
    reals: tuple[float, ...] = ()
    made: bool = False
    """What it writes stands there already: nothing is to do, but there is a way back."""


class CPUOperations:
    """Implements `edgellm.training.operations.Operations`."""

    def __init__(self, threads: int | None = None) -> None:
        self._engine = Engine(training_library(), threads or usable())
        addresses = [self._engine.address("edge_call"), self._engine.pool]
        self._table = Tensor(np.array(addresses, np.uint64)).realize()

    def pack(self, tensor: StoredTensor) -> tuple[Tensor, Form]:
        format, _ = packing.choose(tensor)
        rows, columns = tensor.shape
        packed = np.empty(packing.packed_bytes(format, rows, columns), np.uint8)
        packing.pack_into(tensor, packed, format)
        return Tensor(packed).realize(), Form(format, (rows, columns))

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        form: Form,
        low: Tensor | None = None,
        up: Tensor | None = None,
        place: Place | None = None,
    ) -> Tensor:
        rows, (out, width) = int(x.shape[0]), form.shape
        rank = 0 if low is None else int(low.shape[1])
        numbers = (rows, width, out, FORMATS.index(form.format))

        def gradients(gradient: UOp, call: UOp) -> tuple[UOp | None, ...]:
            g = Tensor(gradient).contiguous()
            given = [Tensor(source) for source in call.src[1:]]
            into = self._run(_Call("inputs", 1, numbers), [_new(rows, width), g, given[2]])
            if not rank:
                return None, into.uop, None, None
            by_low = self._product(g, given[4])
            by_up = self._product(g, given[3], a_turned=True)
            return None, into.uop, None, by_low.uop, by_up.uop, None

        given = [x.contiguous(), weight]
        if low is not None and up is not None:
            given += [low.contiguous(), up.contiguous()]
        call = _Call("outputs", 1, (*numbers, rank))
        return self._kept(call, place, (rows, out), given, gradients)

    def product(
        self, a: Tensor, b: Tensor, turned: bool = False, place: Place | None = None
    ) -> Tensor:
        def gradients(gradient: UOp, call: UOp) -> tuple[UOp | None, ...]:
            g, left, right = Tensor(gradient).contiguous(), *map(Tensor, call.src[2:4])
            by_a = self._product(g, right, b_turned=not turned)
            by_b = (
                self._product(g, left, a_turned=True)
                if turned
                else self._product(left, g, a_turned=True)
            )
            return None, by_a.uop, by_b.uop, None

        return self._product(a, b, b_turned=turned, gradients=gradients, place=place)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        first: Tensor,
        how: Attention,
        place: Place | None = None,
    ) -> Tensor:
        batch, length, heads, width = map(int, q.shape)
        keys = int(k.shape[2])
        numbers, reals = (batch, length, heads, keys, width, how.window), (how.scale, how.cap)
        rest = [first] if how.slopes is None else [first, how.slopes]

        def gradients(gradient: UOp, call: UOp) -> tuple[UOp | None, ...]:
            g = Tensor(gradient).contiguous()
            inputs = [Tensor(source) for source in call.src[2:5]]
            outputs = [_new(batch, length, heads, width) for _ in range(3)]
            made = self._calls(
                _Call("attention_back", 3, numbers, reals), [*outputs, *inputs, g, *rest]
            )
            by_k, by_v = (
                x.reshape(batch, length, keys, heads // keys, width).sum(3) for x in made[1:3]
            )
            unlearnt = [None] * (len(rest) + 1)
            return None, made[0].uop, by_k.uop, by_v.uop, *unlearnt

        given = [*(x.contiguous() for x in (q, k, v)), *rest]
        call = _Call("attention", 1, numbers, reals)
        return self._kept(call, place, (batch, length, heads, width), given, gradients)

    def gated(self, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        shape = tuple(map(int, gate.shape))
        numbers = (math.prod(shape), ACTIVATIONS.index(activation))

        def gradients(gradient: UOp, call: UOp) -> tuple[UOp | None, ...]:
            given = [*map(Tensor, call.src[2:4]), Tensor(gradient).contiguous()]
            made = self._calls(
                _Call("gated_back", 2, numbers), [_new(*shape), _new(*shape), *given]
            )
            return None, made[0].uop, made[1].uop, None

        buffers = [_new(*shape), gate.contiguous(), up.contiguous()]
        return self._run(_Call("gated", 1, numbers), buffers, gradients)

    def entropy(self, scores: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        rows, tokens = map(int, scores.shape)
        buffers = [_new(rows, tokens), _new(rows, 2), scores.contiguous(), wanted]
        gradient, found, *_ = self._calls(_Call("entropy", 2, (rows, tokens)), buffers)
        return found[:, 0].log() - found[:, 1], gradient

    def lookup(self, table: Tensor, which: Tensor) -> Tensor:
        length, width = map(int, table.shape)
        count = int(which.numel())
        numbers = (count, width, length)

        def gradients(gradient: UOp, call: UOp) -> tuple[UOp | None, ...]:
            buffers = [_new(length, width), Tensor(gradient).contiguous(), Tensor(call.src[3])]
            return None, self._run(_Call("lookup_back", 1, numbers), buffers).uop, None, None

        buffers = [_new(count, width), table, which.flatten()]
        made = self._run(_Call("lookup", 1, numbers), buffers, gradients)
        return made.reshape(*which.shape, width)

    def close(self) -> None:
        self._engine.close()

    def _product(
        self,
        a: Tensor,
        b: Tensor,
        a_turned: bool = False,
        b_turned: bool = False,
        gradients: Callable[..., tuple[UOp | None, ...]] | None = None,
        place: Place | None = None,
    ) -> Tensor:
        depth, rows = map(int, a.shape if a_turned else reversed(a.shape))
        columns = int(b.shape[0 if b_turned else 1])
        numbers = (rows, depth, columns, int(a_turned), int(b_turned))
        given = [a.contiguous(), b.contiguous()]
        return self._kept(_Call("product", 1, numbers), place, (rows, columns), given, gradients)

    def _kept(
        self,
        call: _Call,
        place: Place | None,
        shape: tuple[int, ...],
        given: Sequence[Tensor],
        gradients: Callable[..., tuple[UOp | None, ...]] | None,
    ) -> Tensor:
        """The result of a call for what is given, in its place if it has one."""
        if place is None:
            return self._run(call, [_new(*shape), *given], gradients)
        call = replace(call, made=place.made)
        return self._run(call, [place.memory, *given], gradients)

    def _run(
        self,
        call: _Call,
        buffers: Sequence[Tensor],
        gradients: Callable[..., tuple[UOp | None, ...]] | None = None,
    ) -> Tensor:
        """The first buffer after a call."""
        return self._calls(call, buffers, gradients)[0]

    def _calls(
        self,
        call: _Call,
        buffers: Sequence[Tensor],
        gradients: Callable[..., tuple[UOp | None, ...]] | None = None,
    ) -> list[Tensor]:
        """The buffers after a call; `gradients` has None for the first and for one more."""

        def program(*uops: UOp) -> UOp:
            places = tuple(range(len(uops)))
            types = [TYPES[uop.dtype] for uop in uops[:-1]]
            source = _source(call, types)
            name = f"edge_{call.kernel}"
            sink = UOp.sink(*uops, arg=KernelInfo(name=name))
            about = ProgramInfo(
                name,
                globals=places,
                outs=places[: call.outputs],
                ins=places[call.outputs :],
            )
            parts = (sink, UOp(Ops.LINEAR, src=tuple(sink.toposort())), UOp(Ops.SOURCE, arg=source))
            return UOp(Ops.PROGRAM, src=parts, arg=about)

        made: list[Tensor] = Tensor.custom_kernel(
            *buffers, self._table, fxn=program, grad_fxn=gradients
        )
        return made[:-1]


def _source(call: _Call, types: Sequence[str]) -> str:
    """C that makes a call of `kernels/edge.h` and hands it to `edge_call`, whose address and pool
    stand in the last buffer."""
    parameters = "".join(f"{kind} *restrict b{i}, " for i, kind in enumerate(types))
    if call.made:
        return f"void edge_{call.kernel}({parameters}unsigned long long *restrict table) {{}}\n"
    lines = [f"    call.buffers[{i}] = b{i};" for i in range(len(types))]
    # Optional buffers come last in every kernel.
    lines += [f"    call.buffers[{i}] = 0;" for i in range(len(types), len(types) + 2)]
    lines += [f"    call.numbers[{i}] = {number};" for i, number in enumerate(call.numbers)]
    lines += [
        f"    call.reals[{i}] = {float(np.float32(real)).hex()}f;"
        for i, real in enumerate(call.reals)
    ]
    body = "\n".join(lines)
    return (
        "typedef struct { void *buffers[16]; long long numbers[16]; float reals[4]; } Call;\n"
        f"void edge_{call.kernel}({parameters}unsigned long long *restrict table) {{\n"
        f"    Call call;\n{body}\n"
        "    ((void (*)(void *, int, const Call *))table[0])((void *)table[1], "
        f"{NAMES.index(call.kernel)}, &call);\n}}\n"
    )


def _new(*shape: int) -> Tensor:
    assert math.prod(shape) > 0
    return Tensor.empty(*shape, dtype=dtypes.float32)
