"""A small bundle of made-up weights, for tests that need no compiler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import small_models
from numpy.typing import NDArray

from edgellm.bundle import TOKENIZER
from edgellm.bundle_writer import BundleWriter
from edgellm.checkpoint import Provenance
from edgellm.config import Config, Layer, Rope
from edgellm.executor import Target
from edgellm.graph import Argument, Buffer, Call, RowFunction, StepGraph
from edgellm.key_folder import KeyFolder
from edgellm.manifest import Built, Manifest, Source
from edgellm.tokenizer import TokenizerData
from edgellm.tokenizer_blob import write

TOKENS, SCORES, TYPES = zip(*small_models.spm_tokens(), strict=True)
VOCABULARY = TokenizerData(
    "llama",
    tokens=[*TOKENS],
    scores=[*SCORES],
    types=[*TYPES],
    merges=[],
    bos=1,
    eos=2,
    unk=0,
    rstrip=frozenset({2}),
)
DIM = 32
CONFIG = Config(
    architecture="llama",
    vocab=len(TOKENS),
    dim=DIM,
    heads=4,
    head_dim=8,
    hidden=96,
    context=128,
    layers=(Layer(kv_heads=2), Layer(kv_heads=4, window=16, rope=None)),
    ropes=(Rope(dim=8, factors=(1.0,) * 4),),
)
LIBRARY = bytes(range(256)) * 300


@dataclass(frozen=True)
class Values:
    """A tensor in memory."""

    name: str
    values: NDArray[np.float32]
    type: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def float32(self) -> NDArray[np.float32]:
        return self.values


def tensors(rows: int = 600) -> list[Values]:
    """Two matrices, one of `rows` rows (600: of more than 64 KiB), and a vector."""
    rng = np.random.default_rng(0)
    shapes = {"token_embd.weight": (len(TOKENS), DIM), "blk.0.ffn_up.weight": (96, DIM)}
    shapes["large"] = (rows, DIM)
    found = [Values(name, rng.standard_normal(s, np.float32)) for name, s in shapes.items()]
    return [*found, Values("output_norm.weight", np.ones(DIM, np.float32))]


GRAPH = StepGraph(
    buffers=(
        Buffer("weight", "output_norm.weight"),
        Buffer("weight", "token_embd.weight"),
        Buffer("row", nbytes=4 * DIM),
        Buffer("table", "rope.0"),
        Buffer("state", "1"),
        Buffer("row", nbytes=4 * len(TOKENS)),
        Buffer("weight", "large"),
    ),
    body=(
        Call("embed", (Argument(2), Argument(1)), (0, DIM, len(TOKENS), 0)),
        Call("r_2", (Argument(2, 16), Argument(2))),
        Call("rotate", (Argument(2), Argument(3), None), (1, 16), (0.5,)),
        Call("store", (Argument(4), Argument(2), Argument(2)), (4, 8)),
    ),
    head=(Call("linear", (Argument(2), None, Argument(6, 64), Argument(5)), (DIM, 1, 0, 600)),),
    hidden=2,
    logits=5,
    functions=(RowFunction("r_2", "", 2),),
)
MANIFEST = Manifest(
    provenance=Provenance("small", "MIT", "https://example.org", "nobody"),
    source=Source("small.gguf", 1234, "0" * 64),
    built=Built("0.1.0", "none", "2026-01-01T00:00:00Z"),
    backend="none",
    target=Target("any", "x86_64", ("sse2",)),
    config=CONFIG,
    template="{{ messages }}",
    sampling={"temperature": 0.5},
    blobs=(),
    tensors=(),
)


def write_bundle(
    path: Path,
    keys: KeyFolder,
    signer: str | None = None,
    *,
    graph: StepGraph | None = GRAPH,
    described: Manifest = MANIFEST,
    library: bytes = LIBRARY,
    only_small: bool = False,
) -> None:
    """Write the bundle; with `only_small` as small as can be."""
    with BundleWriter(path) as writer:
        writer.blob("library", library)
        writer.blob(TOKENIZER, write(VOCABULARY))
        for tensor in tensors(200 if only_small else 600):
            packed = len(tensor.shape) == 2
            writer.tensor(tensor.name, tensor, tensor.type if packed else None)
        if graph is not None:
            writer.graph(graph)
        writer.finish(described, keys, signer)
