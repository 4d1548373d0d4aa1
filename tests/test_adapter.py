"""Adapters' files: PEFT's folders and GGUF, for every family, and those that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from gguf_copy import rearranged
from hostile_inputs import GGUFInput, JSONInput, SafetensorsInput
from random_adapters import random_adapter
from small_models import write_folder
from small_models import write_gguf as write_model

from edgellm import adapter, checkpoint, gguf, safetensors
from edgellm.adapter import Adapter, LowRank
from edgellm.checkpoint import Checkpoint
from edgellm.errors import EdgeError, FormatError, UnsupportedError, UsageError

MODELS = Path(__file__).parent / "data" / "models"
FAMILIES = sorted(folder.name for folder in MODELS.iterdir())
# These two have other matrices, or another architecture's name, in GGUF than in their folders.
PAIRS = [
    name
    for name in FAMILIES
    if (MODELS / name / "model.gguf").exists() and name not in ("bitnet", "granite_4")
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("base") / "llama.gguf"
    write_model(path, "llama")
    return checkpoint.open(path)


@pytest.fixture
def peft(llama: Checkpoint, tmp_path: Path) -> Path:
    adapter.write_peft(tmp_path / "peft", random_adapter(llama), llama)
    return tmp_path / "peft"


@pytest.fixture
def file(llama: Checkpoint, tmp_path: Path) -> Path:
    adapter.write_gguf(tmp_path / "adapter.gguf", random_adapter(llama), llama)
    return tmp_path / "adapter.gguf"


def assert_same(found: Adapter, expected: Adapter) -> None:
    assert set(found.matrices) == set(expected.matrices)
    for name, matrix in expected.matrices.items():
        np.testing.assert_allclose(found.matrices[name].change(), matrix.change(), 1e-6, 1e-6)
        assert found.matrices[name].rank == matrix.rank


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_finds_each_matrix_in_the_base(family: str, tmp_path: Path) -> None:
    base = checkpoint.open(MODELS / family)
    adapter.write_peft(tmp_path / "peft", random_adapter(base), base)
    there = safetensors.read(MODELS / family / "model.safetensors")
    for name in safetensors.read(tmp_path / "peft" / "adapter_model.safetensors"):
        module = name.removeprefix("base_model.model.").rpartition(".lora_")[0]
        assert f"{module}.weight" in there or module == "lm_head"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_reads_what_it_writes(family: str, tmp_path: Path) -> None:
    base = checkpoint.open(MODELS / family)
    made = random_adapter(base, family)
    adapter.write_peft(tmp_path / family, made, base)
    adapter.write_gguf(tmp_path / f"{family}.gguf", made, base)
    for path in (tmp_path / family, tmp_path / f"{family}.gguf"):
        found = adapter.read(path, base)
        assert_same(found, made)
        assert replace(found, matrices={}) == replace(made, matrices={})


@pytest.mark.parametrize("family", PAIRS)
def test_both_forms_fit_the_folder_and_the_gguf_file_of_a_model(
    family: str, tmp_path: Path
) -> None:
    """A folder's matrices and a GGUF file's may have their rows in different orders."""
    folder, file = (checkpoint.open(MODELS / family / name) for name in ("", "model.gguf"))
    made = random_adapter(folder, bound=False)
    adapter.write_peft(tmp_path / "peft", made, folder)
    adapter.write_gguf(tmp_path / "made.gguf", made, folder)
    expected = {
        name: values
        for weight, matrix in made.matrices.items()
        for name, values in rearranged(folder.config, weight, matrix.change()).items()
    }
    for path in (tmp_path / "peft", tmp_path / "made.gguf"):
        found = adapter.read(path, file)
        for name, matrix in found.matrices.items():
            np.testing.assert_allclose(matrix.change(), expected[name], rtol=1e-6, atol=1e-6)


def test_scales_and_ranks_may_differ_from_matrix_to_matrix(
    llama: Checkpoint, tmp_path: Path
) -> None:
    made = random_adapter(llama)
    mixed = dict(made.matrices)
    name = "blk.1.attn_k.weight"
    mixed[name] = replace(random_adapter(llama, rank=7).matrices[name], scale=0.3)
    made = replace(made, matrices=mixed)
    adapter.write_peft(tmp_path / "peft", made, llama)
    adapter.write_gguf(tmp_path / "made.gguf", made, llama)
    assert_same(adapter.read(tmp_path / "peft", llama), made)
    assert_same(adapter.read(tmp_path / "made.gguf", llama), made)


def test_target_modules_are_named_as_people_name_them(llama: Checkpoint, tmp_path: Path) -> None:
    adapter.write_peft(tmp_path / "q", random_adapter(llama, only="attn_q"), llama)
    config = json.loads((tmp_path / "q" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj"]
    adapter.write_peft(tmp_path / "one", random_adapter(llama, only="blk.1.attn_q"), llama)
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.self_attn.q_proj"]


def test_the_head_has_the_name_that_transformers_has_come_to_give_it(tmp_path: Path) -> None:
    base = checkpoint.open(MODELS / "gpt_neox")
    made = random_adapter(base)
    made = replace(made, matrices={"output.weight": made.matrices["output.weight"]})
    adapter.write_peft(tmp_path / "peft", made, base)
    stored, notes = safetensors.read_with_notes(tmp_path / "peft" / "adapter_model.safetensors")
    assert set(stored) == {f"base_model.model.lm_head.lora_{part}.weight" for part in "AB"}
    older = {name.replace("lm_head", "embed_out"): one.float32() for name, one in stored.items()}
    safetensors.write(tmp_path / "peft" / "adapter_model.safetensors", older, notes)
    assert_same(adapter.read(tmp_path / "peft", base), made)


def test_the_change_is_b_times_a_scaled() -> None:
    matrix = LowRank(np.float32([[1, 2]]), np.float32([[3], [5]]), 0.5)
    np.testing.assert_array_equal(matrix.change(), np.float32([[1.5, 3], [2.5, 5]]))


def change_config(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def test_rank_stabilised_adapters_are_scaled_by_the_root_of_the_rank(
    llama: Checkpoint, peft: Path
) -> None:
    change_config(lora_alpha=6, use_rslora=True)(peft)
    assert adapter.read(peft, llama).matrices["blk.0.ffn_up.weight"].scale == 6 / 4**0.5


def test_alpha_patterns_apply_to_whole_names_and_to_their_ends(
    llama: Checkpoint, peft: Path
) -> None:
    change_config(lora_alpha=4, alpha_pattern={"q_proj": 8, "^model.layers.1.mlp.up_proj": 2})(peft)
    found = adapter.read(peft, llama).matrices
    scales = {name: found[f"blk.{name}.weight"].scale for name in ("0.attn_q", "0.attn_k")}
    assert scales == {"0.attn_q": 2, "0.attn_k": 1}
    assert [found[f"blk.{index}.ffn_up.weight"].scale for index in (0, 1)] == [1, 0.5]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "LOHA"),
        ("bias", "all"),
        ("use_dora", True),
        ("modules_to_save", ["embed_tokens"]),
        ("init_lora_weights", "pissa"),
        ("layer_replication", [[0, 1]]),
        ("target_parameters", ["experts"]),
        ("trainable_token_indices", [1]),
        ("alora_invocation_tokens", [1]),
        ("alpha_pattern", {"(a+)+$": 1}),
        ("something_new", 3),
    ],
)
def test_what_isnt_plain_lora_is_refused_by_name(
    key: str, value: object, llama: Checkpoint, peft: Path
) -> None:
    change_config(**{key: value})(peft)
    with pytest.raises(UnsupportedError, match=key):
        adapter.read(peft, llama)


@pytest.mark.parametrize(("key", "value"), [("lora_alpha", "8"), ("alpha_pattern", [1])])
def test_settings_of_the_wrong_type_are_refused(
    key: str, value: object, llama: Checkpoint, peft: Path
) -> None:
    change_config(**{key: value})(peft)
    with pytest.raises(FormatError, match=key):
        adapter.read(peft, llama)


def rewrite_peft(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    path = folder / "adapter_model.safetensors"
    stored, notes = safetensors.read_with_notes(path)
    tensors = {name: tensor.float32().copy() for name, tensor in stored.items()}
    change(tensors)
    safetensors.write(path, tensors, notes)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.pop(f"{Q}.lora_A.weight"), FormatError, "both A and B"),
        (lambda t: t.update({"x.lora_A.weight": t[f"{Q}.lora_A.weight"]}), UnsupportedError, "'x"),
        (
            lambda t: t.update({f"{Q}.lora_magnitude_vector": np.zeros(4, np.float32)}),
            UnsupportedError,
            "lora_magnitude_vector",
        ),
        (
            lambda t: t.update({f"{Q}.lora_A.weight": np.zeros((4, 31), np.float32)}),
            FormatError,
            r"shape of A for blk.0.attn_q.weight is \(4, 31\); \(4, 32\) is needed",
        ),
        (
            lambda t: t.update({f"{Q}.lora_B.weight": np.zeros((32, 3), np.float32)}),
            FormatError,
            "shape of B",
        ),
        (
            lambda t: t.update({f"{Q}.lora_A.weight": np.zeros((0, 32), np.float32)}),
            FormatError,
            "rank of blk.0.attn_q.weight is 0",
        ),
        (
            lambda t: t.update({f"{Q}.lora_B.weight": np.full((32, 4), np.inf, np.float32)}),
            FormatError,
            "finite",
        ),
        (lambda t: t.clear(), FormatError, "number of tensors"),
    ],
)
def test_a_folder_that_doesnt_fit_is_refused_by_name(
    change: Callable[[dict[str, np.ndarray]], None],
    error: type[EdgeError],
    message: str,
    llama: Checkpoint,
    peft: Path,
) -> None:
    rewrite_peft(peft, change)
    with pytest.raises(error, match=message):
        adapter.read(peft, llama)


def test_missing_files_are_named(llama: Checkpoint, peft: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.gguf"):
        adapter.read(tmp_path / "nowhere.gguf", llama)
    (peft / "adapter_model.safetensors").rename(peft / "adapter_model.bin")
    with pytest.raises(UnsupportedError, match=r"adapter_model\.bin"):
        adapter.read(peft, llama)
    (peft / "adapter_model.bin").unlink()
    with pytest.raises(FormatError, match=r"adapter_model\.safetensors"):
        adapter.read(peft, llama)
    (peft / "adapter_config.json").unlink()
    with pytest.raises(FormatError, match=r"adapter_config\.json"):
        adapter.read(peft, llama)


def rewrite_gguf(path: Path, **metadata: object) -> None:
    file = gguf.read(path)
    tensors = {name: tensor.float32().copy() for name, tensor in file.tensors.items()}
    said = {**file.metadata, **{key.replace("__", "."): value for key, value in metadata.items()}}
    gguf.write(path, said, tensors)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general__type": "model"}, "general.type"),
        ({"adapter__type": "control_vector"}, "adapter.type"),
        ({"general__architecture": "qwen2"}, "general.architecture is 'qwen2'"),
        ({"adapter__alora__invocation_tokens": [1]}, "adapter.alora"),
    ],
)
def test_other_gguf_files_are_refused_by_name(
    metadata: dict[str, object], message: str, llama: Checkpoint, file: Path
) -> None:
    rewrite_gguf(file, **metadata)
    with pytest.raises(UnsupportedError, match=message):
        adapter.read(file, llama)


def test_an_alpha_of_nought_means_no_scaling(llama: Checkpoint, file: Path) -> None:
    rewrite_gguf(file, adapter__lora__alpha=0.0)
    assert adapter.read(file, llama).matrices["blk.0.attn_v.weight"].scale == 1


def test_an_adapter_of_another_model_is_refused_unless_told(
    llama: Checkpoint, peft: Path, file: Path, tmp_path: Path
) -> None:
    write_model(tmp_path / "other.gguf", "llama", seed=5)
    other = checkpoint.open(tmp_path / "other.gguf")
    for path in (peft, file):
        with pytest.raises(UsageError, match=r"made for 'small llama' .*, not for .*other\.gguf"):
            adapter.read(path, other)
        assert_same(adapter.read(path, other, any_base=True), adapter.read(path, llama))


def test_an_adapter_for_another_shape_is_refused_by_name(
    peft: Path, file: Path, tmp_path: Path
) -> None:
    write_model(tmp_path / "short.gguf", "llama", layers=1)
    write_folder(tmp_path / "qwen2", "qwen2")
    for base in (checkpoint.open(tmp_path / name) for name in ("short.gguf", "qwen2")):
        for path in (peft, file):
            with pytest.raises(EdgeError, match=r"blk.1|layers.1|lm_head|architecture|output"):
                adapter.read(path, base, any_base=True)


@pytest.mark.parametrize("kind", ["gguf", "safetensors", "json"])
def test_damaged_files_are_read_or_refused(
    kind: str, llama: Checkpoint, peft: Path, file: Path
) -> None:
    if kind == "gguf":
        rewrite_gguf(file, general__tags=["a", "b"], general__counts=np.arange(3))
        path, mutate = file, GGUFInput(file).mutate
    elif kind == "json":
        path = peft / "adapter_config.json"
        mutate = JSONInput(json.loads(path.read_text())).mutate
    else:
        path = peft / "adapter_model.safetensors"
        mutate = SafetensorsInput(path).mutate
    random, refused = Random(7), 0
    for _ in range(300):
        path.write_bytes(mutate(random))
        try:
            adapter.read(file if kind == "gguf" else peft, llama, any_base=True)
        except EdgeError:
            refused += 1
    assert 50 < refused < 300
