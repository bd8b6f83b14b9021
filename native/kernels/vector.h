/* --- vectors of TS_W floats (ts_v) and of as many int32 (ts_i), which serve as masks too: all bits of a
   lane are set, or none. ts_fma rounds once where the machine has the instruction, and twice where it has
   not: machines of one kind give the same bits, whatever their width. --- */
#if TS_W > 1
typedef float ts_v __attribute__((vector_size(4 * TS_W)));
typedef int32_t ts_i __attribute__((vector_size(4 * TS_W)));
typedef float ts_v_unaligned __attribute__((vector_size(4 * TS_W), aligned(4), may_alias));
typedef int32_t ts_i_unaligned __attribute__((vector_size(4 * TS_W), aligned(4), may_alias));
TS_INLINE ts_v ts_set(float x) {
  const ts_v zero = {0};
  return x - zero; /* minus, so that -0 stays -0 */
}
TS_INLINE ts_i ts_seti(int32_t x) {
  const ts_i zero = {0};
  return x - zero;
}
TS_INLINE ts_v ts_load(const float *p) {
  return *(const ts_v_unaligned *)p;
}
TS_INLINE ts_i ts_loadi(const int32_t *p) {
  return *(const ts_i_unaligned *)p;
}
TS_INLINE void ts_store(float *p, ts_v v) {
  *(ts_v_unaligned *)p = v;
}
TS_INLINE ts_i ts_bits(ts_v v) {
  return (ts_i)v;
}
TS_INLINE ts_v ts_from_bits(ts_i v) {
  return (ts_v)v;
}
TS_INLINE ts_i ts_lt(ts_v a, ts_v b) {
  return a < b;
}
TS_INLINE ts_i ts_le(ts_v a, ts_v b) {
  return a <= b;
}
TS_INLINE ts_i ts_eq(ts_v a, ts_v b) {
  return a == b;
}
TS_INLINE ts_i ts_ne(ts_v a, ts_v b) {
  return a != b;
}
TS_INLINE ts_i ts_shift_left(ts_i v, int bits) {
  return v << bits;
}
TS_INLINE ts_v ts_to_float(ts_i v) {
  return __builtin_convertvector(v, ts_v);
}
TS_INLINE float ts_lane(ts_v v, int lane) {
  return v[lane];
}
TS_INLINE int32_t ts_lanei(ts_i v, int lane) {
  return v[lane];
}
#else
typedef float ts_v;
typedef int32_t ts_i;
TS_INLINE ts_v ts_set(float x) {
  return x;
}
TS_INLINE ts_i ts_seti(int32_t x) {
  return x;
}
TS_INLINE ts_v ts_load(const float *p) {
  return *p;
}
TS_INLINE ts_i ts_loadi(const int32_t *p) {
  return *p;
}
TS_INLINE void ts_store(float *p, ts_v v) {
  *p = v;
}
TS_INLINE ts_i ts_bits(ts_v v) {
  ts_i bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}
