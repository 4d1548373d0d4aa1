"""The Metal backend on the fake: whole models against their references, and what may go wrong."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import fake_metal
import numpy as np
import pytest
import typed_models
from device_models import (
    CLOSE,
    FAMILIES,
    SHARED_FAMILIES,
    assert_close_to_the_fixture,
    assert_rows_are_apart,
    built,
    family,
    prompts,
)
from fake_metal import FakeMetal

import edgellm
from edgellm import packing, runtime
from edgellm.conformance import suite
from edgellm.errors import BackendError, FitError, UsageError
from edgellm.executor import Cancelled, Executor
from edgellm_backends.gpu.sources import KERNELS
from edgellm_backends.metal import edgellm_backend

HALF = ("F16", "Q8_0", "Q4_1", "Q6_K", "Q2_K", "IQ4_XS")
"""Those whose kernels differ most in half precision."""
HALF_CLOSE = 2e-2
"""Of a position's range of logits."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMetal]:
    with fake_metal.installed(monkeypatch) as found:
        yield found


def opened(path: Path, context: int = 64, slots: int = 3, **options: object) -> Executor:
    return edgellm.load(path, context=context, slots=slots, device="metal", **options).executor


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family(fake: FakeMetal, name: str) -> None:
    for tokens, logits, context in prompts(name):
        run = opened(family(name), context)
        every = run.prefill(tokens, 0, 0, every=True)
        np.testing.assert_allclose(every, logits, atol=CLOSE)
        assert_rows_are_apart(run, tokens, every)
        at = len(tokens) // 2
        run.copy(1, 2, at)
        np.testing.assert_array_equal(run.prefill(tokens[at:], 2, at, every=True), every[at:])
        run.close()


@pytest.mark.parametrize("name", SHARED_FAMILIES)
def test_a_family_of_the_fixtures(fake: FakeMetal, shared: Path, name: str) -> None:
    run = opened(shared / "models" / name / "model-f32.gguf")
    assert_close_to_the_fixture(run, shared / "models" / name)
    run.close()


