"""tests/metal_language.py and tests/metal: Metal's language refused, compiled and computed."""

from __future__ import annotations

from collections.abc import Iterator

import fake_metal
import metal_language
import numpy as np
import pytest
from fake_metal import FakeMetal
from metal_language import MetalError
from numpy.typing import NDArray

from edgellm.errors import BackendError
from edgellm_backends.metal.device import MetalDevice

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
AT = "uint3 group [[threadgroup_position_in_grid]], uint3 item [[thread_position_in_threadgroup]]"
FAULTS = {
    "kernel void f(float *x) {}": r"'float \*' names no address space",
    "float g(int &x) { return x; } kernel void f(device int *x) {}": "'int &' names no address",
    "struct S { int a; }; kernel void f(device int *x) { S *s; }": r"'S \*' names no address space",
    "kernel void f(device float *x) { thread float *y = x; }": "cannot initialize",
    "void g(constant float *x) {} kernel void f(device float *x) { g(x); }": "no matching function",
    "kernel void f(constant float *x) { x[0] = 1; }": "read-only|const",
    "kernel void f(device float *x) { double y = 1; }": "there is no double",
    "kernel void f(device float *x) { long long y = 1; }": "there is no long long",
    "kernel void f(device float *x) { a: goto a; }": "there is no goto",
    "kernel void f(device float *x) { auto g = [](int a) { return a; }; }": "no lambdas",
    "int g(int n) { return n ? g(n - 1) : 0; } kernel void f(device int *x) { x[0] = g(2); }": (
        "g calls itself"
    ),
    "int h(int n); int g(int n) { return h(n); } int h(int n) { return g(n); }"
    "kernel void f(device int *x) {}": "[gh] calls itself",
    "void g() { threadgroup float x[4]; } kernel void f(device int *x) {}": (
        "g: only kernels declare threadgroup memory"
    ),
    "kernel void f(device int *x [[buffer(0)]], device int *y [[buffer(0)]]) {}": (
        "y can't be buffer 0"
    ),
    "kernel void f(device int *x [[buffer(31)]]) {}": "x can't be buffer 31",
    "kernel void f(device int *x [[texture(0)]]) {}": "x is no buffer",
    "kernel void f(device int *x, int n) {}": "n is neither a buffer nor a position",
    "kernel void f(device int *x, uint n [[vertex_id]]) {}": "n is neither a buffer nor a position",
    "kernel void f(device int *x) { x[0] = y; }": "undeclared identifier 'y'",
    "kernel void f(device float *x) { x[0] = max(x[0], 1); }": "no matching function",
    "kernel void f(device float *x) { x[0] = exp(1); }": "ambiguous",
    "kernel void f(device float *x) { float4 y = float4(1, 2, 3); }": "as many parts",
    "kernel void f(device float *x) { x[0] = std::exp(x[0]); }": "no C\\+\\+ library",
    "kernel void f(device float *x) { float y[x[0] > 0 ? 1 : 2]; }": "variable length",
    "float f(device float *x) { return x[0]; }": "there are no kernels",
    "kernel void f(device float *x) {": "never closed",
}


@pytest.mark.parametrize("source", FAULTS)
def test_what_metal_would_refuse(source: str) -> None:
    fake_metal.library()
    with pytest.raises(MetalError, match=FAULTS[source]):
        metal_language.compiled(HEAD + source)


def test_the_library_is_included() -> None:
    fake_metal.library()
    with pytest.raises(MetalError, match="doesn't include <metal_stdlib>"):
        metal_language.compiled("kernel void f(device int *x) {}")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMetal]:
    with fake_metal.installed(monkeypatch) as found:
        yield found


@pytest.fixture
def device(fake: FakeMetal) -> Iterator[MetalDevice]:
    opened = MetalDevice()
    yield opened
    opened.close()


def computed(
    device: MetalDevice,
    body: str,
    x: NDArray[np.generic],
    count: int,
    items: int = 64,
    groups: int = 1,
    before: str = "",
) -> NDArray[np.float32]:
    """`count` floats that a kernel with this body writes to `out`, `x` being its input."""
    kind = {"float32": "float", "int32": "int", "float16": "half", "uint32": "uint"}[x.dtype.name]
    head = f"{HEAD}{before}kernel void f(device float *out, device const {kind} *x, {AT})"
    given, out = device.allocate(x.nbytes), device.allocate(4 * count)
    device.write(given, x)
    device.program(f"{head} {{{body}}}").launch("f", [out, given], items)((groups, 1, 1))
    found = np.empty(count, np.float32)
    device.read(out, found)
    return found


X = np.random.default_rng(1).standard_normal(256).astype(np.float32)


def test_vectors(device: MetalDevice) -> None:
    body = """
        float4 a = *(device const float4 *)(x + 4), b = float4(x[0], x[1], float2(x[2]));
        packed_float4 c = *(device const packed_float4 *)(x + 1);
        a.xy += b.zw;
        float4 d = fma(a, float4(2), float4(c)) * 0.5f;
        uint4 bits = as_type<uint4>(d) & 0x7fffffffu;
        d = as_type<float4>(bits);
        half4 e = half4(d);
        for (int i = 0; i < 4; i++) out[i] = (float)e[i];
        out[4] = dot(a, b);"""
    found = computed(device, body, X, 5, items=1)
    a, b, c = X[4:8].copy(), X[[0, 1, 2, 2]], X[1:5]
    a[:2] += b[2:]
    expected = np.abs((a * 2 + c) * 0.5).astype(np.float16)
    np.testing.assert_allclose(found, [*expected.astype(np.float32), a @ b], rtol=1e-3)


