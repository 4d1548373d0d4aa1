"""A one-layer model written down as a StepGraph, its weights packed, and the same in NumPy."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.config import Config, Layer, Rope
from edgellm.errors import BackendError
from edgellm.graph import Argument, Buffer, Call, RowFunction, StepGraph
from edgellm.rope import rope_table

DIM, HEADS, KEYS, WIDTH, VOCAB, CONTEXT = 64, 4, 2, 16, 101, 40
QUERY, KEY = HEADS * WIDTH, KEYS * WIDTH
F32 = 0
CONFIG = Config(
    "small",
    vocab=VOCAB,
    dim=DIM,
    heads=HEADS,
    head_dim=WIDTH,
    hidden=DIM,
    context=CONTEXT,
    layers=(Layer(kv_heads=KEYS),),
    ropes=(Rope(WIDTH),),
)
SHAPES = {
    "embedding": (VOCAB, DIM),
    "norm": (DIM,),
    "q": (QUERY, DIM),
    "k": (KEY, DIM),
    "v": (KEY, DIM),
    "output": (DIM, QUERY),
    "last_norm": (DIM,),
}

# As tinygrad writes it, with vectors that must lie at multiples of 16 bytes.
ADD = f"""typedef float float4 __attribute__((aligned(16),ext_vector_type(4)));
void row_0(float* restrict data0, float* restrict data1, float* restrict data2) {{
  for (int i = 0; i < {DIM}; i += 4)
    *((float4*)(data0+i)) = *((float4*)(data1+i)) + *((float4*)(data2+i));
}}
"""


def weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=shape, scale=0.3).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def packed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Matrices as the float kernels read them: eight rows side by side."""
    if values.ndim < 2:
        return values
    rows = -(-len(values) // 8) * 8
    padded = np.zeros((rows, values.shape[1]), np.float32)
    padded[: len(values)] = values
    return np.ascontiguousarray(padded.reshape(rows // 8, 8, -1).swapaxes(1, 2))


def graph() -> StepGraph:
    names = [*SHAPES, "rope.0", "0", "x", "normed", "q_row", "k_row", "v_row"]
    names += ["q_turned", "k_turned", "mixed", "projected", "hidden", "last_normed", "logits"]
    number = {name: index for index, name in enumerate(names)}
    widths = {
        **dict.fromkeys(("x", "normed", "projected", "hidden", "last_normed"), DIM),
        **dict.fromkeys(("q_row", "q_turned", "mixed"), QUERY),
        **dict.fromkeys(("k_row", "k_turned", "v_row"), KEY),
        "logits": VOCAB,
    }
    buffers = (
        *(Buffer("weight", name) for name in SHAPES),
        Buffer("table", "rope.0"),
        Buffer("state", "0"),
        *(Buffer("row", nbytes=4 * widths[name]) for name in names[len(SHAPES) + 2 :]),
    )

    def call(
        kernel: str, given: str, numbers: tuple[int, ...] = (), reals: tuple[float, ...] = ()
    ) -> Call:
        arguments = (None if name == "-" else Argument(number[name]) for name in given.split())
        return Call(kernel, tuple(arguments), numbers, reals)

    body = (
        call("embed", "x embedding", (F32, DIM, VOCAB, 0)),
        call("norm", "normed - x norm -", (1, DIM, 0, 0), (1e-5,)),
        call(
            "linear",
            "normed - q q_row k k_row v v_row",
            (DIM, 3, F32, QUERY, F32, KEY, F32, KEY),
        ),
        call("rotate", "q_turned q_row rope.0", (HEADS, WIDTH, WIDTH, 0)),
        call("rotate", "k_turned k_row rope.0", (KEYS, WIDTH, WIDTH, 0)),
        call("store", "0 k_turned v_row", (KEYS, WIDTH)),
        *(
            call(kernel, "mixed 0 q_turned -", (HEADS, KEYS, WIDTH, 0), (WIDTH**-0.5, 0.0))
            for kernel in ("attend", "attend_merge")
        ),
        call("linear", "mixed - output projected", (QUERY, 1, F32, DIM)),
        call("row_0", "hidden x projected"),
    )
    head = (
        call("norm", "last_normed - hidden last_norm -", (1, DIM, 0, 0), (1e-5,)),
        call("linear", "last_normed - embedding logits", (DIM, 1, F32, VOCAB)),
    )
    function = RowFunction("row_0", ADD, 3)
    return StepGraph(buffers, body, head, number["hidden"], number["logits"], (function,))


@functools.cache
def library() -> bytes:
    """For this machine; skips where there is no compiler for it."""
    from edgellm_backends.cpu import library, target
    from edgellm_backends.cpu.step_source import step_source

    processor = target.native()
    try:
        library.toolchain(processor)
    except BackendError as error:
        pytest.skip(str(error))
    return library.library(processor, step_source(graph()))


def forward(values: dict[str, NDArray[np.float32]], tokens: list[int]) -> NDArray[np.float32]:
    """Logits after every token, (len(tokens), vocab), in float64."""

    def normed(x: NDArray[np.float64], weight: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight)

    def turned(x: NDArray[np.float64]) -> NDArray[np.float64]:
        table = rope_table(CONFIG.ropes[0], CONTEXT, len(x)).astype(np.float64)
        cosine, sine = table[:, None, 0], table[:, None, 1]
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cosine - b * sine, a * sine + b * cosine], -1)

    count = len(tokens)
    x = values["embedding"][tokens].astype(np.float64)
    inner = normed(x, values["norm"])
    q = turned((inner @ values["q"].T).reshape(count, HEADS, WIDTH))
    k = turned((inner @ values["k"].T).reshape(count, KEYS, WIDTH)).repeat(HEADS // KEYS, 1)
    v = (inner @ values["v"].T).reshape(count, KEYS, WIDTH).repeat(HEADS // KEYS, 1)
    scores = np.einsum("ihc,jhc->hij", q, k) * WIDTH**-0.5
    scores[:, ~np.tri(count, dtype=bool)] = -np.inf
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    mixed = np.einsum("hij,jhc->ihc", shares, v).reshape(count, QUERY)
    hidden = x + mixed @ values["output"].T
    return (normed(hidden, values["last_norm"]) @ values["embedding"].T).astype(np.float32)
