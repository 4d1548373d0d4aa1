"""GGUF files: what the writer writes the reader reads, and what is wrong is named."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import small_models
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm import gguf, quant
from edgellm.errors import FormatError, UnsupportedError, UsageError
from edgellm.gguf.values import string
from edgellm.tensor import MappedTensor

FAMILIES = ("llama", "gpt2", "gemma3", "phi3", "qwen2", "lfm2")


def header(keys: int = 0, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def pair(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    layout = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return string(name) + layout


def read(tmp_path: Path, raw: bytes) -> gguf.GGUFFile:
    path = tmp_path / "x.gguf"
    path.unlink(missing_ok=True)
    path.write_bytes(raw)
    return gguf.read(path)


def padded(raw: bytes, data: int = 0, alignment: int = 32) -> bytes:
    return raw.ljust(-(-len(raw) // alignment) * alignment, b"\0") + bytes(data)


def test_metadata_survives_a_round_trip(tmp_path: Path) -> None:
    metadata: dict[str, object] = {
        "int": 7,
        "negative": -7,
        "large": 2**63,
        "largest negative": -(2**63),
        "true": True,
        "float": 0.5,
        "double": np.float64(0.1),
        "byte": np.uint8(200),
        "text": "lämp\n\U0001f600",
        "empty text": "",
        "strings": ["a", "", "ü"],
        "odd bytes": ["\udcff\udc80"],
        "none": [],
        "ints": [1, -2],
        "large ints": [2**40],
        "floats": [1.5, 2],
        "bools": [True, False],
        "array": np.arange(5, dtype=np.int16),
        "nested": [[1, 2], [3]],
        "nested strings": [["a"], ["b", "c"]],
    }
    path = tmp_path / "x.gguf"
    gguf.write(path, metadata, {})
    found = gguf.read(path).metadata
    assert list(found) == list(metadata)
    for key, value in metadata.items():
        if key == "nested":
            assert [list(item) for item in found[key]] == value  # type: ignore[attr-defined]
        elif isinstance(value, list | np.ndarray) and not isinstance(found[key], list):
            assert list(found[key]) == list(value)  # type: ignore[call-overload]
        else:
            assert found[key] == value
    assert found["array"].dtype == np.int16  # type: ignore[attr-defined]


scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(width=32, allow_nan=False),
    st.text(st.characters(codec="utf-8")),
    st.lists(st.text(st.characters(codec="utf-8"))),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1).map(
        lambda items: np.array(items, np.int32).tolist()
    ),
)
names = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=60)


@settings(max_examples=60)
@given(st.dictionaries(names, scalars, max_size=8), st.dictionaries(names, st.integers(1, 70)))
def test_whatever_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    metadata: dict[str, object],
    sizes: dict[str, int],
) -> None:
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    tensors = {name: np.arange(size, dtype=np.float32) for name, size in sizes.items()}
    gguf.write(path, metadata, tensors)
    found = gguf.read(path)
    assert found.metadata.keys() == metadata.keys()
    for key, value in metadata.items():
        read_back = found.metadata[key]
        assert (read_back.tolist() if isinstance(read_back, np.ndarray) else read_back) == value
    assert found.tensors.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(found.tensors[name].float32(), values)


@pytest.mark.parametrize("name", [kind.name for kind in quant.BY_ID.values()])
def test_tensors_of_every_type(tmp_path: Path, name: str) -> None:
    kind = quant.TYPES[name]
    shape = (3, 2, 2 * kind.values)
    raw = np.random.default_rng(0).integers(0, 256, kind.nbytes(shape), dtype=np.uint8).tobytes()
    path = tmp_path / "x.gguf"
    gguf.write(path, {}, {"t": MappedTensor("t", shape, name, memoryview(raw))})
    found = gguf.read(path).tensors["t"]
    assert (found.shape, found.type, found.nbytes) == (shape, name, len(raw))
    assert found.data == raw
    assert found.float32().shape == shape


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", "i1", "i2", "i4", "i8"])
def test_arrays_are_written_as_they_are(tmp_path: Path, dtype: str) -> None:
    values = np.arange(24).astype(dtype).reshape(4, 6).T  # not contiguous
    path = tmp_path / "x.gguf"
    gguf.write(path, {"general.alignment": 64}, {"t": values, "scalar": values[0, 0]})
    tensors = gguf.read(path).tensors
    np.testing.assert_array_equal(tensors["t"].float32(), values)
    assert tensors["scalar"].shape == ()


def test_what_gguf_cannot_hold_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for metadata, tensors in (
        ({"x": None}, {}),
        ({"x": 2**64}, {}),
        ({"x": [1, "a"]}, {}),
        ({"general.alignment": 3}, {}),
        ({}, {"t": np.zeros(3, np.uint8)}),
        ({}, {"t": np.zeros((1, 1, 1, 1, 1), np.float32)}),
    ):
        with pytest.raises(UnsupportedError):
            gguf.write(path, metadata, tensors)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    gguf.write(path, {"a": 1}, {})
    wrong = MappedTensor("t", (1,), "F32", None)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        gguf.write(path, {"a": 2}, {"t": wrong})
    assert gguf.read(path).metadata == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_version_2_reads_like_version_3(tmp_path: Path) -> None:
    body = pair("a", 4, struct.pack("<I", 5))
    assert read(tmp_path, header(1, 0, version=2) + body).metadata == {"a": 5}


U32, STRING, ARRAY = 4, 8, 9
NESTED = struct.pack("<IQ", ARRAY, 1) * 40 + struct.pack("<IQ", U32, 0)
TWO_TENSORS = tensor("a", (8,), 0, 0)
ONE = header(0, 1)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", "size is 0"),
        (b"GGUF" + bytes(19), "size is 23"),
        (b"GGML" + bytes(30), "magic"),
        (header(version=1), "version is 1"),
        (header(version=4), "version is 4"),
        (header(version=3 << 24), "big-endian"),
        (header(tensors=2**64 - 1), "tensor count"),
        (header(keys=2**63), "key count"),
        (header(1) + struct.pack("<Q", 2**64 - 1) + bytes(40), "length of key 0"),
        (header(1) + pair("a", STRING, struct.pack("<Q", 2**63)) + bytes(9), "length of a"),
        (header(1) + pair("a", 13, bytes(8)), "type of a is 13"),
        (header(1) + pair("a", 7, b"\x02"), "a is 2"),
        (header(1) + pair("a", ARRAY, struct.pack("<IQ", U32, 2**62)), "length of a"),
        (header(1) + pair("a", ARRAY, struct.pack("<IQ", STRING, 2**61)), "length of a"),
        (
            header(1) + pair("a", ARRAY, struct.pack("<IQQ", STRING, 1, 2**64 - 1)),
            "length of item 0 of a",
        ),
        (header(1) + pair("a", ARRAY, NESTED), "nesting of a"),
        (header(1) + struct.pack("<Q", 3) + b"a\xffb" + bytes(20), "key 0"),
        (header(1) + pair("a\nb", U32, bytes(4)), "key 0"),
        (header(2) + pair("a", U32, bytes(4)) * 2, "key 1"),
        (header(1) + pair("general.alignment", U32, struct.pack("<I", 0)), "general.alignment"),
        (header(1) + pair("general.alignment", U32, struct.pack("<I", 24)), "general.alignment"),
        (header(1) + pair("general.alignment", STRING, string("x")), "general.alignment"),
        (ONE + string("a") + struct.pack("<I", 5) + bytes(60), "rank of a is 5"),
        (padded(ONE + tensor("a", (0,))), "shape of a"),
        (padded(ONE + tensor("a", (2**32, 2**32))), "shape of a"),
        (padded(ONE + tensor("a", (2**63, 2))), "shape of a"),
        (padded(ONE + tensor("a", (33, 1), 2), 64), "shape of a"),
        (padded(ONE + tensor("a", (8,), 0, 16), 64), "offset of a"),
        (padded(ONE + tensor("a", (8,), 0, 2**63), 64), "offset of a"),
        (padded(ONE + tensor("a", (8,), 0, 0), 31), "offset of a"),
        (padded(ONE + tensor("a", (8,), 9, 0), 64), "type of a is 'Q8_1'"),
        (padded(ONE + tensor("a", (8,), 15, 0), 64), "type of a is 'Q8_K'"),
        (padded(ONE + tensor("a", (8,), 16, 0), 64), "type of a is 'IQ2_XXS'"),
        (padded(ONE + tensor("a", (8,), 99, 0), 64), "type of a is 99"),
        (padded(header(0, 2) + TWO_TENSORS + tensor("a", (8,), 0, 32), 64), "name of tensor 1"),
        (padded(header(0, 2) + TWO_TENSORS + tensor("b", (8,), 0, 0), 64), "offset of b"),
        (padded(header(0, 2) + tensor("a", (16,)) + tensor("b", (8,), 0, 32), 64), "offset of b"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, raw: bytes, field: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(tmp_path, raw)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/x.gguf: ")
    assert field in text
    assert "\n" not in text


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole.gguf"
    gguf.write(path, {"a": ["x", "yz"], "b": 3, "c": [1.5]}, {"t": np.ones(8, np.float32)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        with pytest.raises(FormatError):
            read(tmp_path, whole[:length])


def test_a_huge_count_allocates_nothing(tmp_path: Path) -> None:
    inputs = [
        header(tensors=2**40),
        header(keys=2**40) + bytes(100),
        header(1) + pair("a", ARRAY, struct.pack("<IQ", STRING, 2**40)) + bytes(100),
        header(1) + pair("a", ARRAY, struct.pack("<IQ", U32, 2**40)) + bytes(100),
        header(1) + pair("a", STRING, struct.pack("<Q", 2**40)) + bytes(100),
    ]
    tracemalloc.start()
    try:
        for raw in inputs:
            with pytest.raises(FormatError):
                read(tmp_path, raw)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_unreadable_path_is_an_error_of_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        gguf.read(tmp_path / "none.gguf")
    with pytest.raises(UsageError, match="directory"):
        gguf.read(tmp_path)


def write_parts(folder: Path, counts: tuple[int, ...] = (3, 3, 3)) -> list[Path]:
    """A model split in three, of which only the first part has the model's keys."""
    paths = []
    for number, count in enumerate(counts):
        keys: dict[str, object] = {"split.no": np.uint16(number), "split.count": np.uint16(count)}
        keys["split.tensors.count"] = 5
        if number == 0:
            keys["general.name"] = "split"
        tensors = {f"t{number}.{i}": np.full(4, i, np.float32) for i in range((0, 2, 3)[number])}
        path = folder / f"model-{number + 1:05}-of-00003.gguf"
        gguf.write(path, keys, tensors)
        paths.append(path)
    return paths


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_split_model_is_read_whole_from_any_part(tmp_path: Path, part: int) -> None:
    paths = write_parts(tmp_path)
    found = gguf.read(paths[part])
    assert found.metadata["general.name"] == "split"
    assert list(found.tensors) == ["t1.0", "t1.1", "t2.0", "t2.1", "t2.2"]
    assert found.parts == tuple(map(str, paths))


