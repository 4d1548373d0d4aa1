"""Mutators of model files that know their structure: hostile GGUF, safetensors and JSON inputs."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgellm.gguf import values as gguf_values

BOUNDARIES = [0, 1, 2, 3, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63]
BOUNDARIES += [2**64 - 1, 2**64 - 8, 2**64 - 32, 10**9]


@dataclass(frozen=True)
class Field:
    """A number or string somewhere in a GGUF file."""

    kind: str
    at: int
    width: int


WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class GGUFInput:
    """A sound GGUF file, and what can be done to it."""

    def __init__(self, path: Path) -> None:
        self.raw = path.read_bytes()
        self.fields: dict[str, list[Field]] = {}
        self.pairs: list[tuple[int, int]] = []
        """Begin and end of each key with its value."""
        self.headers: list[tuple[int, int]] = []
        """Begin and end of each tensor's header."""
        self.keys: list[str] = []
        self._walk()

    def _mark(self, kind: str, at: int, width: int) -> int:
        self.fields.setdefault(kind, []).append(Field(kind, at, width))
        return at + width

    def _number(self, at: int, code: str) -> int:
        return int(struct.unpack_from("<" + code, self.raw, at)[0])

    def _string(self, kind: str, at: int) -> int:
        length = self._number(at, "Q")
        return self._mark(kind, self._mark(f"{kind} length", at, 8), length)

    def _value(self, at: int) -> int:
        kind = self._number(at, "I")
        at = self._mark("value type", at, 4)
        if kind == gguf_values.STRING:
            return self._string("value", at)
        if kind != gguf_values.ARRAY:
            return self._mark("value", at, WIDTHS[kind])
        item, count = self._number(at, "I"), self._number(at + 4, "Q")
        at = self._mark("item count", self._mark("item type", at, 4), 8)
        for _ in range(count):
            if item == gguf_values.STRING:
                at = self._string("item", at)
            else:
                at = self._mark("item", at, WIDTHS[item])
        return at

    def _walk(self) -> None:
        self._mark("magic", 0, 4)
        self._mark("version", 4, 4)
        self._mark("tensor count", 8, 8)
        at = self._mark("key count", 16, 8)
        for _ in range(self._number(16, "Q")):
            begin, at = at, self._string("key", at)
            self.keys.append(self.raw[begin + 8 : at].decode())
            at = self._value(at)
            self.pairs.append((begin, at))
        for _ in range(self._number(8, "Q")):
            begin, at = at, self._string("name", at)
            rank = self._number(at, "I")
            at = self._mark("rank", at, 4)
            for _ in range(rank):
                at = self._mark("dimension", at, 8)
            at = self._mark("offset", self._mark("tensor type", at, 4), 8)
            self.headers.append((begin, at))
        self.end = at

    def mutate(self, rng: random.Random) -> bytes:
        out = bytearray(self.raw)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            out = rng.choice(GGUF_MUTATIONS)(self, out, rng)
        return bytes(out)

    def put(self, out: bytearray, field: Field, value: int) -> None:
        size = min(field.width, 8)
        mask = (1 << 8 * size) - 1
        out[field.at : field.at + size] = (value & mask).to_bytes(size, "little")

    def pick(self, rng: random.Random, *kinds: str) -> Field:
        return rng.choice(self.fields[rng.choice(kinds or tuple(self.fields))])


