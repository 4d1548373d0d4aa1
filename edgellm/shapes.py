"""Model files of published shapes with random weights, for measuring speed without a download.

The mixtures of types are those of llama.cpp's quantiser: a matrix whose rows aren't a multiple of
256 values takes a type of 32-value blocks instead, and the output's matrix, or the embedding that
stands for it, a finer one than the rest. Same arguments, same file, byte for byte.

    python -m edgellm.shapes smollm2-135m Q4_K_M model.gguf
"""

from __future__ import annotations

import argparse
import math
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice, product
from pathlib import Path
from string import ascii_lowercase, digits, punctuation

import numpy as np
from numpy.typing import NDArray

from edgellm import gguf, quant
from edgellm.errors import EdgeError, UsageError
from edgellm.mixture import takes_more_bits


@dataclass(frozen=True, kw_only=True)
class Shape:
    architecture: str
    layers: int
    dim: int
    heads: int
    kv_heads: int
    hidden: int
    vocab: int
    context: int
    theta: float
    tied: bool
    """One matrix is both embedding and output."""
    eps: float = 1e-5
    biased: bool = False
    """Queries, keys and values have biases."""


SHAPES = {
    "stories15m": Shape(
        architecture="llama",
        layers=6,
        dim=288,
        heads=6,
        kv_heads=6,
        hidden=768,
        vocab=32000,
        context=256,
        theta=1e4,
        tied=True,
    ),
    "smollm2-135m": Shape(
        architecture="llama",
        layers=30,
        dim=576,
        heads=9,
        kv_heads=3,
        hidden=1536,
        vocab=49152,
        context=8192,
        theta=1e5,
        tied=True,
    ),
    "qwen2.5-0.5b": Shape(
        architecture="qwen2",
        layers=24,
        dim=896,
        heads=14,
        kv_heads=2,
        hidden=4864,
        vocab=151936,
        context=32768,
        theta=1e6,
        tied=True,
        eps=1e-6,
        biased=True,
    ),
    "tinyllama-1.1b": Shape(
        architecture="llama",
        layers=22,
        dim=2048,
        heads=32,
        kv_heads=4,
        hidden=5632,
        vocab=32000,
        context=2048,
        theta=1e4,
        tied=False,
    ),
}