def test_broken_splits_are_refused(tmp_path: Path) -> None:
    first, second, third = write_parts(tmp_path)
    third.rename(tmp_path / "gone")
    with pytest.raises(FormatError, match=r"model-00003-of-00003\.gguf isn't beside it"):
        gguf.read(first)
    (tmp_path / "gone").rename(third)
    renamed = second.rename(tmp_path / "second.gguf")
    with pytest.raises(FormatError, match=r"file name is 'second\.gguf'"):
        gguf.read(renamed)
    second.write_bytes(third.read_bytes())
    with pytest.raises(FormatError, match=r"split\.no is 2; it must be 1"):
        gguf.read(first)
    write_parts(tmp_path, (3, 4, 3))
    with pytest.raises(FormatError, match=r"split\.count is 4; it must be 3"):
        gguf.read(first)
    gguf.write(first, {"split.no": 0, "split.count": 3, "split.tensors.count": 9}, {})
    write_parts(tmp_path)[0].unlink()
    gguf.write(first, {"split.no": 0, "split.count": 3, "split.tensors.count": 9}, {})
    with pytest.raises(FormatError, match=r"split\.tensors\.count is 9; the parts hold 5"):
        gguf.read(third)
    gguf.write(first, {"split.no": 0, "split.count": 3}, {"t1.0": np.zeros(1, np.float32)})
    with pytest.raises(FormatError, match=r"tensor is 't1\.0'; an earlier part has it"):
        gguf.read(third)


