"""The names that `import edgellm` offers, and that importing them costs nothing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import edgellm


def test_the_list_of_names_is_sorted_and_exact() -> None:
    assert edgellm.__all__ == sorted(edgellm.__all__)
    offered: dict[str, object] = {}
    exec("from edgellm import *", offered)
    assert {*offered} - {"__builtins__"} == {
        *("EdgeError", "Model", "__version__", "hookimpl", "load", "load_tokenizer", "render_chat")
    }


@pytest.mark.parametrize("name", edgellm.__all__)
def test_each_name_is_there(name: str) -> None:
    assert getattr(edgellm, name) is not None
    assert name in dir(edgellm)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        edgellm.nonsense  # noqa: B018  (the access is what is tested)


def test_the_version_is_that_of_the_package() -> None:
    assert edgellm.__version__ == version("edgellm")


def test_the_import_itself_loads_nothing() -> None:
    code = "import sys, edgellm; print([m for m in sys.modules if m.startswith('edgellm')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['edgellm']"