def test_functions(device: MetalDevice) -> None:
    body = """
        uint i = item.x;
        out[8 * i] = exp(x[i]) + precise::tanh(x[i]) + fabs(x[i]);
        out[8 * i + 1] = max(x[i], 0.0f) + fmin(x[i], 1.0f) + clamp(x[i], -0.5f, 0.5f);
        out[8 * i + 2] = sqrt(x[i]) ;
        out[8 * i + 3] = select(1.0f, 2.0f, isnan(sqrt(x[i])));
        out[8 * i + 4] = -INFINITY < x[i] && isfinite(x[i]) ? 1.0f : 0.0f;
        out[8 * i + 5] = (float)(half)(x[i] * 1000.0f);
        out[8 * i + 6] = (float)(char)(uchar)200;
        out[8 * i + 7] = metal::pow(2.0f, x[i]) + abs(-3);"""
    found = computed(device, body, X[:64], 512).reshape(64, 8)
    x = X[:64]
    with np.errstate(invalid="ignore"):
        root = np.sqrt(x)
    expected = [
        np.exp(x) + np.tanh(x) + np.abs(x),
        np.maximum(x, 0) + np.minimum(x, 1) + np.clip(x, -0.5, 0.5),
        root,
        np.where(np.isnan(root), 2, 1),
        np.ones(64),
        (x * 1000).astype(np.float16),
        np.full(64, -56),
        2**x + 3,
    ]
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-6)


def test_simd_groups(device: MetalDevice) -> None:
    body = """
        uint i = group.x * 40 + item.x;
        out[6 * i] = simd_sum(x[i]);
        out[6 * i + 1] = simd_max(x[i]);
        out[6 * i + 2] = simd_shuffle_xor(x[i], 1);
        out[6 * i + 3] = simd_broadcast(x[i], 5);
        float down = simd_shuffle_down(x[i], 4);
        out[6 * i + 4] = item.x % 32 < 4 ? down : 0.0f;
        out[6 * i + 5] = simd_broadcast_first(x[i]);"""
    found = computed(device, body, X[:80], 480, items=40, groups=2).reshape(2, 40, 6)
    for group, x in zip(found, X[:80].reshape(2, 40), strict=True):
        for lanes in (slice(0, 32), slice(32, 40)):
            got, own = group[lanes], x[lanes]
            np.testing.assert_allclose(got[:, 0], own.sum(), rtol=1e-5)
            np.testing.assert_array_equal(got[:, 1], own.max())
            np.testing.assert_array_equal(got[:, 2], own[np.arange(own.size) ^ 1])
            np.testing.assert_array_equal(got[:, 3], own[5])
            np.testing.assert_array_equal(got[:4, 4], own[4:8])
            np.testing.assert_array_equal(got[:, 5], own[0])


def test_barriers_in_helpers_and_loops(device: MetalDevice) -> None:
    helper = """
        static void both(threadgroup float *shared, uint at, uint step) {
            float sum = shared[at] + shared[(at + step) % 64];
            threadgroup_barrier(mem_flags::mem_threadgroup);
            shared[at] = sum;
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }"""
    body = """
        threadgroup float shared[64];
        shared[item.x] = x[item.x];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint step = 32; step > 0; step /= 2) both(shared, item.x, step);
        out[item.x] = shared[item.x];"""
    found = computed(device, body, X[:64], 64, before=helper)
    np.testing.assert_allclose(found, X[:64].sum(), rtol=1e-4)


def test_a_missing_barrier_shows(device: MetalDevice) -> None:
    """One thread's value is read by another that may run before it."""
    body = """
        threadgroup float shared[64];
        shared[item.x] = x[item.x];
        out[item.x] = shared[63 - item.x];
        threadgroup_barrier(mem_flags::mem_threadgroup);"""
    found = computed(device, body, X[:64], 64)
    assert np.isnan(found).any()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("if (item.x < 7) threadgroup_barrier(mem_flags::mem_none);", "waits at a barrier"),
        ("if (item.x < 7) out[0] = simd_sum(1.0f);", "waits for its simd-group"),
        ("if (item.x < 32) threadgroup_barrier(mem_flags::mem_none);\n"
         "else threadgroup_barrier(mem_flags::mem_none);", "waits at a barrier"),
        ("out[1000000 + item.x] = 1;", "a place out of a buffer"),
        ("out[0] = x[64];", "a place out of a buffer"),
        ("threadgroup_barrier(mem_flags::mem_none); out[999999] = 1;", "a place out of a buffer"),
    ],
)  # fmt: skip
def test_what_would_be_undefined(
    device: MetalDevice, fake: FakeMetal, body: str, said: str
) -> None:
    with pytest.raises(BackendError, match=said):
        computed(device, body, X[:64], 64)
    assert [said in misuse for misuse in fake.misuses()] == [True]
    ones = computed(device, "out[item.x] = 1; threadgroup_barrier(mem_flags::mem_none);", X, 64)
    assert ones.tolist() == [1] * 64
