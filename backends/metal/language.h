// Metal's language, version 2 or later, for the kernels of backends/gpu/kernels: see dialect.h there.
#include <metal_stdlib>
using namespace metal;
#pragma clang fp contract(off)
#define KERNEL(name, ...)                                               \
    kernel void name(__VA_ARGS__, uint3 group_at [[threadgroup_position_in_grid]], \
                     uint3 item_at [[thread_position_in_threadgroup]],             \
                     uint3 index_at [[thread_position_in_grid]])
#define GLOBAL device
#define LOCAL threadgroup
#define PRIVATE thread
#define NUMBER(T, x) constant T &x
#define GROUP(d) ((int)group_at[d])
#define ITEM ((int)item_at.x)
#define INDEX ((int)index_at.x)
#define BARRIER threadgroup_barrier(mem_flags::mem_threadgroup)
#define ROW_FUNCTION(name, ...) name(__VA_ARGS__, index_at)
#define FMA(a, b, c) fma(a, b, c)
#define AS_FLOAT(x) as_type<float>(x)
#define FLOAT_OF_HALF(p, i) ((float)((GLOBAL const half *)(p))[i])
#define HALF_OF_FLOAT(x, p, i) (((GLOBAL half *)(p))[i] = (half)(x))
#define EXP(x) precise::exp(x)
#define TANH(x) precise::tanh(x)

// Packed vectors lie at any multiple of an element.
#if WIDE == 1
typedef float Floats;
typedef uint Words;
#define SPLAT(x) (x)
#define LOAD_FLOATS(p) (*(p))
#define STORE_FLOATS(v, p) (*(p) = (v))
#define LOAD_WORDS(p) (*(p))
#define LOAD_HALVES(p) ((float)*(GLOBAL const half *)(p))
#define STORE_HALVES(v, p) (*(GLOBAL half *)(p) = (half)(v))
#define LOAD_BFLOATS(p) as_type<float>((uint)*(p) << 16u)
#define LOAD_BYTES(p) ((float)*(p))
#define LOAD_SIGNED_BYTES(p) ((float)*(GLOBAL const char *)(p))
#define AS_FLOATS(v) as_type<float>(v)
#define FROM_SIGNED_BYTE(v, j) ((float)((int)((v) << (uint)(24 - 8 * (j))) >> 24))
#else
typedef float4 Floats;
typedef uint4 Words;
#define SPLAT(x) float4(x)
inline float4 load_floats(device const float *p) { return float4(*(device const packed_float4 *)p); }
inline float4 load_floats(threadgroup const float *p) {
    return float4(*(threadgroup const packed_float4 *)p);
}
inline float4 load_floats(thread const float *p) { return float4(*(thread const packed_float4 *)p); }
inline void store_floats(float4 v, device float *p) { *(device packed_float4 *)p = packed_float4(v); }
inline void store_floats(float4 v, threadgroup float *p) {
    *(threadgroup packed_float4 *)p = packed_float4(v);
}
inline void store_floats(float4 v, thread float *p) { *(thread packed_float4 *)p = packed_float4(v); }
#define LOAD_FLOATS(p) load_floats(p)
#define STORE_FLOATS(v, p) store_floats(v, p)
#define LOAD_WORDS(p) uint4(*(GLOBAL const packed_uint4 *)(p))
#define LOAD_HALVES(p) float4(half4(*(GLOBAL const packed_half4 *)(p)))
#define STORE_HALVES(v, p) (*(GLOBAL packed_half4 *)(p) = packed_half4(half4(v)))
#define LOAD_BFLOATS(p) as_type<float4>(uint4(ushort4(*(GLOBAL const packed_ushort4 *)(p))) << 16u)
#define LOAD_BYTES(p) float4(uchar4(*(GLOBAL const packed_uchar4 *)(p)))
#define LOAD_SIGNED_BYTES(p) float4(char4(*(GLOBAL const packed_char4 *)(p)))
#define AS_FLOATS(v) as_type<float4>(v)
#define FROM_SIGNED_BYTE(v, j) float4(as_type<int4>((v) << (uint)(24 - 8 * (j))) >> 24)
#endif

#ifdef HALF_ARITHMETIC
typedef half Real;
#if WIDE == 1
typedef half Reals;
#define REALS(v) ((half)(v))
#define FLOATS_OF_REALS(v) ((float)(v))
#define REAL_SPLAT(x) ((half)(x))
#else
typedef half4 Reals;
#define REALS(v) half4(v)
#define FLOATS_OF_REALS(v) float4(v)
#define REAL_SPLAT(x) half4((half)(x))
#endif
#define REAL_FMA(a, b, c) fma(a, b, c)
#else
typedef float Real;
typedef Floats Reals;
#define REALS(v) (v)
#define FLOATS_OF_REALS(v) (v)
#define REAL_SPLAT(x) SPLAT(x)
#define REAL_FMA(a, b, c) FMA(a, b, c)
#endif
