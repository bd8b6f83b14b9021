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
/* A value that is used many times is loaded once: gcc would load it for each use. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__SSE2__)
#define TS_IN_REGISTER(x) __asm__("" : "+v"(x))
#else
#define TS_IN_REGISTER(x) ((void)0)
#endif
/* Every function below exists once for each instruction set: ts_exp is ts_exp_avx2 in one of them. */
#define TS_PASTE_(name, suffix) name##_##suffix
#define TS_PASTE(name, suffix) TS_PASTE_(name, suffix)
#define TS_NAME(name) TS_PASTE(name, TS_SUFFIX)
