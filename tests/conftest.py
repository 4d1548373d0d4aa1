"""Fixtures that every test may use."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine must not fail a test that is otherwise right.
settings.register_profile("edgellm", deadline=None)
settings.load_profile("edgellm")

# Whoever runs the tests in the background may have had Ctrl-C ignored, for their children too.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "fixtures"


@pytest.fixture(scope="session", autouse=True)
def folders_of_our_own(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Keys, bundles and compiled kernels of tests stay apart from the user's, from run to run."""
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    home = tmp_path_factory.mktemp("home") if cache is None else cache.mkdir("edgellm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
        # Measuring every backend with every model would take long.
        patch.setenv("EDGELLM_DEVICE", "cpu")
        # A service keeps others off its sessions: those of another run of the tests, too.
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data that isn't ours to ship; tests that need it are skipped where it's absent."""
    if not SHARED.is_dir():
        pytest.skip("the reference data beside the project is not here")
    return SHARED


@pytest.fixture(scope="session")
def cpu() -> None:
    """tinygrad on the CPU, with the compiler that is there."""
    from edgellm_backends.cpu.compiler import prepare

    prepare()
