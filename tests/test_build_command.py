"""Building from the command line and running what was built, without a compiler and tinygrad."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm import bundle, bundle_builder, bundle_cache, cli, memory, runtime
from edgellm.errors import BackendError, FitError, UsageError
from edgellm.key_folder import KeyFolder

MODELS = Path(__file__).parent / "data" / "models"

RUN = """
import re, sys
from pathlib import Path
from edgellm import cli
status = cli.main(sys.argv[1:])
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
maps = Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else ""
print(len(re.findall("^\\\\S+ rwx", maps, re.MULTILINE)), file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keys of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="module")
def built(config: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("built") / "default.edge"
    assert cli.main(["build", "-o", str(path)]) == 0
    return path


def run(*arguments: str, **environment: str) -> tuple[str, set[str], int]:
    """What a command prints, the modules it has imported, and how much memory can be both written
    and run."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=True,
    )
    *_, modules, writable = done.stderr.splitlines()
    return done.stdout, set(modules.split()), int(writable)


def test_a_bundle_runs_without_compiler_and_tinygrad(built: Path, tmp_path: Path) -> None:
    bare = {"PATH": str(tmp_path), "CC": str(tmp_path / "cc"), "XDG_CACHE_HOME": str(tmp_path)}
    said, modules, writable = run("run", "-m", str(built), "-p", "turn on the lamp", **bare)
    assert said == "None of my tools can do that.\n"
    assert not modules & {"tinygrad", "cryptography", "ziglang"}
    assert "email" not in modules  # which importlib.metadata would bring, and a start wait for
    assert writable == 0


def test_so_does_a_model_that_was_built_before(tmp_path: Path) -> None:
    first, second = (run("run", "-p", "turn on the lamp") for _ in range(2))
    assert first[0] == second[0] == "None of my tools can do that.\n"
    assert "tinygrad" not in second[1]
    assert second[2] == 0


def test_a_bundle_is_loaded_as_models_are(built: Path) -> None:
    with edgellm.load(built) as model, edgellm.load() as same:
        assert isinstance(model.file, bundle.Bundle)
        ids = model.tokenizer.encode("turn on the lamp")
        np.testing.assert_array_equal(model.logits(ids), same.logits(ids))
    with pytest.raises(UsageError, match="a bundle has no exact mode"):
        edgellm.load(built, exact=True)


def test_its_words_are_those_of_the_model(built: Path) -> None:
    model = runtime.default_model()
    text = "turn on the l\u00e4mp"
    ids = edgellm.load_tokenizer(built).encode(text)
    assert ids == edgellm.load_tokenizer(model).encode(text)
    messages = [{"role": "user", "content": text}]
    assert edgellm.render_chat(messages, built) == edgellm.render_chat(messages, model)


@pytest.mark.parametrize("kv", ["f16", "int8"])
def test_threads_and_keys_and_values_are_chosen(
    built: Path, capsys: pytest.CaptureFixture[str], kv: str
) -> None:
    asked = ["run", "-m", str(built), "-p", "turn on the lamp", "-t", "1", "--kv", kv]
    assert cli.main(asked) == 0
    assert capsys.readouterr().out == "None of my tools can do that.\n"
    with pytest.raises(UsageError, match="0 threads"):
        edgellm.load(built, threads=0)
    with pytest.raises(UsageError, match="'f8'; there are f32, f16, int8"):
        edgellm.load(built, kv="f8")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="in f16 or int8, not in f32"):
        edgellm.load(built, kv="f32")


def test_info_tells_what_it_is(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(built), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["format"] == "edge"
    assert about["name"] == "edgellm default"
    assert about["licence"] == "MIT"
    assert about["trusted"] == "local"
    assert about["built"]["edgellm"] == edgellm.__version__
    assert about["built_from"]["file"] == "default_model.gguf"
    assert about["target"]["name"] == runtime.backend("cpu").target().name
    tensors = sum(one["tensors"] for one in about["types"].values())
    assert sum(about["packed"].values()) == tensors > 20
    assert cli.main(["info", str(built)]) == 0
    assert "built on this machine" in capsys.readouterr().out


def test_another_machine_needs_the_key(
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("cryptography")
    (key,) = bundle.signers(built)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))
    asked = ["run", "-m", str(built), "-p", "turn on the lamp"]
    assert cli.main(asked) == 4
    assert key.fingerprint in capsys.readouterr().err
    assert cli.main(["info", str(built)]) == 0
    assert "trusted       no" in capsys.readouterr().out
    assert cli.main(["keys", "trust", str(built)]) == 0
    assert cli.main(asked) == 0
    assert "None of my tools can do that." in capsys.readouterr().out


def test_for_another_kind_of_processor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pi.edge"
    assert cli.main(["build", "--board", "raspberry-pi-5", "-o", str(path)]) == 0
    assert bundle.open(path).target.machine == "aarch64"
    if runtime.backend("cpu").lacks(bundle.open(path).target) is None:
        pytest.skip("this machine runs it")
    assert cli.main(["run", "-m", str(path), "-p", "x"]) == 1
    assert "built for cortex-a76, but this machine is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "z80"], "no target 'z80'"),
        (["--board", "abacus"], "a board 'abacus'"),
        (["--sign", "nobody"], "edgellm keys new nobody"),
        (["-o", "/"], "the name of the bundle to write"),
        (["nowhere.gguf"], "nowhere.gguf"),
    ],
)
def test_what_cannot_be_built_is_said(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["build", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_bundle_is_not_built_from_a_bundle(built: Path) -> None:
    with pytest.raises(UsageError, match="that is a bundle"):
        cli.run(["build", str(built)])


class Never:
    """A backend that must not begin to build."""

    name = "never"

    def compiler(self, target: object) -> str:
        raise BackendError("there is no compiler")


def test_what_is_missing_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.edge"
    monkeypatch.setattr(runtime, "backend", lambda device, here=True: Never())
    monkeypatch.setattr(Never, "target", lambda *_: None, raising=False)
    with pytest.raises(BackendError, match="no compiler"):
        cli.run(["build", "-o", str(path), "--target", "x"])
    monkeypatch.setattr(Never, "compiler", lambda *_: "some")
    with monkeypatch.context() as patch:
        patch.setattr(memory, "physical", lambda: 64 << 20)
        with pytest.raises(FitError, match=r"about 20\d\.\d MiB of memory, this machine has 64"):
            cli.run(["build", "-o", str(path), "--target", "x"])
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(FitError, match=r"takes about \d.* the disk has 1\.0 MiB left"):
            cli.run(["build", "-o", str(path), "--target", "x"])
    assert not path.exists()


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    """While the compiler is at work, which begins after the draft was made."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "small.edge"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "edgellm", "build", str(MODELS / "llama"), "-o", str(path)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as work:
        deadline = time.monotonic() + 60
        while not list(path.parent.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert list(path.parent.iterdir())
        work.send_signal(signal.SIGINT)
        _, said = work.communicate(timeout=60)
    assert (work.returncode, said) == (130, "")
    assert list(path.parent.iterdir()) == []


def test_the_cache_is_listed_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bundle_cache, "folder", lambda: tmp_path / "bundles")
    place = bundle_cache.place(runtime.default_model(), runtime.backend("cpu"))
    cpu = runtime.backend("cpu")
    opened = runtime.read()[0]
    bundle_builder.build(opened, place, cpu, cpu.target(), KeyFolder())
    assert cli.main(["build", "--list"]) == 0
    shown = capsys.readouterr()
    assert "edgellm default (default_model.gguf)" in shown.out
    assert str(place.parent) in shown.err
    assert cli.main(["build", "--clear-cache"]) == 0
    assert not place.exists()
    assert cli.main(["build", "--list"]) == 0
    assert "0 bytes" in capsys.readouterr().err
