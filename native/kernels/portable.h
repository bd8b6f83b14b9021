/* --- what differs between compilers --- */
#if defined(__cplusplus) && !defined(restrict)
#define TS_RESTRICT __restrict__
#elif defined(_MSC_VER)
#define TS_RESTRICT __restrict
#else
#define TS_RESTRICT restrict
#endif
#if defined(__GNUC__)
#define TS_INLINE static inline __attribute__((always_inline, unused))
#define TS_FUNCTION static __attribute__((noinline, unused))
#define TS_ALIGNED __attribute__((aligned(64)))
#else
#define TS_INLINE static inline
#define TS_FUNCTION static
#define TS_ALIGNED
#endif
/* Unrolls a loop of a constant number of steps, so that an array it indexes can live in registers. */
#if defined(__clang__)
#define TS_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define TS_UNROLL _Pragma("GCC unroll 32")
#else
#define TS_UNROLL
#endif
/* Every function below exists once for each instruction set: ts_exp is ts_exp_avx2 in one of them. */
#define TS_PASTE_(name, suffix) name##_##suffix
#define TS_PASTE(name, suffix) TS_PASTE_(name, suffix)
#define TS_NAME(name) TS_PASTE(name, TS_SUFFIX)
