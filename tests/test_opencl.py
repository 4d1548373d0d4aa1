"""The OpenCL backend on whatever device is here, as a rule PoCL: close to exact arithmetic."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import device_models
import numpy as np
import pytest
import typed_models
from device_models import (
    CLOSE,
    FAMILIES,
    SHARED_FAMILIES,
    Array,
    assert_close_to_the_fixture,
    assert_rows_are_apart,
    family,
    prompts,
)

import edgellm
from edgellm import cli, packing, runtime
from edgellm.errors import BackendError, FitError, UsageError
from edgellm.executor import KV, Executor
from edgellm_backends.gpu import tuning
from edgellm_backends.gpu.tuning import Tuning

HALF = 2e-2
FLOATS = ("F32", "F16", "BF16")
LONG = 300
"""Positions in three chunks of attention."""


@pytest.fixture(autouse=True)
def _device() -> None:
    if runtime.backend("opencl", here=False).probe() is None:
        pytest.skip("there is no OpenCL device here (Debian's pocl-opencl-icd runs on any CPU)")


@contextmanager
def opened(
    path: Path, context: int = 128, target: str | None = None, kv: KV | None = None
) -> Iterator[Executor]:
    out = path.with_suffix(".edge")
    bundle = device_models.built(path, out, "opencl", target)
    run = runtime.backend("opencl").open(bundle, context=context, slots=3, kv=kv)
    try:
        yield run
    finally:
        run.close()


def test_a_processor_is_the_last_resort() -> None:
    backend = runtime.backend("opencl")
    about = backend.probe()
    assert about is not None
    if "PoCL" in about or "pthread" in about or "cpu" in about.lower():
        assert getattr(backend, "last_resort", None) is True


def every(path: Path, tokens: list[int], **options: object) -> Array:
    with edgellm.load(path, context=128, **options) as model:  # type: ignore[arg-type]
        return model.logits(tokens)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family(name: str) -> None:
    for tokens, logits, context in prompts(name):
        with edgellm.load(family(name), context=context, slots=3, device="opencl") as model:
            found = model.executor.prefill(tokens, 0, 0, every=True)
            np.testing.assert_allclose(found, logits, rtol=0, atol=CLOSE)
            assert_rows_are_apart(model.executor, tokens, found)


@pytest.mark.parametrize("name", SHARED_FAMILIES)
def test_a_family_of_the_fixtures(shared: Path, name: str) -> None:
    folder = shared / "models" / name
    path = folder / "model-f32.gguf"
    with edgellm.load(path, context=64, slots=3, device="opencl") as model:
        assert_close_to_the_fixture(model.executor, folder)


def test_types_of_the_fixtures(shared: Path) -> None:
    for path in sorted((shared / "quant").glob("*.gguf")):
        reference = np.load(path.with_suffix(".npz"))
        found = every(path, reference["tokens"].tolist(), device="opencl")
        np.testing.assert_allclose(found, reference["logits_dequant"], rtol=0, atol=CLOSE)


def test_every_type_in_a_small_model(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    typed_models.write(path, typed_models.TYPES)
    tokens = list(range(7, 107))
    exact = every(path, tokens, exact=True)
    with opened(path) as run:
        found = run.prefill(tokens, 0, 0, every=True)
    np.testing.assert_allclose(found, exact, rtol=0, atol=CLOSE)
    on_device = every(path, tokens, exact=True, device="opencl")
    np.testing.assert_allclose(on_device, exact, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("target", ["opencl", "opencl-half"])
def test_types_that_stay_packed(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a large model."""
    monkeypatch.setattr(packing, "SMALL", 0)
    path = tmp_path / "model.gguf"
    kinds = [kind for kind in typed_models.TYPES if kind not in FLOATS]
    typed_models.write(path, kinds)
    tokens = list(range(7, 47))
    exact = every(path, tokens, exact=True, device="opencl")
    with opened(path, target=target) as run:
        found = run.prefill(tokens, 0, 0, every=True)
        close = CLOSE if target == "opencl" else HALF * np.ptp(exact)
        np.testing.assert_allclose(found, exact, rtol=0, atol=close)
        assert_rows_are_apart(run, tokens, found)


