"""The sampling that model files advise."""

from __future__ import annotations

import pytest

from edgellm import advice
from edgellm.errors import FormatError


def test_gguf_keys_become_fields() -> None:
    metadata = {
        "general.sampling.temp": 0.0,
        "general.sampling.top_k": 20,
        "general.sampling.penalty_repeat": 1.5,
        "general.name": "m",
    }
    found = advice.from_gguf("m.gguf", metadata)
    assert found == {"temperature": 0.0, "top_k": 20, "repeat_penalty": 1.5}
    assert advice.from_gguf("m.gguf", {}) == {}


def test_a_folder_advises_only_if_it_wants_sampling() -> None:
    values = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "eos_token_id": [1, 2]}
    assert advice.from_folder("g.json", values) == {"temperature": 0.7, "top_p": 0.8}
    assert advice.from_folder("g.json", {**values, "do_sample": False}) == {}


@pytest.mark.parametrize("value", ["0.7", -1.0, float("nan"), [1], True, 10**400])
def test_a_value_that_cannot_be_used_is_named(value: object) -> None:
    with pytest.raises(FormatError, match=r"m\.gguf: general\.sampling\.temp is"):
        advice.from_gguf("m.gguf", {"general.sampling.temp": value})
    with pytest.raises(FormatError, match=r"g\.json: temperature is"):
        advice.from_folder("g.json", {"do_sample": True, "temperature": value})
