"""Make tests/data/quantised: blocks and mixtures as llama.cpp's own quantiser makes them.

Run it where edgellm and `llama-cpp-python` are installed:

    python tests/make_quantised.py

blocks.npz has `values` (rows, columns), `importance` (columns), and for each type the bytes without
and with importances; mixtures.json, for several models, the types of their tensors in each kind of
file, layer by layer.
"""

from __future__ import annotations

import ctypes
import json
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from quantised_models import MODELS, by_part

from edgellm import gguf, mixture, quant, shapes
from edgellm.quantiser import PACKERS

OUT = Path(__file__).parent / "data" / "quantised"


def values() -> np.ndarray:
    """Rows of several distributions, from plain to nasty."""
    random = np.random.default_rng(0)
    rows = [
        random.normal(size=(4, 512)),
        random.standard_t(3, size=(4, 512)) * 1e-3,
        np.where(random.random((2, 512)) < 0.8, 0, random.normal(size=(2, 512))),
        np.abs(random.normal(size=(1, 512))),
        np.zeros((1, 512)),
    ]
    return np.concatenate(rows).astype(np.float16).astype(np.float32)


def blocks() -> dict[str, np.ndarray]:
    library = Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"
    quantise = ctypes.CDLL(str(library)).ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    x = values()
    importance = np.random.default_rng(1).lognormal(size=x.shape[1]).astype(np.float32)
    found = {"values": x.astype(np.float16), "importance": importance}
    for name in PACKERS:
        kind = quant.TYPES[name]
        for label, weights in (("plain", None), ("weighed", importance)):
            out = np.zeros(kind.nbytes(x.shape), np.uint8)
            given = None if weights is None else weights.ctypes.data_as(ctypes.c_void_p)
            rows, columns = map(ctypes.c_int64, x.shape)
            pointers = (each.ctypes.data_as(ctypes.c_void_p) for each in (x, out))
            quantise(kind.id, *pointers, ctypes.c_int64(0), rows, columns, given)
            found[f"{name}_{label}"] = out
    return found


def mixtures() -> dict[str, dict[str, dict[str, list[str]]]]:
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.gguf", Path(folder) / "target.gguf"
        for name, shape in MODELS.items():
            shapes.SHAPES[name] = shape
            shapes.write_shape(name, "F16", source)
            for file_type, kind in mixture.FILE_TYPES.items():
                options = llama_cpp.llama_model_quantize_default_params()
                options.ftype = kind.number
                arguments = str(source).encode(), str(target).encode(), ctypes.byref(options)
                assert llama_cpp.llama_model_quantize(*arguments) == 0
                tensors = gguf.read(target).tensors
                kinds = {key: tensor.type for key, tensor in tensors.items()}
                found.setdefault(name, {})[file_type] = by_part(kinds)
    return found


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT / "blocks.npz", **blocks())
    (OUT / "mixtures.json").write_text(json.dumps(mixtures()))


if __name__ == "__main__":
    main()
