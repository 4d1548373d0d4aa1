"""Which backend runs a model where nobody has said, and what takes over when it fails."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from toy_executor import ToyExecutor

import edgellm
from edgellm import backend_choice, cli, plugins
from edgellm.backend_choice import Chosen
from edgellm.channel import Text
from edgellm.commands import host
from edgellm.errors import BackendError, FitError, UsageError
from edgellm.runner import Watch
from edgellm.runtime import default_model

OTHER = "starting_point"
"""The backend that `edgellm backend new` writes, as it is."""


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two backends are installed, and the board's profile allows both."""
    folder = tmp_path / "other-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (folder / "entry_points.txt").write_text(
        f"[edgellm.backends]\n{OTHER} = edgellm.starting_point\n"
    )
    profiles = tmp_path / "config" / "edgellm" / "boards"
    profiles.mkdir(parents=True)
    for profile in resources.files("edgellm_boards").iterdir():
        if profile.name.endswith(".toml"):
            lines = profile.read_text().splitlines()
            allowed = [
                f'backends = ["{OTHER}", "cpu"]' if line.startswith("backends") else line
                for line in lines
            ]
            (profiles / profile.name).write_text("\n".join(allowed) + "\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("EDGELLM_DEVICE", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.load.cache_clear()
    yield
    plugins.load.cache_clear()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """One that nobody has run before."""
    return Path(shutil.copy(default_model(), tmp_path / "model.gguf"))


@pytest.mark.usefixtures("two", "cpu")
def test_of_two_the_faster_is_chosen_and_kept(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert backend_choice.allowed() == [OTHER, "cpu"]
    with edgellm.load(model) as loaded:
        chosen = loaded.chosen
        text = [piece.text for piece in loaded.generate("the lamp", max_tokens=8)]
    assert chosen.backend == "cpu"
    assert f"{OTHER}: prefill " in chosen.why
    assert "cpu: prefill " in chosen.why
    monkeypatch.setattr(backend_choice, "fastest", lambda *_: pytest.fail("measured again"))
    with edgellm.load(model) as again:
        assert again.chosen.backend == "cpu"
    with edgellm.load(model, device=OTHER) as other:
        assert other.chosen == Chosen(OTHER, "as was asked for")
        assert [piece.text for piece in other.generate("the lamp", max_tokens=8)] == text
    assert cli.main(["run", "-m", str(model), "-v", "-p", "turn on the lamp"]) == 0
    assert f"device: {chosen.backend} ({chosen.why})" in capsys.readouterr().err


@pytest.mark.usefixtures("two", "cpu")
def test_a_bundle_names_its_backend(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.edge"
    assert cli.main(["build", str(model), "-o", str(path), "--device", OTHER]) == 0
    with edgellm.load(path) as loaded:
        assert loaded.chosen.backend == OTHER
    with pytest.raises(BackendError, match=f"built for {OTHER}, not for cpu"):
        edgellm.load(path, device="cpu")


@pytest.mark.usefixtures("two")
def test_a_choice_is_kept_for_a_model_and_a_week(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert backend_choice.remembered(model) is None
    chosen = Chosen(OTHER, "because")
    backend_choice.remember(model, chosen)
    assert backend_choice.remembered(model) == chosen
    assert backend_choice.remembered(default_model()) is None
    (kept,) = (tmp_path / "cache" / "edgellm" / "choices").iterdir()
    old = time.time() - backend_choice.KEPT_S - 1
    os.utime(kept, (old, old))
    assert backend_choice.remembered(model) is None
    for wrong in ("", "[]", '{"backend": "gone", "why": "x"}', '{"backend": 5}', "x" * 9999):
        kept.write_text(wrong)
        assert backend_choice.remembered(model) is None


def test_where_one_is_installed_nothing_is_measured_or_looked_for() -> None:
    code = (
        "import sys, edgellm; m = edgellm.load(); print(m.chosen.backend, *sys.modules, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "EDGELLM_PLUGINS": "cpu,bpe,spm", "EDGELLM_DEVICE": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    name, *modules = done.stdout.split()
    assert name == "cpu"
    assert not {"edgellm.board", "tomllib"} & set(modules)


class Slow(ToyExecutor):
    def __init__(self, seconds: float) -> None:
        super().__init__(context=256, rows=128)
        self.during = lambda: time.sleep(seconds)


def test_measuring_takes_as_long_as_it_may() -> None:
    began = time.perf_counter()
    fast, slow = backend_choice.measure(Slow(0), 0.2), backend_choice.measure(Slow(0.02), 0.2)
    assert fast.decode > slow.decode
    assert 0.3 < time.perf_counter() - began < 5
    executors = {"a": Slow(0.02), "b": Slow(0), "c": Slow(0.05)}
    chosen = backend_choice.fastest("abc", executors.__getitem__)
    assert chosen.backend == "b"
    assert all(executor.closed for executor in executors.values())


def test_what_fails_is_left_out_and_told() -> None:
    class NaN(ToyExecutor):
        def run(self, *arguments: object) -> np.ndarray:  # type: ignore[type-arg, override]
            return super().run(*arguments) * np.float32(np.nan)  # type: ignore[arg-type]

    def open(name: str) -> ToyExecutor:
        match name:
            case "big":
                raise FitError("it doesn't fit")
            case "odd":
                raise RuntimeError("lost")
            case "nan":
                return NaN()
        return ToyExecutor()

    chosen = backend_choice.fastest(("big", "odd", "nan", "good"), open)
    assert chosen.backend == "good"
    for words in ("big: it doesn't fit", "odd: the backend 'odd' failed (RuntimeError: lost)"):
        assert words in chosen.why
    assert "nan: its logits are none" in chosen.why
    with pytest.raises(FitError):
        backend_choice.fastest(("odd", "big"), open)


def test_those_that_find_no_device_are_not_usable() -> None:
    def find(name: str) -> None:
        if name == "bad":
            raise BackendError("no bad here")
        if name == "worse":
            with backend_choice.named(name):
                raise OSError("no driver")

    assert backend_choice.usable(("bad", "worse", "good"), find) == ["good"]
    with pytest.raises(BackendError, match=r"no bad here; .*'worse' failed \(OSError: no driver\)"):
        backend_choice.usable(("bad", "worse"), find)


def test_last_resorts_are_used_only_where_there_is_nothing_else() -> None:
    backends = {"slow": SimpleNamespace(last_resort=True), "fast": SimpleNamespace()}
    assert backend_choice.usable(("slow", "fast"), backends.__getitem__) == ["fast"]
    assert backend_choice.usable(("slow",), backends.__getitem__) == ["slow"]


def options(*arguments: object) -> object:
    line = ["serve", "--channel", "console:", "--temp", "0", "--samplers", "temperature"]
    return cli.parser("serve").parse_args([*line, *map(str, arguments)])


async def told(model: edgellm.Model, given: object, watch: Watch) -> tuple[str, object]:
    async with host.conversations(model, given, watch=watch) as service:  # type: ignore[arg-type]
        events = [event async for event in service.ask("a", "turn on the lamp")]
        status = service.status()["backend"]
    return "".join(event.text for event in events if isinstance(event, Text)), status


@pytest.mark.usefixtures("two", "cpu")
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_service_goes_on_with_the_fallback(steps: int) -> None:
    given = options("--device", OTHER)
    sound = host.load(given)  # type: ignore[arg-type]
    text, name = asyncio.run(told(sound, given, Watch(OTHER)))
    assert (len(text) > 10, name) == (True, OTHER)

    broken = host.load(given)  # type: ignore[arg-type]
    run, left = broken.executor.run, iter(range(steps))

    def fails(*arguments: object) -> object:
        if next(left, None) is None:
            raise RuntimeError("the device is lost")
        return run(*arguments)  # type: ignore[arg-type]

    broken.executor.run = fails  # type: ignore[assignment, method-assign]
    watch = Watch(OTHER, host.fallback(broken, given))  # type: ignore[arg-type]
    assert watch.fallback is not None
    assert asyncio.run(told(broken, given, watch)) == (text, "cpu")


@pytest.mark.usefixtures("two", "cpu")
def test_what_may_be_a_fallback(tmp_path: Path) -> None:
    path = tmp_path / "model.edge"
    assert cli.main(["build", "-o", str(path), "--device", OTHER]) == 0

    def fallback(*arguments: object) -> str | None:
        given = options(*arguments)
        with host.load(given) as loaded:  # type: ignore[arg-type]
            found = host.fallback(loaded, given)  # type: ignore[arg-type]
        return None if found is None else found.backend

    assert fallback("--device", OTHER) == "cpu"
    assert fallback("--device", OTHER, "--fallback", "none") is None
    assert fallback("--device", "cpu") is None
    assert fallback("--device", "cpu", "--fallback", OTHER) == OTHER
    assert fallback(path) is None
    assert fallback(path, "--fallback", "none") is None
    with pytest.raises(UsageError, match=f"--fallback cpu: .* is built for {OTHER} alone"):
        fallback(path, "--fallback", "cpu")
    with pytest.raises(BackendError, match="no backend runs on 'abacus'"):
        fallback("--device", "cpu", "--fallback", "abacus")
