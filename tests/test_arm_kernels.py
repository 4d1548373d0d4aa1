"""Kernels compiled for 64-bit Arm, run by an emulator and compared with those of this machine."""

from __future__ import annotations

import arm_code
import kernel_library
import kernel_process
import numpy as np
import packed_weights
import pytest
from numpy.typing import NDArray

from edgellm.capture import FORMATS
from edgellm.errors import BackendError
from edgellm_backends.cpu import library, target

TARGETS = list(kernel_process.PROCESSORS)


def compiled(name: str, source: str) -> bytes:
    """The object that a kernel's file becomes for a target."""
    made_for = target.find(name)
    try:
        tools = library.toolchain(made_for)
    except BackendError as error:
        pytest.skip(str(error))
    return library.compiled(tools, made_for, library.KERNELS / f"{source}.c").read_bytes()


@pytest.mark.parametrize(
    ("name", "present", "absent"),
    [
        ("cortex-a53", {"smlal"}, {"sdot", "udot", "smmla"}),
        ("cortex-a72", {"smlal"}, {"sdot", "udot", "smmla"}),
        ("cortex-a76", {"sdot"}, {"smmla"}),
        ("i8mm", {"sdot", "smmla"}, set()),
    ],
)
def test_matrices_are_multiplied_with_the_best_instructions_that_a_target_has(
    name: str, present: set[str], absent: set[str]
) -> None:
    made = compiled(name, "linear")
    assert {word for word in arm_code.INSTRUCTIONS if arm_code.count(made, word)} >= present
    assert not {word for word in absent if arm_code.count(made, word)}


def fused() -> str:
    """The best target of this machine, if it multiplies and adds in one rounding as Arm does."""
    found = [name for name in kernel_library.targets() if name != "sse4.2"]
    return found[-1] if found else pytest.skip("this processor rounds twice")


def multiply_both(
    name: str, type: str, weights: NDArray[np.generic], x: NDArray[np.float32], rows: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The products of a matrix of `rows` rows with activations, here and on a target."""
    wide, width = x.shape
    real = type in packed_weights.FLOATS
    given = [x if real else None, None if real else kernel_library.quantise(x), weights]
    numbers = [width, 1, FORMATS.index(type), rows]
    here, there = np.zeros((2, wide, rows), np.float32)
    native = kernel_library.build(fused(), "linear")
    kernel_library.call(native, "linear", [*given, here], numbers, rows=wide)
    kernel_process.call(name, "linear", "linear", [*given, there], numbers, rows=wide, threads=2)
    return here, there


@pytest.mark.parametrize("type", FORMATS)
@pytest.mark.parametrize("name", TARGETS)
def test_products_are_those_of_every_other_processor(name: str, type: str) -> None:
    rng = np.random.default_rng(FORMATS.index(type))
    for wide, rows in ((1, 13), (2, 8), (7, 24), (39, 17)):
        x = rng.standard_normal((wide, 512), np.float32)
        weights = packed_weights.random_weights(type, rows, 512, rng)
        here, there = multiply_both(name, type, weights, x, rows)
        assert np.array_equal(here, there), (wide, rows)


@pytest.mark.parametrize("type", packed_weights.LAYOUTS)
@pytest.mark.parametrize("name", TARGETS)
def test_no_sum_overflows(name: str, type: str) -> None:
    rng = np.random.default_rng(1)
    signs = rng.choice(np.float32([-1, 1]), (6, 256))
    signs[0], signs[1] = 1, -1
    for fill in (0xFF, 0x80, 0x7F):
        weights = packed_weights.random_weights(type, 8, 256, rng)
        for field in set(weights.dtype.names or ()) - {"d", "m"}:
            codes = weights[field]
            same = np.full(codes.nbytes, fill, np.uint8).view(codes.dtype)
            weights[field] = same.reshape(codes.shape)
        exact = signs.astype(np.float64) @ packed_weights.meaning(type, weights, 8).T
        for x, wanted in ((signs, exact), (signs[:1], exact[:1]), (signs[1:2], exact[1:2])):
            _, there = multiply_both(name, type, weights, np.ascontiguousarray(x), 8)
            np.testing.assert_allclose(there, wanted, rtol=1e-4, atol=1e-4 * np.abs(exact).max())


@pytest.mark.parametrize("type", FORMATS)
@pytest.mark.parametrize("name", ["cortex-a53", "i8mm"])
def test_tokens_are_looked_up(name: str, type: str) -> None:
    weights = packed_weights.random_weights(type, 21, 256, np.random.default_rng(3))
    tokens = [0, 20, 7, 21, -1, 12]
    here, there = np.ones((2, len(tokens), 256), np.float32)
    numbers = [FORMATS.index(type), 256, 21, 0]
    place = {"rows": len(tokens), "threads": 2, "tokens": tokens}
    native = kernel_library.build(kernel_library.targets()[0], "embed")
    kernel_library.call(native, "embed", [here, weights], numbers, **place)
    kernel_process.call(name, "embed", "embed", [there, weights], numbers, **place)
    assert np.array_equal(here, there)
    assert here[:3].any()
