"""safetensors files and folders: strictly what the format allows."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import small_models

from edgellm import safetensors
from edgellm.errors import FormatError, UnsupportedError, UsageError


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.unlink(missing_ok=True)
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "U8") -> object:
    size = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": size, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("dtype", "stored", "values"),
    [
        ("F64", np.array([1.5, -2], "<f8").tobytes(), [1.5, -2.0]),
        ("F32", np.array([1.5, -2], "<f4").tobytes(), [1.5, -2.0]),
        ("F16", np.array([1.5, -2], "<f2").tobytes(), [1.5, -2.0]),
        ("BF16", bytes.fromhex("c03f00c0"), [1.5, -2.0]),
        ("I64", np.array([1, -2], "<i8").tobytes(), [1.0, -2.0]),
        ("I32", np.array([1, -2], "<i4").tobytes(), [1.0, -2.0]),
        ("I16", np.array([1, -2], "<i2").tobytes(), [1.0, -2.0]),
        ("I8", b"\x01\xfe", [1.0, -2.0]),
        ("U8", b"\x01\xfe", [1.0, 254.0]),
        ("BOOL", b"\x01\x00", [1.0, 0.0]),
    ],
)
def test_every_type(tmp_path: Path, dtype: str, stored: bytes, values: list[float]) -> None:
    header = {"t": entry(0, len(stored), [2, 1], dtype)}
    found = safetensors.read(write(tmp_path / "x.safetensors", header, stored))["t"]
    assert (found.name, found.shape, found.type) == ("t", (2, 1), dtype)
    assert found.data == stored
    assert found.float32().reshape(-1).tolist() == values


def test_order_metadata_scalars_and_empty_tensors(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "late": entry(4, 8, [], "F32"),
        "empty": entry(4, 4, [0, 3], "F32"),
        "early": entry(0, 4),
    }
    found = safetensors.read(write(tmp_path / "x.safetensors", header, bytes(8)))
    assert {name: tensor.shape for name, tensor in found.items()} == {
        "late": (),
        "empty": (0, 3),
        "early": (4,),
    }
    assert found["empty"].float32().shape == (0, 3)


def test_an_empty_file_of_no_tensors(tmp_path: Path) -> None:
    assert safetensors.read(write(tmp_path / "x.safetensors", {})) == {}


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        (b"[]", 0, "header is b'[]'"),
        (b"{}", 1, "the tensors must fill the file's 1 bytes"),
        (b'{"a":1,"a":2}', 0, "key is 'a'"),
        ({"a": 1}, 0, "entry of a is 1"),
        ({"a": {"dtype": "U8", "shape": [1]}}, 1, "entry of a"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1], "x": 0}}, 1, "entry of a"),
        ({"a": entry(0, 1, dtype="F8_E4M3")}, 1, "dtype of a is 'F8_E4M3'; readable are F64"),
        ({"a": entry(0, 1, [2])}, 1, "shape of a is [2]"),
        ({"a": entry(0, 1, [-1])}, 1, "shape of a is [-1]"),
        ({"a": entry(0, 1, [True])}, 1, "shape of a is [True]"),  # type: ignore[list-item]
        ({"a": entry(0, 1, [1.0])}, 1, "shape of a is [1.0]"),  # type: ignore[list-item]
        ({"a": entry(0, 1, [1] * 9)}, 1, "shape of a"),
        ({"a": entry(0, 0, [2**32, 2**32])}, 0, "shape of a"),
        ({"a": entry(0, 8, [2**62 + 2], "F32")}, 8, "shape of a"),
        ({"a": entry(0, 2)}, 1, "data_offsets of a is [0, 2]"),
        ({"a": entry(1, 0, [1])}, 1, "data_offsets of a is [1, 0]"),
        ({"a": entry(0, 2**64, [2**64])}, 1, "data_offsets of a"),
        ({"a": entry(1, 2)}, 2, "the next tensor must begin at 0"),
        ({"a": entry(0, 1), "b": entry(2, 3)}, 3, "data_offsets of b is [2, 3]"),
        ({"a": entry(0, 2), "b": entry(1, 3)}, 3, "data_offsets of b is [1, 3]"),
        ({"a": entry(0, 2)}, 3, "end of the last tensor is 2"),
        ({"": entry(0, 1)}, 1, "name of a tensor"),
        ({"a\nb": entry(0, 1)}, 1, "name of a tensor"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, header: object, size: int, message: str) -> None:
    path = write(tmp_path / "x.safetensors", header, bytes(size))
    with pytest.raises(FormatError) as caught:
        safetensors.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 3, 11, 2**31, 2**63, 2**64 - 1])
def test_the_header_length_is_checked_against_the_file(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "x.safetensors", {}, bytes(8), length)
    with pytest.raises(FormatError, match=r"header length|isn't JSON|must fill"):
        safetensors.read(path)


def test_short_files_and_git_lfs_pointers_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"short")
    with pytest.raises(FormatError, match="size is 5"):
        safetensors.read(path)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "y.safetensors").write_bytes(pointer)
    with pytest.raises(FormatError, match="git lfs pull"):
        safetensors.read(tmp_path / "y.safetensors")
    with pytest.raises(UsageError, match="No such file"):
        safetensors.read(tmp_path / "none")


def test_too_many_tensors_are_refused(tmp_path: Path) -> None:
    many = {f"t{i}": entry(0, 0, [0]) for i in range(safetensors.MAX_TENSORS + 1)}
    with pytest.raises(FormatError, match="number of tensors is 16385"):
        safetensors.read(write(tmp_path / "x.safetensors", many))


def sharded(folder: Path) -> dict[str, object]:
    """Two files and the content of their index."""
    for number in (1, 2):
        weights = {f"t{number}": np.full(3, number, np.float32)}
        small_models.write_safetensors(folder / f"part-{number}.safetensors", weights)
    return {"weight_map": {"t1": "part-1.safetensors", "t2": "part-2.safetensors"}}


def test_a_folder_of_several_files(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / safetensors.INDEX).write_text(json.dumps(index))
    found = safetensors.read_folder(tmp_path)
    assert {name: t.float32().tolist() for name, t in found.items()} == {
        "t1": [1.0] * 3,
        "t2": [2.0] * 3,
    }


def test_a_folder_of_one_file(tmp_path: Path) -> None:
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    small_models.write_safetensors(tmp_path / "model.safetensors", weights)
    found = safetensors.read_folder(tmp_path)
    np.testing.assert_array_equal(found["a"].float32(), weights["a"])


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (None, "weight_map"),
        ({}, "weight_map"),
        ([], "weight_map"),
        ({"t1": 1}, "file of 't1' is 1"),
        ({"t1": "../part-1.safetensors"}, "in the same folder"),
        ({"t1": "/etc/part-1.safetensors"}, "in the same folder"),
        ({"t1": "..\\part-1.safetensors"}, "in the same folder"),
        ({"t1": "part-1.safetensors\0"}, "in the same folder"),
        ({"t1": "part-1.bin"}, "in the same folder"),
        ({"t1": "part-3.safetensors"}, "that file isn't there"),
        ({"t1": "part-2.safetensors"}, "it doesn't hold that tensor"),
    ],
)
def test_a_broken_index_is_refused(tmp_path: Path, places: object, message: str) -> None:
    sharded(tmp_path)
    (tmp_path / safetensors.INDEX).write_text(json.dumps({"weight_map": places}))
    with pytest.raises(FormatError) as caught:
        safetensors.read_folder(tmp_path)
    assert message in str(caught.value)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"model\.safetensors is 'missing'"):
        safetensors.read_folder(tmp_path)


def test_files_of_the_reference_implementation(tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors.numpy")
    weights = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b.c": np.ones((4, 1, 2), np.float16),
        "d": np.array(3, np.int64),
        "e": np.array([True, False]),
    }
    package.save_file(weights, tmp_path / "model.safetensors", {"format": "np"})
    found = safetensors.read_folder(tmp_path)
    assert found.keys() == weights.keys()
    for name, values in weights.items():
        assert found[name].shape == values.shape
        np.testing.assert_array_equal(found[name].float32(), values.astype(np.float32))


def test_unsupported_types_are_told_apart_from_broken_files(tmp_path: Path) -> None:
    header = {"a": entry(0, 1, dtype="F8_E5M2")}
    with pytest.raises(UnsupportedError):
        safetensors.read(write(tmp_path / "x.safetensors", header, b"x"))