@pytest.mark.parametrize("family", FAMILIES)
def test_models_read_back_as_written(tmp_path: Path, family: str) -> None:
    path = tmp_path / "model.gguf"
    small_models.write_gguf(path, family)
    found = gguf.read(path)
    assert found.metadata["general.architecture"] == family
    again = tmp_path / "again.gguf"
    gguf.write(again, found.metadata, found.tensors)
    assert again.read_bytes() == path.read_bytes()


def test_a_large_vocabulary_loads_in_under_a_second(tmp_path: Path) -> None:
    tokens = [f"Ġtoken{i}" for i in range(150_000)]
    merges = [f"Ġto ken{i}" for i in range(280_000)]
    path = tmp_path / "vocabulary.gguf"
    gguf.write(path, {"tokens": tokens, "merges": merges, "scores": np.zeros(150_000)}, {})
    start = time.process_time()
    found = gguf.read(path).metadata
    assert time.process_time() - start < 1
    assert found["tokens"] == tokens
    assert found["merges"] == merges


@pytest.mark.parametrize("name", ["models/llama1/model-f32.gguf", "quant/llama-Q4_K_M.gguf"])
def test_real_files_equal_the_reference_reader(shared: Path, name: str) -> None:
    package = pytest.importorskip("gguf")
    expected = package.GGUFReader(shared / name)
    found = gguf.read(shared / name)
    for key, field in expected.fields.items():
        if not key.startswith("GGUF."):
            value = found.metadata[key]
            assert (value.tolist() if isinstance(value, np.ndarray) else value) == field.contents()
    assert [tensor.name for tensor in expected.tensors] == list(found.tensors)
    for reference in expected.tensors:
        values = package.dequantize(reference.data, reference.tensor_type)
        np.testing.assert_array_equal(found.tensors[reference.name].float32(), values)


def test_real_vocabularies_load_in_under_a_second(shared: Path) -> None:
    for path in sorted((shared / "vocab").glob("*.gguf")):
        start = time.process_time()
        assert len(gguf.read(path).metadata["tokenizer.ggml.tokens"]) > 30_000  # type: ignore[arg-type]
        assert time.process_time() - start < 1, path
