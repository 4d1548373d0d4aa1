"""edgellm/plugins.py: what is found, what is left out, what is told."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edgellm
from edgellm import plugins
from edgellm.errors import PluginError, UsageError
from edgellm.hookspecs import KINDS
from edgellm.sampling import Sampler, Sampling

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = Path(__file__).parent / "example_plugin"
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]

CHANNEL = """
import edgellm

class Telegraph:
    def __init__(self, url):
        self.url = url

@edgellm.hookimpl
def edgellm_channel(url):
    return Telegraph(url) if url.startswith("telegraph:") else None
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a plugin as pip would: a module, and the metadata that names its entry point."""
    modules: list[str] = []

    def put(
        module: str, code: str, kind: str = "channel", name: str | None = None, also: str = ""
    ) -> None:
        (tmp_path / f"{module}.py").write_text(code)
        folder = tmp_path / f"{module}-2.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 2.5\n")
        (folder / "entry_points.txt").write_text(
            f"[edgellm.{kind}s]\n{name or module} = {module}\n"
            + (f"{also} = {module}\n" if also else "")
        )
        modules.append(module)

    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.load.cache_clear()
    yield put
    plugins.load.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_bundled_plugin_is_loaded_and_hooks_in(kind: str) -> None:
    listed = {about.name: about for about in plugins.describe(kind)}
    assert set(DECLARED[f"edgellm.{kind}s"]) <= set(listed)
    for about in listed.values():
        assert about.hooks == (f"edgellm_{kind}",)
        assert about.kind == kind
        assert about.version


def test_a_third_partys_plugin_is_found_and_asked(install: Install) -> None:
    install("telegraph", CHANNEL)
    assert plugins.About("telegraph", "2.5", "channel", ("edgellm_channel",)) in plugins.describe(
        "channel"
    )
    hook = plugins.load("channel").hook
    assert hook.edgellm_channel(url="telegraph:1").url == "telegraph:1"
    assert hook.edgellm_channel(url="pigeon:1") is None


def test_a_third_partys_plugin_is_asked_before_a_bundled_one(install: Install) -> None:
    install("aaa", CHANNEL.replace("telegraph:", "tcp:"))
    assert type(plugins.load("channel").hook.edgellm_channel(url="tcp:")).__name__ == "Telegraph"


def test_a_broken_plugin_is_named_and_left_out(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("broken", "import no_such_driver\n")
    install("telegraph", CHANNEL)
    assert plugins.load("channel").hook.edgellm_channel(url="telegraph:1") is not None
    assert capsys.readouterr().err == (
        "plugin 'broken' not loaded: ModuleNotFoundError: No module named 'no_such_driver'\n"
    )
    assert "broken" not in [about.name for about in plugins.describe("channel")]


def test_a_broken_plugin_of_another_kind_costs_nothing(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("broken", "raise SystemError\n", kind="sampler")
    plugins.load("channel")
    assert capsys.readouterr().err == ""


def test_a_taken_name_is_told_and_left_out(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("mine", CHANNEL, name="console")
    assert plugins.load("channel").hook.edgellm_channel(url="telegraph:1") is None
    assert "plugin 'console' of mine not loaded: the name is taken" in capsys.readouterr().err


def test_the_version_is_that_of_the_plugin_that_is_loaded(install: Install) -> None:
    install("mine", CHANNEL, name="console")
    (about,) = [about for about in plugins.describe("channel") if about.name == "console"]
    assert about.version == edgellm.__version__


def test_of_two_entry_points_to_one_module_the_second_is_told_and_left_out(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("telegraph", CHANNEL, also="morse")
    names = [about.name for about in plugins.describe("channel")]
    assert ("morse" in names, "telegraph" in names) == (True, False)
    assert plugins.load("channel").hook.edgellm_channel(url="telegraph:1") is not None
    assert capsys.readouterr().err == (
        "plugin 'telegraph' of telegraph not loaded: 'morse' is the same module\n"
    )


def test_a_module_may_have_hooks_of_several_kinds(install: Install) -> None:
    hook = "\n@edgellm.hookimpl\ndef edgellm_sampler(name):\n    return None\n"
    install("telegraph", CHANNEL + hook)
    about = plugins.About("telegraph", "2.5", "channel", ("edgellm_channel",))
    assert about in plugins.describe("channel")
    assert "telegraph" not in [about.name for about in plugins.describe("sampler")]


def test_what_is_offered_says_what_the_environment_leaves_out(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("telegraph", CHANNEL)
    monkeypatch.delenv("EDGELLM_PLUGINS", raising=False)
    assert plugins.offered("channel") == "console, serial, socket, telegraph"
    monkeypatch.setenv("EDGELLM_PLUGINS", "telegraph,cpu")
    said = "telegraph (EDGELLM_PLUGINS=telegraph,cpu allows no others)"
    assert plugins.offered("channel") == said
    assert plugins.offered("sampler").startswith("none (EDGELLM_PLUGINS=")
    with pytest.raises(UsageError, match=r"'top_k', which no plugin offers.*EDGELLM_PLUGINS"):
        Sampler(Sampling(samplers=("top_k",)))


@pytest.mark.parametrize(
    ("code", "culprit"),
    [
        (CHANNEL.replace("def edgellm_channel", "def edgellm_chanel"), "edgellm_chanel"),
        (CHANNEL.replace("def edgellm_channel(url)", "def edgellm_channel(uri)"), "uri"),
    ],
    ids=["hook", "argument"],
)
def test_a_misspelled_hook_is_an_error(install: Install, code: str, culprit: str) -> None:
    install("telegraph", code)
    with pytest.raises(PluginError, match=culprit) as caught:
        plugins.load("channel")
    assert caught.value.plugin == "telegraph"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "names"), [("telegraph, console", ["console", "telegraph"]), ("", []), ("no", [])]
)
def test_restricted_by_the_environment(
    install: Install, monkeypatch: pytest.MonkeyPatch, setting: str, names: list[str]
) -> None:
    install("telegraph", CHANNEL)
    monkeypatch.setenv("EDGELLM_PLUGINS", setting)
    assert [about.name for about in plugins.describe("channel")] == names


def test_calls_are_traced(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install("telegraph", CHANNEL)
    monkeypatch.setenv("EDGELLM_PLUGINS", "telegraph")
    monkeypatch.setenv("EDGELLM_TRACE", "1")
    plugins.load("channel").hook.edgellm_channel(url="telegraph:1" + 200 * "x")
    asked, answered = capsys.readouterr().err.splitlines()
    assert asked.startswith("trace: edgellm_channel(url='telegraph:1xxx")
    assert asked.endswith("...) asks telegraph")
    assert answered.startswith("trace: edgellm_channel -> <telegraph.Telegraph object")


def test_a_hook_that_fails_is_traced(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install("telegraph", CHANNEL.replace("return ", "raise OSError('wire cut') # "))
    monkeypatch.setenv("EDGELLM_TRACE", "1")
    with pytest.raises(OSError, match="wire cut"):
        plugins.load("channel").hook.edgellm_channel(url="telegraph:1")
    assert "-> OSError('wire cut')" in capsys.readouterr().err


def test_the_example_plugin_installs_and_works(tmp_path: Path) -> None:
    """As its author would: pip, without network; then a model that can't say a digit."""
    source = shutil.copytree(EXAMPLE, tmp_path / "source")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", tmp_path / "site", source],
        check=True,
        capture_output=True,
    )
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path / "site")!r})
import numpy as np
from edgellm import plugins
from edgellm.sampling import Sampler, Sampling

class Vocabulary:
    size = 4
    def piece(self, token):
        return [b"a", b"1", b"x7y", b"b"][token]

(about,) = [about for about in plugins.describe("sampler") if about.name == "no_digits"]
assert (about.version, about.hooks) == ("1.2.3", ("edgellm_sampler",)), about
options = Sampling(temperature=0, samplers=("no_digits", "temperature"))
assert Sampler(options, Vocabulary()).sample(np.array([1, 9, 8, 2], np.float32), []) == 3
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_hook_that_raises_is_named(install: Install) -> None:
    install("telegraph", CHANNEL.replace('url.startswith("telegraph:")', "1 / 0"))
    with pytest.raises(PluginError, match=r"plugin 'telegraph': ZeroDivisionError"):
        plugins.ask("channel", url="telegraph:")


def test_a_plugin_that_wants_to_exit_is_left_out(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("quitter", "import sys\nsys.exit(3)\n")
    assert "quitter" not in dict(plugins.load("channel").list_name_plugin())
    assert "plugin 'quitter' not loaded: SystemExit: 3" in capsys.readouterr().err