@pytest.mark.parametrize("kind", typed_models.TYPES)
def test_a_type(
    fake: FakeMetal, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed as in a large model, against the same in float32."""
    path, tokens = tmp_path / "model.gguf", list(range(7, 31))
    typed_models.write(path, [kind], layers=1)
    monkeypatch.setattr(packing, "SMALL", 0)
    exact = opened(path, exact=True)
    expected = exact.prefill(tokens, 0, 0, every=True)
    exact.close()
    for target in ("metal", "metal-half") if kind in HALF else ("metal",):
        built(path, made := tmp_path / f"{target}.edge", "metal", target)
        run = opened(made)
        found = run.prefill(tokens, 0, 0, every=True)
        atol = CLOSE if target == "metal" else HALF_CLOSE * np.ptp(expected)
        np.testing.assert_allclose(found, expected, atol=atol)
        step = run.step(tokens[-1:], [1], [0])
        np.testing.assert_array_equal(run.prefill(tokens[-1:], 2, 0), step[0])
        run.close()


@pytest.mark.parametrize(("name", "kv"), [("gemma3", "f32"), ("lfm2", "f16")])
def test_a_context_of_several_chunks(fake: FakeMetal, name: str, kv: str) -> None:
    """Attention of few rows is spread over groups of threads, and merged."""
    tokens = [7 * place % 61 for place in range(300)]
    run = opened(family(name), 320, kv=kv)
    every = run.prefill(tokens, 0, 0, every=True)
    run.prefill(tokens[:270], 1, 0)
    np.testing.assert_array_equal(run.prefill(tokens[270:275], 1, 270, every=True), every[270:275])
    np.testing.assert_array_equal(run.step(tokens[275:276], [1], [275])[0], every[275])
    run.close()
    if name == "lfm2":  # which has both convolutions and attention
        texts = "".join(path.read_text() for path in KERNELS.glob("*.c"))
        assert set(re.findall(r"^KERNEL\((\w+)", texts, re.MULTILINE)) <= set(fake.ran())


def test_the_contract() -> None:
    """As `edgellm backend check` sees it, whose other checks have their tests here."""
    names = ("serving", "forgetting", "context's end", "errors", "determinism", "threads")
    fake_metal.library()
    plugin = Path(__file__).with_name("faked_metal.py")
    for outcome in suite.run(str(plugin), (*names, "cancel", "closing"), limit=120):
        assert outcome.status == "passed", outcome


def test_a_trained_model_writes_what_llama2_c_does(fake: FakeMetal, shared: Path) -> None:
    stories = shared / "stories260k"
    with edgellm.load(stories / "stories260K.gguf", context=256, device="metal") as model:
        ids = model.tokenizer.encode("", add_special=True)
        pieces = model.generate(ids, max_tokens=257 - len(ids))
        text = "".join(piece.text for piece in pieces)
    assert text + "\n" == (stories / "greedy_256.txt").read_text()


def test_weights_are_used_where_the_bundle_is_mapped(fake: FakeMetal, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    typed_models.write(path, ["Q8_0"])
    made = built(path, tmp_path / "model.edge", "metal")
    weights = sum(tensor.nbytes for tensor in made.tensors.values())
    run = opened(Path(made.path))
    assert fake.in_place() > weights
    run.close()


def test_bundles_are_built_without_metal(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    typed_models.write(path, ["Q4_0"], layers=1)
    made = built(path, tmp_path / "model.edge", "metal")
    assert (made.backend, made.target.name, made.target.machine) == ("metal", "metal", "any")
    with pytest.raises(UsageError, match="no target 'avx2' for metal"):
        runtime.backend("metal", here=False).target("avx2")


def test_a_machine_without_metal(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="'metal' can't run here: no Metal on this machine"):
        edgellm.load(family("llama"), device="metal")
    backend = edgellm_backend("metal")
    assert backend is not None
    assert backend.probe() is None
    assert edgellm_backend("cpu") is None


def test_what_was_found(fake: FakeMetal) -> None:
    backend = edgellm_backend("metal")
    assert backend is not None
    assert backend.probe() == "Fake M1, 64.0 GiB of memory for it"
    assert backend.missing() is None


def test_a_model_that_doesnt_fit(fake: FakeMetal) -> None:
    fake.set(working_set=8 << 20)
    with pytest.raises(FitError, match=r"on the device .* Fake M1 has 8\.0 MiB"):
        opened(family("llama"), context=8192)
    fake.set(working_set=1 << 36, max_buffer=4 << 20)
    with pytest.raises(FitError, match=r"in one piece, Fake M1 gives 4\.0 MiB"):
        opened(family("llama"), context=8192, slots=32)


@pytest.mark.parametrize("number", [1, 5, 20])
def test_memory_that_is_refused(fake: FakeMetal, number: int) -> None:
    fake.set(fail_allocation=number)
    with pytest.raises(FitError, match="Fake M1 has no memory left"):
        opened(family("gemma3"))
    fake.set(fail_allocation=0, fail_in_place=number)
    opened(family("gemma3")).close()  # what can't be used in place is copied


def test_sources_that_dont_compile(fake: FakeMetal) -> None:
    fake.set(fail_compile=1)
    with pytest.raises(BackendError, match="Metal cannot compile the kernels: program_source:7"):
        opened(family("llama"))


def test_a_gpu_that_is_removed(fake: FakeMetal) -> None:
    run = opened(family("llama"))
    fake.set(fail_command=11, fail_command_in=1)
    with pytest.raises(BackendError, match="the GPU has been removed"):
        run.prefill([1, 2, 3], 0, 0)
    run.close()


def test_cancelled_from_another_thread(fake: FakeMetal) -> None:
    run = opened(family("gemma3"))
    expected = run.prefill([1, 2, 3], 0, 0)
    stop = threading.Event()

    def cancel() -> None:
        while not stop.is_set():
            run.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        with pytest.raises(Cancelled):
            all(run.prefill([4] * 20, 1, 0).size for _ in range(100_000))
    finally:
        stop.set()
        thread.join()
    run.cancel()  # between calls: nothing
    np.testing.assert_array_equal(run.prefill([1, 2, 3], 1, 0), expected)
    run.close()
