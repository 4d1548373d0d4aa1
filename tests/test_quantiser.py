"""Searches for scales, against blocks that llama.cpp's quantiser has made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm import quant, quantiser
from edgellm.errors import UnsupportedError

REFERENCE = np.load(Path(__file__).parent / "data" / "quantised" / "blocks.npz")
VALUES: NDArray[np.float32] = REFERENCE["values"].astype(np.float32)
IMPORTANCE: NDArray[np.float32] = REFERENCE["importance"]


def errors(name: str, packed: NDArray[np.uint8], weights: NDArray[np.float32]) -> float:
    found = quant.dequantise(name, packed, VALUES.shape)
    return float((weights * np.square(found - VALUES, dtype=np.float64)).sum())


@pytest.mark.parametrize("name", quantiser.PACKERS)
@pytest.mark.parametrize("weighed", [False, True], ids=["plain", "weighed"])
def test_blocks_are_those_of_llama_cpp(name: str, weighed: bool) -> None:
    made = quantiser.quantise(name, VALUES, IMPORTANCE if weighed else None)
    reference = REFERENCE[f"{name}_{'weighed' if weighed else 'plain'}"]
    size = quant.TYPES[name].block_bytes
    same = (made.reshape(-1, size) == reference.reshape(-1, size)).all(axis=1).mean()
    weights = IMPORTANCE if weighed else np.ones_like(IMPORTANCE)
    ours, theirs = (errors(name, each, weights) for each in (made, reference))
    # Sums in another order decide some near ties otherwise, to nobody's advantage.
    assert ours <= theirs * 1.01
    if name in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1") and not weighed:
        assert same == 1
    else:
        assert same > 0.6


@pytest.mark.parametrize("name", quantiser.PACKERS)
@pytest.mark.parametrize("weighed", [False, True], ids=["plain", "weighed"])
def test_zeros_stay_zeros(name: str, weighed: bool) -> None:
    zeros = np.zeros((3, 512), np.float32)
    made = quantiser.quantise(name, zeros, IMPORTANCE if weighed else None)
    np.testing.assert_array_equal(quant.dequantise(name, made, zeros.shape), zeros)


def test_what_matters_more_is_kept_better() -> None:
    weights = np.ones_like(IMPORTANCE)
    weights[::7] = 1000
    plain = quantiser.quantise("Q4_K", VALUES)
    weighed = quantiser.quantise("Q4_K", VALUES, weights)
    assert errors("Q4_K", weighed, weights) < 0.9 * errors("Q4_K", plain, weights)


def test_a_large_matrix_is_the_same_row_by_row() -> None:
    random = np.random.default_rng(2)
    values = random.normal(size=(300, 512)).astype(np.float32)
    whole = quantiser.quantise("Q6_K", values).reshape(300, -1)
    for row in (0, 127, 299):
        np.testing.assert_array_equal(quantiser.quantise("Q6_K", values[row : row + 1]), whole[row])


def test_types_and_widths_that_cant_be_made_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="multiple of 256"):
        quantiser.quantise("Q4_K", np.zeros((2, 128), np.float32))
    with pytest.raises(UnsupportedError, match="IQ4_NL"):
        quantiser.quantise("IQ4_NL", np.zeros((2, 128), np.float32))