@pytest.mark.parametrize("tuned", [Tuning(1, 8, 1), Tuning(4, 4, 2)], ids=str)
def test_variants_that_other_devices_take(
    tuned: Tuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU takes vectors of eight and shares no sums; GPUs do otherwise."""
    monkeypatch.setattr(packing, "SMALL", 0)
    monkeypatch.setattr(tuning, "tuned", lambda *_: tuned)
    path = tmp_path / "model.gguf"
    typed_models.write(path, ["Q8_0", "Q5_K", "Q6_K", "F16", "Q2_K", "IQ4_XS"])
    tokens = np.random.default_rng(0).integers(0, 64, 140).tolist()
    exact = every(path, tokens[:128], exact=True)
    with opened(path, context=160) as run:
        found = run.prefill(tokens, 0, 0, every=True)
        np.testing.assert_allclose(found[:128], exact, rtol=0, atol=CLOSE)
        assert_rows_are_apart(run, tokens, found)


@pytest.mark.parametrize(("name", "kv"), [("gemma3", "f32"), ("falcon_rw", "f32"), ("lfm2", "f16")])
def test_contexts_of_several_chunks(name: str, kv: KV, tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 64, LONG).tolist()
    path = tmp_path / "model.gguf"
    path.symlink_to(family(name))
    with opened(path, LONG, kv=kv) as run, edgellm.load(path, context=LONG, exact=True) as model:
        found = run.prefill(tokens, 0, 0, every=True)
        exact = model.logits(tokens)
        # Halves hold 11 bits; what they lose grows in the layers.
        close = CLOSE if kv == "f32" else 1e-2 * np.ptp(exact)
        np.testing.assert_allclose(found, exact, rtol=0, atol=close)
        # Few rows have their chunks computed apart, many have them in sequence.
        run.copy(0, 1, LONG - 4)
        np.testing.assert_array_equal(run.prefill(tokens[-4:], 1, LONG - 4, every=True), found[-4:])
        assert_rows_are_apart(run, tokens[:200], found[:200])


@pytest.mark.parametrize(
    ("prompt", "steps", "file"),
    [("", 256, "greedy_256.txt"), ("Lily and Tom went to the park", 128, "greedy_128_lily.txt")],
)
def test_a_trained_model_writes_what_llama2_c_does(
    shared: Path, prompt: str, steps: int, file: str
) -> None:
    stories = shared / "stories260k"
    with edgellm.load(stories / "stories260K.gguf", context=256, device="opencl") as model:
        ids = model.tokenizer.encode(prompt, add_special=True)
        pieces = model.generate(ids, max_tokens=steps - len(ids) + 1)
        text = prompt + "".join(piece.text for piece in pieces)
    assert text + "\n" == (stories / file).read_text()


def test_a_kind_of_keys_and_values_that_it_has_not() -> None:
    with pytest.raises(UsageError, match="opencl backend keeps keys and values in f32 or f16"):
        edgellm.load(family("llama"), device="opencl", kv="int8")


def test_what_does_not_fit_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.symlink_to(family("llama"))
    bundle = device_models.built(path, tmp_path / "model.edge", "opencl")
    backend = runtime.backend("opencl")
    with pytest.raises(FitError, match=r"1048576 tokens, .* has .*; a shorter context"):
        backend.open(bundle, context=1 << 20, slots=1 << 16)


def test_devices_by_their_numbers() -> None:
    assert runtime.backend("opencl:0").probe() == runtime.backend("opencl").probe()
    with pytest.raises(BackendError, match="there is no device opencl:99; opencl:0 is "):
        runtime.backend("opencl:99")
    with pytest.raises(BackendError, match="no backend runs on 'opencl:x'"):
        runtime.backend("opencl:x")


def test_a_bundle_is_built_described_and_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, prompt = tmp_path / "model.edge", "turn on the lamp"
    assert cli.main(["build", "--device", "opencl", "-o", str(out)]) == 0
    assert "for opencl" in capsys.readouterr().out
    assert cli.main(["info", str(out)]) == 0
    assert "opencl" in capsys.readouterr().out
    assert cli.main(["run", "-m", str(out), "--device", "opencl", "-p", prompt]) == 0
    assert capsys.readouterr().out == "None of my tools can do that.\n"
    assert cli.main(["run", "-m", str(out), "--device", "cpu", "-p", prompt]) == 1
    assert "built for opencl, not for cpu" in capsys.readouterr().err
    script = (
        "import sys, edgellm\n"
        f"model = edgellm.load({str(out)!r}, device='opencl')\n"
        "assert model.logits([1, 2, 3]).shape[0] == 3\n"
        "assert 'tinygrad' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