TS_INLINE ts_v ts_from_bits(ts_i v) {
  ts_v x;
  memcpy(&x, &v, sizeof x);
  return x;
}
TS_INLINE ts_i ts_lt(ts_v a, ts_v b) {
  return -(ts_i)(a < b);
}
TS_INLINE ts_i ts_le(ts_v a, ts_v b) {
  return -(ts_i)(a <= b);
}
TS_INLINE ts_i ts_eq(ts_v a, ts_v b) {
  return -(ts_i)(a == b);
}
TS_INLINE ts_i ts_ne(ts_v a, ts_v b) {
  return -(ts_i)(a != b);
}
TS_INLINE ts_i ts_shift_left(ts_i v, int bits) {
  return (ts_i)((uint32_t)v << bits);
}
TS_INLINE ts_v ts_to_float(ts_i v) {
  return (ts_v)v;
}
TS_INLINE float ts_lane(ts_v v, int lane) {
  (void)lane;
  return v;
}
TS_INLINE int32_t ts_lanei(ts_i v, int lane) {
  (void)lane;
  return v;
}
#endif
TS_INLINE ts_v ts_select(ts_i mask, ts_v a, ts_v b) {
  return ts_from_bits((mask & ts_bits(a)) | (~mask & ts_bits(b)));
}
/* Whether any lane of a mask is set. */
TS_INLINE int ts_any(ts_i mask) {
#if defined(TS_PASS_AVX512)
  return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(TS_PASS_AVX2)
  return _mm256_movemask_ps((__m256)mask) != 0;
#elif defined(TS_PASS_SSE2)
  return _mm_movemask_ps((__m128)mask) != 0;
#elif defined(TS_PASS_NEON)
  return vmaxvq_u32((uint32x4_t)mask) != 0;
#elif defined(TS_PASS_WASM)
  return wasm_v128_any_true((v128_t)mask);
#else
  return mask != 0;
#endif
}
/* Multiply and add: a * b + c. */
TS_INLINE ts_v ts_fma(ts_v a, ts_v b, ts_v c) {
#if defined(TS_PASS_AVX512)
  return (ts_v)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(TS_PASS_AVX2)
  return (ts_v)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(TS_PASS_NEON)
  return (ts_v)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif TS_W == 1 && TS_HAS_FMA
  return fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
TS_INLINE ts_v ts_sqrt(ts_v v) {
#if defined(TS_PASS_AVX512)
  return (ts_v)_mm512_sqrt_ps((__m512)v);
#elif defined(TS_PASS_AVX2)
  return (ts_v)_mm256_sqrt_ps((__m256)v);
#elif defined(TS_PASS_SSE2)
  return (ts_v)_mm_sqrt_ps((__m128)v);
#elif defined(TS_PASS_NEON)
  return (ts_v)vsqrtq_f32((float32x4_t)v);
#elif defined(TS_PASS_WASM)
  return (ts_v)wasm_f32x4_sqrt((v128_t)v);
#else
  return sqrtf(v);
#endif
}
/* The larger and the smaller; a NaN of either is the result, as in torch. */
TS_INLINE ts_v ts_max(ts_v a, ts_v b) {
  return ts_select(ts_lt(a, b) | ts_ne(b, b), b, a);
}
TS_INLINE ts_v ts_min(ts_v a, ts_v b) {
  return ts_select(ts_lt(b, a) | ts_ne(b, b), b, a);
}
/* As the machines have them in one instruction: b where either is NaN, so that a bound as `a` keeps a NaN `b`.
   (All lanes in the mask: g++ 12 takes the intrinsics without one for uninitialised.) */
TS_INLINE ts_v ts_lesser(ts_v a, ts_v b) {
#if defined(TS_PASS_AVX512)
  return (ts_v)_mm512_mask_min_ps((__m512)a, 0xffff, (__m512)a, (__m512)b);
#elif defined(TS_PASS_AVX2)
  return (ts_v)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(TS_PASS_SSE2)
  return (ts_v)_mm_min_ps((__m128)a, (__m128)b);
#elif defined(TS_PASS_WASM)
  return (ts_v)wasm_f32x4_pmin((v128_t)b, (v128_t)a);
#else
  return ts_select(ts_lt(a, b), a, b);
#endif
}
TS_INLINE ts_v ts_greater(ts_v a, ts_v b) {
#if defined(TS_PASS_AVX512)
  return (ts_v)_mm512_mask_max_ps((__m512)a, 0xffff, (__m512)a, (__m512)b);
#elif defined(TS_PASS_AVX2)
  return (ts_v)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(TS_PASS_SSE2)
  return (ts_v)_mm_max_ps((__m128)a, (__m128)b);
#elif defined(TS_PASS_WASM)
  return (ts_v)wasm_f32x4_pmax((v128_t)b, (v128_t)a);
#else
  return ts_select(ts_lt(b, a), a, b);
#endif
}
TS_INLINE ts_v ts_abs(ts_v v) {
  return ts_from_bits(ts_bits(v) & ts_seti(0x7fffffff));
}
/* The magnitude of v, which is not negative, with the sign of x. */
TS_INLINE ts_v ts_with_sign(ts_v v, ts_v x) {
  return ts_from_bits(ts_bits(v) | (ts_bits(x) & ts_seti(INT32_MIN)));
}
/* max(v, 0), and NaN of NaN. */
TS_INLINE ts_v ts_relu(ts_v v) {
  return ts_select(ts_lt(v, ts_set(0)), ts_set(0), v);
}
#if defined(TS_PASS_AVX2)
/* A mask of the first `count` lanes. */
TS_INLINE __m256i ts_first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif
/* The first `count` lanes, the others 0; count is 1 to TS_W. */
TS_INLINE ts_v ts_load_first(const float *p, int count) {
#if defined(TS_PASS_AVX512)
  return (ts_v)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
#elif defined(TS_PASS_AVX2)
  return (ts_v)_mm256_maskload_ps(p, ts_first_lanes(count));
#else
  float lanes[TS_W] = {0};
  for (int lane = 0; lane < count; lane++)
    lanes[lane] = p[lane];
  return ts_load(lanes);
#endif
}
TS_INLINE void ts_store_first(float *p, ts_v v, int count) {
#if defined(TS_PASS_AVX512)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)v);
#elif defined(TS_PASS_AVX2)
  _mm256_maskstore_ps(p, ts_first_lanes(count), (__m256)v);
#else
  for (int lane = 0; lane < count; lane++)
    p[lane] = ts_lane(v, lane);
#endif
}
/* Bytes as floats, and booleans as masks. */
TS_INLINE ts_v ts_load_u8(const uint8_t *p) {
#if defined(TS_PASS_AVX512)
  return (ts_v)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif defined(TS_PASS_AVX2)
  return (ts_v)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#else
  float lanes[TS_W];
  for (int lane = 0; lane < TS_W; lane++)
    lanes[lane] = (float)p[lane];
  return ts_load(lanes);
#endif
}
TS_INLINE ts_v ts_load_u8_first(const uint8_t *p, int count) {
  float lanes[TS_W] = {0};
  for (int lane = 0; lane < count; lane++)
    lanes[lane] = (float)p[lane];
  return ts_load(lanes);
}
TS_INLINE ts_i ts_not_zero(ts_v v) {
  return ts_ne(v, ts_set(0));
}
TS_INLINE void ts_store_bool(uint8_t *p, ts_i mask, int count) {
  for (int lane = 0; lane < count; lane++)
    p[lane] = (uint8_t)(ts_lanei(mask, lane) & 1);
}
