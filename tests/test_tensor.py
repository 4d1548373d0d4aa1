"""Tensors in mapped files."""

from __future__ import annotations

import numpy as np

from edgellm import checkpoint, runtime
from edgellm.tensor import MappedTensor


def test_what_was_let_go_of_is_still_there() -> None:
    tensor = checkpoint.open(runtime.default_model()).tensors["token_embd.weight"]
    assert isinstance(tensor, MappedTensor)
    before = tensor.float32()
    tensor.release()
    np.testing.assert_array_equal(tensor.float32(), before)
    MappedTensor("x", (1,), "F32", memoryview(bytes(4))).release()  # in no file
