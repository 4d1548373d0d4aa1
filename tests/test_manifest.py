"""Manifests: whatever doesn't hold together in one is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import small_bundle

from edgellm import bundle, manifest
from edgellm.errors import FormatError
from edgellm.key_folder import KeyFolder

Content = dict[str, Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Content, int]:
    """A manifest's content, and the bytes before it."""
    folder = tmp_path_factory.mktemp("manifest")
    path = folder / "small.edge"
    small_bundle.write_bundle(path, KeyFolder(folder / "keys"))
    header, raw, _ = bundle._frame(memoryview(path.read_bytes()), str(path))
    return msgpack.unpackb(raw), header.manifest_offset


def read(content: Content, room: int) -> manifest.Manifest:
    return manifest.read(msgpack.packb(content), "file", room)[0]


def large(content: Content) -> Content:
    found: Content = next(one for one in content["tensors"] if one["name"] == "large")
    return found


def put(*way: Any) -> Callable[[Content], None]:
    """A change that puts the last of `way` where the rest leads."""

    def change(content: Content) -> None:
        node: Any = content
        for key in way[:-2]:
            node = node[key]
        node[way[-2]] = way[-1]

    return change


def test_a_sound_one_is_read(sound: tuple[Content, int]) -> None:
    assert read(*sound).config == small_bundle.CONFIG


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("blobs", 0, "offset", 0), "place of library is"),
        (put("blobs", 0, "offset", 1 << 17), "place of library is"),
        (put("blobs", 1, "nbytes", 0), "place of tokenizer is"),
        (put("blobs", 1, "nbytes", 1 << 50), "place of tokenizer is"),
        (put("blobs", 1, "name", "library"), "blobs is .* each name must occur once"),
        (put("blobs", 0, "sha256", "00"), "hash of library"),
        (lambda c: c["blobs"].pop(), "blobs' end"),
        (lambda c: large(c).update(blob=99), "blob of tensor large is 99"),
        (lambda c: large(c).update(blob=-1), "blob of tensor large is -1"),
        (lambda c: large(c).update(offset=64), "place of tensor large"),
        (lambda c: large(c).update(offset=-64), "place of tensor large"),
        (lambda c: large(c).update(nbytes=64), "size of tensor large is 64; 76800 bytes"),
        (lambda c: large(c).update(rows=1), "rows of tensor large"),
        (lambda c: large(c).update(rows=-600, columns=-32), "rows of tensor large"),
        (lambda c: large(c).update(shape=[0, 32]), "shape of tensor large"),
        (lambda c: large(c).update(shape=[1] * 9), "shape of tensor large"),
        (lambda c: large(c).update(format="Q9_9"), "format of tensor large is 'Q9_9'"),
        (lambda c: large(c).update(format="Q4_K"), "format of tensor large is 'Q4_K'"),
        (lambda c: large(c).update(name="output_norm.weight"), "each name must occur once"),
        (put("config", "heads", 0), "config.heads is 0"),
        (put("config", "vocab", 1 << 40), "config.vocab"),
        (put("config", "layers", []), "number of layers is 0"),
        (put("config", "layers", 0, "kv_heads", 3), r"layers\[0\].kv_heads is 3; a divisor of 4"),
        (put("config", "layers", 0, "rope", 1), r"layers\[0\].rope is 1"),
        (put("config", "layers", 1, "window", -1), r"layers\[1\].window is -1"),
        (put("config", "ropes", 0, "dim", 7), "rope's dim is 7"),
        (put("config", "ropes", 0, "factors", [1.0]), "rope's factors"),
        (put("config", "ropes", 0, "theta", 0.0), "rope is"),
        (put("config", "logit_scale", 0.0), "logit_scale"),
        (put("config", "norm_eps", float("nan")), "norm_eps is nan"),
        (put("sampling", "temperature", -1.0), "sampling"),
        (put("sampling", "warmth", 1.0), "sampling"),
        (put("template", 5), "template is 5"),
        (put("backend", None), "backend is None"),
        (put("graph", 5), "graph  is .int.; a map of"),
        (put("surprise", 1), "no such field"),
    ],
)
def test_what_does_not_hold_together_is_refused(
    sound: tuple[Content, int], change: Callable[[Content], None], said: str
) -> None:
    content, room = copy.deepcopy(sound[0]), sound[1]
    change(content)
    with pytest.raises(FormatError, match=said):
        read(content, room)


