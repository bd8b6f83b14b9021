#if defined(TS_PASS_AVX512) || defined(TS_PASS_AVX2)
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
#undef TS_SUFFIX
#undef TS_W
#undef TS_HAS_FMA
