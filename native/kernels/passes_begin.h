/* --- one pass over the rest of this file for each instruction set --- */
#if defined(TS_PASS_AVX512)
#define TS_SUFFIX avx512
#define TS_W 16
#define TS_HAS_FMA 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#elif defined(TS_PASS_AVX2)
#define TS_SUFFIX avx2
#define TS_W 8
#define TS_HAS_FMA 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#elif defined(TS_PASS_SSE2)
#define TS_SUFFIX sse2
#define TS_W 4
#define TS_HAS_FMA 0
#elif defined(TS_PASS_NEON)
#define TS_SUFFIX neon
#define TS_W 4
#define TS_HAS_FMA 1
#elif defined(TS_PASS_WASM)
#define TS_SUFFIX wasm
#define TS_W 4
#define TS_HAS_FMA 0
#else
#define TS_SUFFIX plain
#define TS_W 1
#if defined(FP_FAST_FMAF)
#define TS_HAS_FMA 1
#else
#define TS_HAS_FMA 0
#endif
#endif