FILE_TYPES = {"F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15}
"""llama.cpp's numbers of them, for `general.file_type`."""


def write_shape(name: str, type: str, path: str | Path) -> None:
    """Write a model of shape `name` with weights of `type` as a GGUF file.

    Raises UsageError for a name or type that isn't among `SHAPES` or `FILE_TYPES`, OSError.
    """
    for value, known in ((name, list(SHAPES)), (type, list(FILE_TYPES))):
        if value not in known:
            raise UsageError(f"{value!r} isn't among {', '.join(known)}")
    found = tensors(SHAPES[name], type)
    gguf.write(path, metadata(name, type), {tensor.name: tensor for tensor in found})


@dataclass(frozen=True)
class RandomTensor:
    """A tensor of random values, made when `gguf.write` asks for its bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    deviation: float
    mean: float = 0.0

    @property
    def nbytes(self) -> int:
        return quant.TYPES[self.type].nbytes(self.shape)

    @property
    def data(self) -> memoryview:
        rng = np.random.Generator(np.random.SFC64(zlib.crc32(self.name.encode())))
        if self.type == "F32":
            values = rng.standard_normal(self.shape, dtype=np.float32)
            values = values * np.float32(self.deviation) + np.float32(self.mean)
            return values.reshape(-1).view(np.uint8).data
        raw = rng.integers(0, 1 << 64, -(-self.nbytes // 8), dtype=np.uint64)
        blocks = raw.view(np.uint8)[: self.nbytes].view(quant.TYPES[self.type].dtype)
        _SCALES[self.type](blocks, rng, self.deviation)
        return blocks.view(np.uint8).data


# Codes are random bits as they come. What follows gives them scales such that values have mean 0
# and the deviation that is asked for: the codes of half of the blocks are negated where they lean
# to one side, since a mean other than 0 would make every product alike.


def _factors(count: int, rng: np.random.Generator, deviation: float) -> NDArray[np.float32]:
    """Of either sign, their root mean square near `deviation`."""
    sizes = rng.uniform(0.7 * deviation, 1.3 * deviation, count)
    return np.where(rng.random(count) < 0.5, -sizes, sizes).astype(np.float32)


def _uniform(bits: int) -> float:
    """The deviation of codes of so many random bits."""
    return math.sqrt((4**bits - 1) / 12)


def _of_one_scale(bits: int) -> Callable[[quant.Blocks, np.random.Generator, float], None]:
    def scale(blocks: quant.Blocks, rng: np.random.Generator, deviation: float) -> None:
        blocks["d"] = _factors(len(blocks), rng, deviation / _uniform(bits))

    return scale


def _f16(blocks: quant.Blocks, rng: np.random.Generator, deviation: float) -> None:
    values = rng.standard_normal(1 << 16, dtype=np.float32) * np.float32(deviation)
    blocks["x"] = values.astype(np.float16)[blocks["x"].view(np.uint16)]


def _q4_k(blocks: quant.Blocks, rng: np.random.Generator, deviation: float) -> None:
    factors = rng.integers(32, 64, (len(blocks), 8), dtype=np.uint8)
    a, b = factors[:, :4], factors[:, 4:]
    # Minima equal the factors and are scaled by the mean of the codes.
    blocks["scales"][:, :4] = blocks["scales"][:, 4:8] = a | b >> 4 << 6
    blocks["scales"][:, 8:] = b & 15 | b << 4
    d = np.abs(_factors(len(blocks), rng, deviation / _uniform(4) / 48))
    blocks["d"], blocks["dmin"] = d, d * np.float32(7.5)


def _q6_k(blocks: quant.Blocks, rng: np.random.Generator, deviation: float) -> None:
    blocks["scales"] |= 64  # -64…-1 or 64…127
    blocks["d"] = _factors(len(blocks), rng, deviation / _uniform(6) / 70)


_SCALES: dict[str, Callable[[quant.Blocks, np.random.Generator, float], None]] = {
    "F16": _f16,
    "Q4_0": _of_one_scale(4),
    "Q5_0": _of_one_scale(5),
    "Q8_0": _of_one_scale(8),
    "Q4_K": _q4_k,
    "Q6_K": _q6_k,
}


def tensors(shape: Shape, file_type: str) -> list[RandomTensor]:
    """All tensors, as llama.cpp's quantiser would store them in a file of that type."""

    def matrix(name: str, rows: int, columns: int, fine: bool, gain: float = 1.0) -> RandomTensor:
        kind = _matrix_type(file_type, columns, fine)
        return RandomTensor(name, (rows, columns), kind, gain / math.sqrt(columns))

    def vector(name: str, length: int, mean: float) -> RandomTensor:
        return RandomTensor(name, (length,), "F32", 0.1, mean)

    dim, key = shape.dim, shape.dim // shape.heads * shape.kv_heads
    is_mixture = file_type == "Q4_K_M"
    quantised = file_type.startswith("Q4")
    # What a block adds shrinks with their number, so that the last one's input isn't far larger.
    small = 1 / math.sqrt(2 * shape.layers)
    embedding = matrix("token_embd.weight", shape.vocab, dim, quantised and shape.tied)
    found = [embedding, vector("output_norm.weight", dim, 1.0)]
    if not shape.tied:
        found.append(matrix("output.weight", shape.vocab, dim, quantised))
    for index in range(shape.layers):
        block = f"blk.{index}."
        fine = is_mixture and takes_more_bits(index, shape.layers)
        found += [
            vector(f"{block}attn_norm.weight", dim, 1.0),
            matrix(f"{block}attn_q.weight", dim, dim, False, 2.0),
            matrix(f"{block}attn_k.weight", key, dim, False, 2.0),
            matrix(f"{block}attn_v.weight", key, dim, fine),
            matrix(f"{block}attn_output.weight", dim, dim, False, small),
            vector(f"{block}ffn_norm.weight", dim, 1.0),
            matrix(f"{block}ffn_gate.weight", shape.hidden, dim, False),
            matrix(f"{block}ffn_up.weight", shape.hidden, dim, False),
            matrix(f"{block}ffn_down.weight", dim, shape.hidden, fine, small),
        ]
        if shape.biased:
            sizes = {"q": dim, "k": key, "v": key}
            found += [vector(f"{block}attn_{part}.bias", sizes[part], 0.0) for part in sizes]
    return found


def _matrix_type(file_type: str, columns: int, fine: bool) -> str:
    long = columns % 256 == 0
    if fine:
        return "Q6_K" if long else "Q8_0"
    if file_type == "Q4_K_M":
        return "Q4_K" if long else "Q5_0"
    return file_type


def metadata(name: str, file_type: str) -> dict[str, object]:
    shape = SHAPES[name]
    head_dim = shape.dim // shape.heads
    keys: dict[str, object] = {
        "block_count": shape.layers,
        "context_length": shape.context,
        "embedding_length": shape.dim,
        "feed_forward_length": shape.hidden,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.layer_norm_rms_epsilon": shape.eps,
        "rope.dimension_count": head_dim,
        "rope.freq_base": shape.theta,
        "vocab_size": shape.vocab,
    }
    return {
        "general.architecture": shape.architecture,
        "general.name": f"{name}, random weights",
        "general.file_type": FILE_TYPES[file_type],
        "general.quantization_version": 2,
        **{f"{shape.architecture}.{key}": value for key, value in keys.items()},
        **(_pieces if shape.vocab == 32000 else _merges)(shape),
    }


def _pieces(shape: Shape) -> dict[str, object]:
    """A SentencePiece vocabulary: bytes, characters, then all short words in order."""
    special = ["<unk>", "<s>", "</s>"]
    of_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    characters = ["▁", *ascii_lowercase, *ascii_lowercase.upper(), *digits, *punctuation]
    words = chain.from_iterable(
        product(["▁", *ascii_lowercase], *[ascii_lowercase] * letters) for letters in (1, 2, 3)
    )
    tokens = special + of_bytes + characters
    tokens += map("".join, islice(words, shape.vocab - len(tokens)))
    normal = len(tokens) - len(special) - len(of_bytes)
    return _vocabulary(
        model="llama",
        pre="default",
        tokens=tokens,
        scores=-np.arange(len(tokens), dtype=np.float32),
        token_type=np.array([2, 3, 3] + [6] * len(of_bytes) + [1] * normal, dtype=np.int32),
        bos_token_id=1,
        eos_token_id=2,
        unknown_token_id=0,
        add_bos_token=True,
    )


def _merges(shape: Shape) -> dict[str, object]:
    """A byte-level BPE vocabulary: bytes, all short words in order, control tokens."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = chain.from_iterable(
        product(["Ġ", *ascii_lowercase], *[ascii_lowercase] * letters) for letters in (1, 2, 3)
    )
    # Visible bytes stand for themselves, the others for the characters from U+0100 on.
    of_bytes = [chr(byte) for byte in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144))]
    merged = list(islice(words, shape.vocab - len(of_bytes) - len(special)))
    tokens = [*of_bytes, *map("".join, merged), *special]
    return _vocabulary(
        model="gpt2",
        pre="qwen2" if shape.architecture == "qwen2" else "smollm",
        tokens=tokens,
        token_type=np.array(
            [1] * (len(tokens) - len(special)) + [3] * len(special), dtype=np.int32
        ),
        merges=["".join(word[:-1]) + " " + word[-1] for word in merged],
        bos_token_id=len(tokens) - 3,
        eos_token_id=len(tokens) - 1,
        add_bos_token=False,
    )


def _vocabulary(**keys: object) -> dict[str, object]:
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m edgellm.shapes", description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("type", choices=FILE_TYPES)
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    try:
        write_shape(arguments.shape, arguments.type, arguments.path)
    except (EdgeError, OSError) as error:
        print(f"edgellm.shapes: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