GRAPH_CHANGES: list[tuple[Callable[[Content], None], str]] = [
    (put("hidden", 99), "hidden is 99"),
    (put("hidden", 1), "hidden is 1; a row buffer"),
    (put("hidden", 5), "hidden is 5; a row buffer of 128 bytes"),
    (put("logits", 2), "logits is 2; a row buffer of 1144 bytes"),
    (put("buffers", 0, ["organ", "", 0]), "buffer 0"),
    (put("buffers", 0, ["tokens", "", 0]), "buffer 0"),
    (put("buffers", 1, ["weight", "nothing", 0]), "there is no such tensor"),
    (put("buffers", 2, ["row", "", 0]), "a row has bytes"),
    (put("buffers", 2, ["row", "", 1 << 40]), "buffer 2"),
    (put("buffers", 2, ["row", "", -1]), "buffer 2"),
    (put("buffers", 3, ["table", "rope.1", 0]), "this model's tables are: rope.0"),
    (put("buffers", 3, ["table", "slopes", 0]), "this model's tables are: rope.0"),
    (put("buffers", 4, ["state", "2", 0]), "a layer's number"),
    (put("buffers", 4, ["state", "x", 0]), "a layer's number"),
    (put("body", 0, 0, 99), "body call 0 is 99; a kernel below"),
    (put("body", 0, 0, -1), "body call 0 is -1"),
    (put("body", 0, 1, 0, [2, 128]), r"body call 0 is \[2, 128\]; a buffer and an offset"),
    (put("body", 0, 1, 0, [2, -4]), "body call 0"),
    (put("body", 0, 1, 0, [7, 0]), "body call 0"),
    (put("body", 0, 1, 1, [1, 1 << 30]), "body call 0"),
    (put("body", 2, 1, 1, [3, 4]), "body call 2"),
    (put("body", 0, 1, [None] * 17), "up to 16"),
    (put("body", 0, 2, [1] * 17), "up to 16"),
    (put("body", 0, 2, [1.5]), "whole numbers"),
    (put("body", 2, 3, [float("inf")]), "finite"),
    (put("body", 2, 3, [1.0] * 5), "finite"),
    (put("body", 0, [0, [], []]), "body call 0"),
    (put("body", {}), "body is 'dict'; a list"),
    (put("kernels", ["r_2"]), "a kernel below 1"),
    (put("kernels", 0, "r_2"), "kernels is"),
    (put("kernels", 1, "other"), "function"),
    (put("functions", 0, ["r_2", 3]), "r_2 is 2; another number of arguments"),
    (put("functions", 0, ["nobody", 2]), "function"),
    (put("functions", 0, ["r_2", 0]), "function"),
    (put("more", 1), "a map of body, buffers"),
]


@pytest.mark.parametrize(("change", "said"), GRAPH_CHANGES)
def test_a_graph_refers_only_to_what_is_there(
    sound: tuple[Content, int], change: Callable[[Content], None], said: str
) -> None:
    content, room = copy.deepcopy(sound[0]), sound[1]
    change(content["graph"])
    with pytest.raises(FormatError, match=said):
        read(content, room)


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize(
    "raw", [b"", b"\xc1", nested(3), nested(100_000), b"\xdd\xff\xff\xff\xff", b"\x80", b"\xc0\xc0"]
)
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        manifest.read(raw, "file", 1 << 16)


def test_a_page_of_64_kib_is_kept_for_the_header(tmp_path: Path) -> None:
    assert manifest.aligned(1) == manifest.ALIGNMENT == 1 << 16
    assert manifest.aligned(0) == 0
    assert manifest.aligned(65, 64) == 128
