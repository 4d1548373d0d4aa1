// OpenCL C 1.2 for the kernels of backends/gpu/kernels: see dialect.h there.
#pragma OPENCL FP_CONTRACT OFF
#define KERNEL(name, ...) __kernel void name(__VA_ARGS__)
#define GLOBAL __global
#define LOCAL __local
#define PRIVATE __private
#define NUMBER(T, x) const T x
#define GROUP(d) ((int)get_group_id(d))
#define ITEM ((int)get_local_id(0))
#define INDEX ((int)get_global_id(0))
#define BARRIER barrier(CLK_LOCAL_MEM_FENCE)
// Compilers that are clang tell so, but don't always define OpenCL's own word for it.
#if defined(FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FMA(a, b, c) fma(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#define AS_FLOAT(x) as_float(x)
#define FLOAT_OF_HALF(p, i) vload_half(i, (GLOBAL const half *)(p))
#define HALF_OF_FLOAT(x, p, i) vstore_half_rte(x, i, (GLOBAL half *)(p))
#define EXP(x) exp(x)
#define TANH(x) tanh(x)

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#if WIDE == 1
#define VECTOR(T) T
#define LOAD_FLOATS(p) (*(p))
#define STORE_FLOATS(v, p) (*(p) = (v))
#define LOAD_WORDS(p) (*(p))
#define LOAD_HALVES(p) vload_half(0, (GLOBAL const half *)(p))
#define STORE_HALVES(v, p) vstore_half_rte(v, 0, (GLOBAL half *)(p))
#define LOAD_BFLOATS(p) as_float((uint)*(p) << 16)
#define LOAD_BYTES(p) convert_float(*(p))
#define LOAD_SIGNED_BYTES(p) convert_float(*(GLOBAL const char *)(p))
#else
#define VECTOR(T) JOIN(T, WIDE)
#define LOAD_FLOATS(p) JOIN(vload, WIDE)(0, p)
#define STORE_FLOATS(v, p) JOIN(vstore, WIDE)(v, 0, p)
#define LOAD_WORDS(p) JOIN(vload, WIDE)(0, p)
#define LOAD_HALVES(p) JOIN(vload_half, WIDE)(0, (GLOBAL const half *)(p))
#define STORE_HALVES(v, p) JOIN(JOIN(vstore_half, WIDE), _rte)(v, 0, (GLOBAL half *)(p))
#define LOAD_BFLOATS(p) JOIN(as_float, WIDE)(JOIN(convert_uint, WIDE)(JOIN(vload, WIDE)(0, p)) << 16)
#define LOAD_BYTES(p) JOIN(convert_float, WIDE)(JOIN(vload, WIDE)(0, p))
#define LOAD_SIGNED_BYTES(p) \
    JOIN(convert_float, WIDE)(JOIN(vload, WIDE)(0, (GLOBAL const char *)(p)))
#endif
typedef VECTOR(float) Floats;
typedef VECTOR(uint) Words;
#define SPLAT(x) ((Floats)(x))
#define AS_FLOATS(v) JOIN(as_, VECTOR(float))(v)
#define FROM_SIGNED_BYTE(v, j) \
    JOIN(convert_, VECTOR(float))(JOIN(as_, VECTOR(int))((v) << (24 - 8 * (j))) >> 24)

#ifdef HALF_ARITHMETIC
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
typedef half Real;
typedef VECTOR(half) Reals;
#define REALS(v) JOIN(convert_, VECTOR(half))(v)
#define FLOATS_OF_REALS(v) JOIN(convert_, VECTOR(float))(v)
#define REAL_FMA(a, b, c) fma(a, b, c)
#else
typedef float Real;
typedef Floats Reals;
#define REALS(v) (v)
#define FLOATS_OF_REALS(v) (v)
#define REAL_FMA(a, b, c) FMA(a, b, c)
#endif
#define REAL_SPLAT(x) ((Reals)((Real)(x)))
#define ROW_FUNCTION(name, ...) name(__VA_ARGS__)  // a row function of tinygrad's