def _set_number(base: GGUFInput, out: bytearray, rng: random.Random) -> bytearray:
    field = base.pick(rng)
    now = int.from_bytes(base.raw[field.at : field.at + min(field.width, 8)], "little")
    near = [now - 1, now + 1, now * 2, now // 2, len(base.raw), rng.getrandbits(64)]
    base.put(out, field, rng.choice(BOUNDARIES + near))
    return out


def _swap_type(base: GGUFInput, out: bytearray, rng: random.Random) -> bytearray:
    base.put(out, base.pick(rng, "value type", "item type", "tensor type"), rng.randrange(45))
    return out


def _overlap(base: GGUFInput, out: bytearray, rng: random.Random) -> bytearray:
    source, target = base.pick(rng, "offset"), base.pick(rng, "offset")
    out[target.at : target.at + 8] = base.raw[source.at : source.at + 8]
    return out


def _overflow_shape(base: GGUFInput, out: bytearray, rng: random.Random) -> bytearray:
    """Dimensions whose product is small, or the same as before, modulo 2**64."""
    dimensions = base.fields["dimension"]
    i = rng.randrange(len(dimensions) - 1)
    for field, value in zip(
        dimensions[i : i + 2],
        rng.choice([(2**32, 2**32), (2**63, 2), (2**62, 4), (2**33, 2**31), (2**60, 32)]),
        strict=True,
    ):
        base.put(out, field, value)
    return out


def _truncate(base: GGUFInput, out: bytearray, rng: random.Random) -> bytearray:
    field = base.pick(rng)
    return out[: rng.choice([field.at, field.at + field.width, rng.randrange(len(out) + 1)])]


def _flip_bits(base: GGUFInput, out: bytearray, rng: random.Random) -> bytearray:
    end = rng.choice([32, base.end, len(out)])
    for _ in range(rng.choice([1, 2, 8])):
        if out:
            out[rng.randrange(min(end, len(out)))] ^= 1 << rng.randrange(8)
    return out


def _insert_pair(
    base: GGUFInput, out: bytearray, pair: bytes, rng: random.Random, replaced: int | None = None
) -> bytearray:
    """Put a key and value in front of the others, or in the place of one."""
    begin, end = (24, 24) if replaced is None else base.pairs[replaced]
    if len(out) != len(base.raw):
        return out
    if replaced is None:
        base.put(out, base.fields["key count"][0], len(base.pairs) + 1)
    out[begin:end] = pair
    # Keep the data where it belongs, so that the rest of the file stays sound.
    growth = len(pair) - (end - begin)
    padding = -growth % 32
    return out[: base.end + growth] + bytes(padding) + out[base.end + growth :]


def _duplicate(base: GGUFInput, out: bytearray, rng: random.Random) -> bytearray:
    if rng.random() < 0.5:
        begin, end = rng.choice(base.pairs)
        return _insert_pair(base, out, base.raw[begin:end], rng)
    begin, end = rng.choice(base.headers)
    base.put(out, base.fields["tensor count"][0], len(base.headers) + 1)
    out[base.end : base.end] = base.raw[begin:end]
    return out


ODD_VALUES: list[object] = [0, 1, -1, 2**31, 2**40, 2**64 - 1, -(2**63), True, False, 0.0, -1.5]
ODD_VALUES += [float("nan"), float("inf"), 1e30, "", "x", "\n\x1b[2J", "x" * 5000, "{% for"]
ODD_VALUES += ["none", "linear", "yarn", "longrope", [], [1], [2**31 - 1, 0], [0.5] * 3]
ODD_VALUES += [[float("nan")] * 4, ["a", ""], ["a"] * 300, [True] * 2, [[1], [2]], ["é\udcff"]]
ODD_VALUES += [np.zeros(286, np.float32), np.full(268, 6, np.int32), np.full(286, 2**31 - 1)]
ODD_VALUES += [np.full(286, np.nan), np.full(268, -7, np.int8), np.uint8(3), np.int64(-5)]

OPTIONAL_KEYS = ["rope.scaling.type", "rope.scaling.factor", "rope.freq_base", "attention.scale"]
OPTIONAL_KEYS += ["rope.scaling.original_context_length", "rope.dimension_count", "logit_scale"]
OPTIONAL_KEYS += ["rope.dimension_sections", "attention.sliding_window", "expert_count"]
OPTIONAL_KEYS += ["attention.sliding_window_pattern", "attention.causal", "use_parallel_residual"]
OPTIONAL_KEYS += ["residual_scale", "embedding_scale", "attn_logit_softcapping", "vocab_size"]
OPTIONAL_KEYS += ["attention.max_alibi_bias", "attention.value_length", "attention.key_length"]
TOKENIZER_KEYS = ["general.alignment", "split.count", "split.no", "split.tensors.count"]
TOKENIZER_KEYS += ["tokenizer.ggml.eom_token_id", "tokenizer.ggml.add_eos_token"]
TOKENIZER_KEYS += ["tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.precompiled_charsmap"]


def _odd_value(base: GGUFInput, out: bytearray, rng: random.Random) -> bytearray:
    """A known key with a value that it shouldn't have."""
    replaced = rng.choice([None, rng.randrange(len(base.pairs))])
    architecture = base.keys[6].partition(".")[0]
    optional = [f"{architecture}.{key}" for key in OPTIONAL_KEYS] + TOKENIZER_KEYS
    key = rng.choice(optional) if replaced is None else base.keys[replaced]
    kind, encoded = gguf_values.encode(Path("odd"), key, rng.choice(ODD_VALUES))
    pair = gguf_values.string(key) + struct.pack("<I", kind) + encoded
    return _insert_pair(base, out, pair, rng, replaced)


def _nest(base: GGUFInput, out: bytearray, rng: random.Random) -> bytearray:
    """An array of arrays of arrays …, or one of very many empty arrays."""
    if rng.random() < 0.5:
        depth = rng.choice([2, 4, 5, 100, 2000])
        value = struct.pack("<IQ", gguf_values.ARRAY, 1) * depth + struct.pack("<IQ", 4, 0)
    else:
        count = rng.choice([1000, 20000])
        value = struct.pack("<IQ", gguf_values.ARRAY, count) + struct.pack("<IQ", 4, 0) * count
    pair = gguf_values.string("odd") + struct.pack("<I", gguf_values.ARRAY) + value
    return _insert_pair(base, out, pair, rng)


def _many_tensors(base: GGUFInput, out: bytearray, rng: random.Random) -> bytearray:
    if rng.random() < 0.9:  # these are large, so they are rare
        return _set_number(base, out, rng)
    count = rng.choice([5000, 100_000])
    headers = [
        gguf_values.string(f"t{i}") + struct.pack("<IQIQ", 1, 8, 0, 32 * i) for i in range(count)
    ]
    base.put(out, base.fields["tensor count"][0], count)
    return out[: base.headers[0][0]] + b"".join(headers) + bytes(32 * min(count, 5000))


def _splice(base: GGUFInput, out: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(out) + 1)
    if rng.random() < 0.5:
        del out[at : at + rng.choice([1, 4, 8, 32])]
    else:
        out[at:at] = rng.randbytes(rng.choice([1, 4, 8, 32]))
    return out


def _odd_text(base: GGUFInput, out: bytearray, rng: random.Random) -> bytearray:
    field = base.pick(rng, "key", "name", "item", "value")
    size = min(field.width, 8)
    odd = [b"\xff\xfe\xfd", b"\0" * 8, b"\n\r\x1b", b"\xed\xa0\x80", b"<0xZZ>  "]
    text = rng.choice(odd)[:size]
    if field.at + len(text) <= len(out):
        out[field.at : field.at + len(text)] = text
    return out


GGUF_MUTATIONS: list[Callable[[GGUFInput, bytearray, random.Random], bytearray]] = [
    _set_number,
    _set_number,
    _set_number,
    _swap_type,
    _overlap,
    _overflow_shape,
    _truncate,
    _flip_bits,
    _duplicate,
    _odd_value,
    _odd_value,
    _nest,
    _many_tensors,
    _splice,
    _odd_text,
]

JSON_VALUES: list[object] = [None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**64, 10**30, 0.5, -1.5]
JSON_VALUES += [1e308, "", "x", "x" * 3000, "\ud800", "\n\x1b[2J", "../../etc/passwd", "0", [], {}]
JSON_VALUES += [[0], [[]], [None], ["a", "b"], {"a": 1}, {"type": "x"}, [1] * 500, {"": ""}]
JSON_VALUES += ["yarn", "longrope", "linear", "gpt2", "phi3", "ByteLevel", "Sequence", "Split"]
JSON_VALUES += ["(a+)+$", "(", "<|endoftext|>", "torch.float16", "relu", [0.5] * 4, [-1, 2**40]]


class JSONInput:
    """A sound JSON object, and what can be done to it."""

    def __init__(self, found: dict[str, object]) -> None:
        self.found = found
        self.text = json.dumps(found)
        self.paths = list(_paths(found))

    def mutate(self, rng: random.Random) -> bytes:
        if rng.random() < 0.25:
            return self._mutate_text(rng)
        found = copy.deepcopy(self.found) if len(self.text) < 2000 else json.loads(self.text)
        for _ in range(rng.choice([1, 1, 2, 3])):
            self._mutate_value(found, rng)
        return json.dumps(found).encode("utf-8", "surrogatepass")

    def _mutate_value(self, found: dict[str, object], rng: random.Random) -> None:
        *way, last = rng.choice(self.paths)
        node: Any = found
        try:
            for key in way:
                node = node[key]
            now = node[last]
        except (KeyError, IndexError, TypeError):
            return  # an earlier mutation took it away
        if not isinstance(node, dict | list):
            return
        chance = rng.random()
        if chance < 0.15:
            del node[last]
        elif chance < 0.3 and type(now) is int:
            near = [-now, now + 1, now - 1, float(now), str(now)]
            node[last] = rng.choice([*BOUNDARIES, *near])
        elif chance < 0.4:
            node[last] = rng.choice([[now], {"type": now}])
        elif chance < 0.45 and isinstance(node, dict):
            node[rng.choice(["x", "", "\ud800", "model_type", "type", f"{last}s"])] = now
        else:
            node[last] = rng.choice(JSON_VALUES)

    def _mutate_text(self, rng: random.Random) -> bytes:
        raw = self.text.encode()
        at = rng.randrange(len(raw))
        chance = rng.randrange(9)
        if chance == 0:
            return raw[:at]
        if chance == 1:
            key = json.dumps(rng.choice(list(self.found)))
            return b"{" + key.encode() + b": 1, " + raw[1:]
        if chance == 2:
            depth = rng.choice([20, 33, 500, 5000, 100_000])
            mark, close = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
            return b'{"x":' + mark * depth + b"1" + close * depth + b"," + raw[1:]
        if chance == 3:
            number = rng.choice([b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"1" + b"0" * 30])
            return b'{"x":' + number + b"," + raw[1:]
        if chance == 4:
            marked = b"\xef\xbb\xbf" + raw
            return rng.choice([b"", b"null", b"[]", b"{}", marked, b"\xff\xfe", b"0"])
        if chance == 5:
            return b'{"x":[' + b"[]," * rng.choice([100, 20_000, 200_000]) + b"0]," + raw[1:]
        if chance == 6:
            return raw[:at] + rng.randbytes(4) + raw[at:]
        out = bytearray(raw)
        for _ in range(rng.choice([1, 3])):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        return bytes(out)


def _paths(node: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in `node`; of a long container only to its first and last ones, so
    that a vocabulary doesn't outweigh the rest."""
    if isinstance(node, dict):
        items: list[tuple[object, object]] = list(node.items())
    elif isinstance(node, list):
        items = list(enumerate(node))
    else:
        return
    for key, value in items if len(items) < 40 else items[:6] + items[-3:]:
        yield (*path, key)
        yield from _paths(value, (*path, key))


class SafetensorsInput:
    """A sound safetensors file, and what can be done to it."""

    def __init__(self, path: Path) -> None:
        self.raw = path.read_bytes()
        length = int.from_bytes(self.raw[:8], "little")
        self.header = JSONInput(json.loads(self.raw[8 : 8 + length]))
        self.data = self.raw[8 + length :]

    def mutate(self, rng: random.Random) -> bytes:
        chance = rng.randrange(10)
        if chance == 0:
            length = rng.choice([*BOUNDARIES, len(self.raw), len(self.raw) - 8, len(self.raw) - 7])
            return (length % 2**64).to_bytes(8, "little") + self.raw[8:]
        if chance == 1:
            return self.raw[: rng.randrange(len(self.raw))]
        if chance == 2:
            out = bytearray(self.raw)
            for _ in range(8):
                out[rng.randrange(len(self.raw) - len(self.data))] ^= 1 << rng.randrange(8)
            return bytes(out)
        if chance == 3:
            return self._joined(self._other_header(rng))
        if chance == 4:
            return self.raw + bytes(rng.choice([1, 8, 4096]))
        return self._joined(self.header.mutate(rng))

    def _joined(self, header: bytes) -> bytes:
        return len(header).to_bytes(8, "little") + header + self.data

    def _other_header(self, rng: random.Random) -> bytes:
        """Shapes that overflow, overlaps, holes, and rarely a hundred thousand tensors."""
        if rng.random() < 0.03:
            entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            count = rng.choice([17_000, 100_000])
            return json.dumps({f"t{i}": entry for i in range(count)}).encode()
        found = json.loads(self.header.text)
        names = [name for name in found if name != "__metadata__"]
        entry, other = found[rng.choice(names)], found[rng.choice(names)]
        chance = rng.randrange(5)
        if chance == 0:
            entry["shape"] = rng.choice(
                [[2**32, 2**32], [2**63, 2], [0], [], [2**64 + 1], [-1, -8]]
            )
        elif chance == 1:
            entry["data_offsets"] = other["data_offsets"]
        elif chance == 2:
            begin, end = entry["data_offsets"]
            entry["data_offsets"] = rng.choice(
                [[end, begin], [begin, end + 4], [begin + 4, end], [begin, 2**64], [0, 2**63]]
            )
        elif chance == 3:
            entry["dtype"] = rng.choice(["F64", "F16", "BF16", "F8_E4M3", "I64", "BOOL", "", 4])
        else:
            entry["shape"], other["shape"] = other["shape"], entry["shape"]
        return json.dumps(found).encode()


class BytesInput:
    """Any binary file: bits, numbers and lengths changed without knowing their meaning."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def mutate(self, rng: random.Random) -> bytes:
        out = bytearray(self.raw)
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(len(out))
            chance = rng.randrange(5)
            if chance == 0:
                out = out[: at + 1]
            elif chance == 1:
                out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
            elif chance == 2:
                out[at : at + 10] = b"\xff" * rng.choice([1, 9, 10])
            elif chance == 3:
                out[at:at] = out[at : at + rng.choice([1, 8, 64])]
            else:
                out[at] ^= 1 << rng.randrange(8)
        return bytes(out)
