/* --- elementary functions of every float32. "1.6, 1.7 ULP" bounds the error against the exact value, in units
   in the last place of float32, over all 2^32 inputs: with FMA, and without. NaN gives NaN, an infinity its
   limit, -0 the signed 0 of C; a result too small for a normal number is denormal, then 0; one too large is
   infinite. The polynomials minimise the largest error over the interval that each function names. --- */

/* Adding 1.5 * 2^23 to a small number rounds it to an integer and leaves that integer in the low bits. The
   few units on top are the bias of an exponent (127), or of two (254): the low bits, shifted left by 23, are
   then a power of 2. */
#define TS_ROUND 12582912.0f
#define TS_ROUND_BIASED 12583039.0f
#define TS_ROUND_BIASED_TWICE 12583166.0f
#define TS_LOG2_E 1.44269502f
/* ln 2 in two parts: the first has 15 bits, so that its product with an exponent is exact without FMA. */
#define TS_LN2_HIGH 0.693145752f
#define TS_LN2_LOW 1.42860677e-06f

/* v * 2^n with one rounding, where n was rounded by TS_ROUND_BIASED_TWICE; n from -252 to 254. */
TS_INLINE ts_v ts_scale(ts_v v, ts_v n_biased) {
#if defined(TS_PASS_AVX512)
  const ts_v n = n_biased - ts_set(TS_ROUND_BIASED_TWICE);
  return (ts_v)_mm512_mask_scalef_ps((__m512)v, 0xffff, (__m512)v, (__m512)n);
#else
  /* 2^n may be no float32, so two factors; the first product is a normal number. */
  const ts_i n = ts_bits(n_biased), half = n >> 1;
  return v * ts_from_bits(ts_shift_left(half, 23)) * ts_from_bits(ts_shift_left(n - half, 23));
#endif
}
/* e^x of -104 <= x <= 89, as 2^n e^r with n an integer and |r| <= ln 2 / 2. */
TS_INLINE ts_v ts_exp_bounded(ts_v x) {
  const ts_v n_biased = ts_fma(x, ts_set(TS_LOG2_E), ts_set(TS_ROUND_BIASED_TWICE));
  const ts_v n = n_biased - ts_set(TS_ROUND_BIASED_TWICE);
  const ts_v r = ts_fma(n, ts_set(-TS_LN2_LOW), ts_fma(n, ts_set(-TS_LN2_HIGH), x));
  ts_v p = ts_set(0.0013820054f);
  p = ts_fma(p, r, ts_set(0.00836868305f));
  p = ts_fma(p, r, ts_set(0.0416682735f));
  p = ts_fma(p, r, ts_set(0.166665211f));
  p = ts_fma(p, r, ts_set(0.49999994f));
  p = ts_fma(p, r, ts_set(1.0f));
  p = ts_fma(p, r, ts_set(1.0f));
  return ts_scale(p, n_biased);
}
/* e^x; 0.9, 1.2 ULP. */
TS_INLINE ts_v ts_exp(ts_v x) {
  return ts_exp_bounded(ts_greater(ts_set(-104.0f), ts_lesser(ts_set(89.0f), x)));
}
/* e^r - 1 of |r| <= ln 2 / 2. */
TS_INLINE ts_v ts_expm1_small(ts_v r) {
  ts_v p = ts_set(0.00138706923f);
  p = ts_fma(p, r, ts_set(0.00836627185f));
  p = ts_fma(p, r, ts_set(0.0416674353f));
  p = ts_fma(p, r, ts_set(0.166665465f));
  p = ts_fma(p, r, ts_set(0.49999997f));
  return ts_fma(p, r * r, r);
}
/* 1 / (1 + e^-x); 2.0, 2.0 ULP. With e^-x = 2^n (1 + d), the sum is 2^n + (2^n d + 1), in which e^-x is
   never rounded. Sum and numerator are 2^-24 of themselves: 2^n stays below the largest number until the
   quotient is 0, and the quotient underflows gradually. */
TS_INLINE ts_v ts_sigmoid(ts_v x) {
  const ts_v bounded = ts_greater(ts_set(-104.0f), ts_lesser(ts_set(18.0f), x));
  const ts_v n_biased = ts_fma(bounded, ts_set(-TS_LOG2_E), ts_set(TS_ROUND_BIASED - 24.0f));
  const ts_v n = n_biased - ts_set(TS_ROUND_BIASED - 24.0f);
  const ts_v r = ts_fma(n, ts_set(-TS_LN2_LOW), ts_fma(n, ts_set(-TS_LN2_HIGH), -bounded));
  const ts_v power = ts_from_bits(ts_shift_left(ts_bits(n_biased), 23));
  const ts_v one = ts_set(5.96046448e-08f);
  return one / (power + ts_fma(power, ts_expm1_small(r), one));
}
/* e^x - 1; 1.6, 1.7 ULP. It is taken as 2^n (e^r - 1) + 2^n - 1: half of it first, as 2^n may be above the
   largest number. */
TS_INLINE ts_v ts_expm1(ts_v x) {
  const ts_v bounded = ts_greater(ts_set(-18.0f), ts_lesser(ts_set(89.0f), x));
  const ts_v n_biased = ts_fma(bounded, ts_set(TS_LOG2_E), ts_set(TS_ROUND_BIASED - 1.0f));
  const ts_v n = n_biased - ts_set(TS_ROUND_BIASED - 1.0f);
  const ts_v r = ts_fma(n, ts_set(-TS_LN2_LOW), ts_fma(n, ts_set(-TS_LN2_HIGH), bounded));
  const ts_v half_power = ts_from_bits(ts_shift_left(ts_bits(n_biased), 23));
  const ts_v half = ts_fma(half_power, ts_expm1_small(r), half_power - ts_set(0.5f));
  /* Half a denormal number may be none. */
  return ts_select(ts_lt(ts_abs(x), ts_set(1e-30f)), x, half + half);
}
/* tanh x; 2.5, 2.5 ULP. With |x| = n ln 2 / 2 + r, tanh(n ln 2 / 2) is (2^n - 1) / (2^n + 1), and tanh r a
   short polynomial: the theorem of addition makes one quotient of the two, which is tanh r itself where n
   is 0. */
TS_INLINE ts_v ts_tanh(ts_v x) {
  const ts_v a = ts_lesser(ts_set(10.0f), ts_abs(x));
  const ts_v n_biased = ts_fma(a, ts_set(2.0f * TS_LOG2_E), ts_set(TS_ROUND_BIASED));
  const ts_v n = n_biased - ts_set(TS_ROUND_BIASED);
  const ts_v r = ts_fma(n, ts_set(-0.5f * TS_LN2_LOW), ts_fma(n, ts_set(-0.5f * TS_LN2_HIGH), a));
  const ts_v power = ts_from_bits(ts_shift_left(ts_bits(n_biased), 23));
  const ts_v z = r * r;
  ts_v p = ts_set(-0.0527145304f);
  p = ts_fma(p, z, ts_set(0.133311406f));
  p = ts_fma(p, z, ts_set(-0.333333224f));
  const ts_v tanh_r = ts_fma(p, r * z, r);
  const ts_v less = power - ts_set(1.0f), more = power + ts_set(1.0f);
  return ts_with_sign(ts_fma(more, tanh_r, less) / ts_fma(less, tanh_r, more), x);
}
/* ln(2^n (1 + f)) of |f| <= 1/3. */
TS_INLINE ts_v ts_log_parts(ts_v n, ts_v f) {
  ts_v p = ts_set(-0.128852427f);
  p = ts_fma(p, f, ts_set(0.139864072f));
  p = ts_fma(p, f, ts_set(-0.121861696f));
  p = ts_fma(p, f, ts_set(0.140054345f));
  p = ts_fma(p, f, ts_set(-0.166803047f));
  p = ts_fma(p, f, ts_set(0.200104386f));
  p = ts_fma(p, f, ts_set(-0.249998033f));
  p = ts_fma(p, f, ts_set(0.333332151f));
  p = ts_fma(p, f, ts_set(-0.5f));
  p = ts_fma(p, f * f, n * ts_set(TS_LN2_LOW));
  return ts_fma(n, ts_set(TS_LN2_HIGH), f + p);
}
/* The result of a logarithm where its argument is a number above 0, and that of the others: u is the number
   of which it was taken, and x, which is infinite or NaN where u is, the argument. */
TS_INLINE ts_v ts_log_special(ts_v result, ts_v u, ts_v x) {
  result = ts_select(ts_lt(u, ts_set(INFINITY)), result, x);
  result = ts_select(ts_lt(u, ts_set(0.0f)), ts_set(NAN), result);
  return ts_select(ts_eq(u, ts_set(0.0f)), ts_set(-INFINITY), result);
}
/* The bits of 2/3: what is above it in the bits of a number is n of 2^n (1 + f), |f| <= 1/3, then f. */
#define TS_TWO_THIRDS 0x3f2aaaab
/* ln x; 0.9, 0.9 ULP. */
TS_INLINE ts_v ts_log(ts_v x) {
  const ts_i denormal = ts_lt(x, ts_set(1.17549435e-38f));
  const ts_v scaled = ts_abs(ts_select(denormal, x * ts_set(16777216.0f), x));
  const ts_i bits = ts_bits(scaled) - ts_seti(TS_TWO_THIRDS);
  const ts_v f = ts_from_bits((bits & ts_seti(0x7fffff)) + ts_seti(TS_TWO_THIRDS)) - ts_set(1.0f);
  const ts_v n = ts_to_float((bits >> 23) - (denormal & ts_seti(24)));
  return ts_log_special(ts_log_parts(n, f), x, x);
}
/* ln(1 + x) of -1 < x < 2^25. With u = 1 + x, rounded, and 2^n nearest to u, f is (1 + x) / 2^n - 1, of x
   itself. */
TS_INLINE ts_v ts_log1p_bounded(ts_v x) {
  const ts_i bits = ts_bits(ts_abs(x + ts_set(1.0f))) - ts_seti(TS_TWO_THIRDS);
  const ts_v inverse = ts_from_bits(ts_seti(0x3f800000) - (bits & ts_seti(-0x800000)));
  return ts_log_parts(ts_to_float(bits >> 23), ts_fma(x, inverse, inverse - ts_set(1.0f)));
}
/* ln(1 + x); 1.6, 1.7 ULP. */
TS_INLINE ts_v ts_log1p(ts_v x) {
  const ts_v u = x + ts_set(1.0f);
  const ts_i bits = ts_bits(ts_abs(u)) - ts_seti(TS_TWO_THIRDS);
  const ts_v inverse = ts_from_bits(ts_seti(0x3f800000) - (bits & ts_seti(-0x800000)));
  const ts_v f_of_u = ts_from_bits((bits & ts_seti(0x7fffff)) + ts_seti(TS_TWO_THIRDS)) - ts_set(1.0f);
  /* The inverse of a large power of 2 is no normal number, and 1 + x is x. */
  const ts_v f = ts_select(ts_lt(x, ts_set(33554432.0f)), ts_fma(x, inverse, inverse - ts_set(1.0f)), f_of_u);
  const ts_v result = ts_log_special(ts_log_parts(ts_to_float(bits >> 23), f), u, x);
  return ts_select(ts_eq(u, ts_set(1.0f)), x, result); /* -0 too */
}
/* ln(1 + e^x); 2.1, 2.1 ULP. It is taken as max(x, 0) + ln(1 + e^-|x|): nothing overflows, and above 20 it
   is x, as in torch. */
TS_INLINE ts_v ts_softplus(ts_v x) {
  const ts_v e = ts_exp_bounded(ts_greater(ts_set(-104.0f), ts_set(0.0f) - ts_abs(x)));
  return ts_relu(x) + ts_log1p_bounded(e);
}
/* erf x; 2.0, 2.5 ULP. It is 1 - e^(-|x| q(|x|)) with the sign of x: q is smooth and nearly constant, and
   nothing cancels. */
TS_INLINE ts_v ts_erf(ts_v x) {
  const ts_v a = ts_lesser(ts_set(4.0f), ts_abs(x));
  ts_v q = ts_set(-9.30351052e-06f);
  q = ts_fma(q, a, ts_set(0.000118136741f));
  q = ts_fma(q, a, ts_set(-0.000634876546f));
  q = ts_fma(q, a, ts_set(0.00167128991f));
  q = ts_fma(q, a, ts_set(-0.000165256599f));
  q = ts_fma(q, a, ts_set(-0.0191500522f));
  q = ts_fma(q, a, ts_set(0.102776885f));
  q = ts_fma(q, a, ts_set(0.636619508f));
  /* The constant, 2 / sqrt(pi), in two parts: its rounding would be most of the error of small x. */
  q = ts_fma(q, a, ts_set(-5.86353834e-08f));
  const ts_v y = ts_fma(a, ts_set(1.12837923f), a * q);
  const ts_v n_biased = ts_fma(y, ts_set(-TS_LOG2_E), ts_set(TS_ROUND_BIASED));
  const ts_v n = n_biased - ts_set(TS_ROUND_BIASED);
  const ts_v r = ts_fma(n, ts_set(TS_LN2_LOW), ts_fma(n, ts_set(TS_LN2_HIGH), y)); /* that of -y, negated */
  const ts_v power = ts_from_bits(ts_shift_left(ts_bits(n_biased), 23));
  const ts_v d = ts_expm1_small(ts_set(0.0f) - r);
  return ts_with_sign(ts_abs(ts_fma(power, d, power - ts_set(1.0f))), x);
}
/* a of a >= 2^13, less the nearest multiple of pi/2, and in *quadrant which multiple, modulo 4. In integers:
   a is m * 2^e, and of 2/pi only the 96 bits matter whose products with it are neither multiples of 4 nor
   too small. */
TS_FUNCTION float ts_reduce_large(float a, int32_t *quadrant) {
  static const uint32_t two_over_pi[8] = {0x00000000u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u,
      0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu};
  uint32_t bits;
  memcpy(&bits, &a, sizeof bits);
  *quadrant = 0;
  if (!(a < INFINITY))
    return a - a;
  const uint64_t m = (bits & 0x7fffffu) | 0x800000u;
  const uint32_t position = (bits >> 23) - 150 + 30; /* e + 30; the table begins with 32 bits before the point */
  const uint32_t *word = two_over_pi + (position >> 5);
  const uint32_t shift = position & 31;
  const uint32_t high = (uint32_t)(((uint64_t)word[0] << 32 | word[1]) >> (32 - shift));
  const uint32_t middle = (uint32_t)(((uint64_t)word[1] << 32 | word[2]) >> (32 - shift));
  const uint32_t low = (uint32_t)(((uint64_t)word[2] << 32 | word[3]) >> (32 - shift));
  const uint64_t carried = m * middle + (m * low >> 32);
  const uint64_t product = (m * high << 32) + carried; /* the quadrant in 2 bits, its fraction in 62 */
  *quadrant = (int32_t)((product + ((uint64_t)1 << 61)) >> 62);
  uint64_t fraction = product << 2;
  const int negative = (int)(fraction >> 63);
  if (negative)
    fraction = 0 - fraction;
  const double r = (double)fraction * 8.5153039502163873e-20; /* pi/2 / 2^64 */
  return negative ? (float)-r : (float)r;
}
/* The sine of a + first_quadrant * pi/2, a >= 0. Up to 10000 the nearest multiple of pi/2 is taken off in five
   parts: the first four have 11 bits, so that their products with n are exact without FMA, and what the third
   difference loses to rounding is added to the rest. Above, the multiple is found in integers: exact for every
   float32, and some 20 times slower. */
TS_INLINE ts_v ts_sin_from(ts_v a, int32_t first_quadrant) {
  const ts_v n_biased = ts_fma(a, ts_set(0.636619747f), ts_set(TS_ROUND));
  const ts_v n = n_biased - ts_set(TS_ROUND);
  ts_v r = ts_fma(n, ts_set(-0.000483751297f), ts_fma(n, ts_set(-1.5703125f), a)); /* exact */
  const ts_v third = n * ts_set(7.54953362e-08f), rounded = r - third;
  const ts_v lost = (r - rounded) - third;
  r = rounded + ts_fma(n, ts_set(-6.12323426e-17f), ts_fma(n, ts_set(-2.56328292e-12f), lost));
  ts_i quadrant = ts_bits(n_biased);
  const ts_i large = ~ts_le(a, ts_set(10000.0f));
  if (ts_any(large)) {
    float rests[TS_W];
    int32_t quadrants[TS_W];
    for (int lane = 0; lane < TS_W; lane++) {
      rests[lane] = ts_lane(r, lane);
      quadrants[lane] = ts_lanei(quadrant, lane);
      if (ts_lanei(large, lane))
        rests[lane] = ts_reduce_large(ts_lane(a, lane), &quadrants[lane]);
    }
    r = ts_load(rests);
    quadrant = ts_loadi(quadrants);
  }
  quadrant = quadrant + ts_seti(first_quadrant);
  const ts_v z = r * r;
  ts_v p = ts_set(-0.000195068467f);
  p = ts_fma(p, z, ts_set(0.00833210163f));
  p = ts_fma(p, z, ts_set(-0.166666538f));
  const ts_v sine = ts_fma(p, r * z, r);
  p = ts_set(2.44300845e-05f);
  p = ts_fma(p, z, ts_set(-0.00138872978f));
  p = ts_fma(p, z, ts_set(0.0416666456f));
  const ts_v cosine = ts_fma(p, z * z, ts_fma(z, ts_set(-0.5f), ts_set(1.0f)));
  const ts_v magnitude = ts_select(ts_seti(0) - (quadrant & ts_seti(1)), cosine, sine);
  return ts_from_bits(ts_bits(magnitude) ^ ts_shift_left(quadrant & ts_seti(2), 30));
}
/* sin x; 1.6, 1.6 ULP. */
TS_INLINE ts_v ts_sin(ts_v x) {
  return ts_from_bits(ts_bits(ts_sin_from(ts_abs(x), 0)) ^ (ts_bits(x) & ts_seti(INT32_MIN)));
}
/* cos x; 1.6, 1.6 ULP. */
TS_INLINE ts_v ts_cos(ts_v x) {
  return ts_sin_from(ts_abs(x), 1);
}

/* The same of one number, in the same bits. */
#define TS_OF_ONE(name, vector_name) \
  TS_INLINE float name(float x) { \
    return ts_lane(vector_name(ts_set(x)), 0); \
  }
TS_OF_ONE(ts_exp1, ts_exp)
TS_OF_ONE(ts_expm11, ts_expm1)
TS_OF_ONE(ts_log1, ts_log)
TS_OF_ONE(ts_log1p1, ts_log1p)
TS_OF_ONE(ts_tanh1, ts_tanh)
TS_OF_ONE(ts_sigmoid1, ts_sigmoid)
TS_OF_ONE(ts_softplus1, ts_softplus)
TS_OF_ONE(ts_erf1, ts_erf)
TS_OF_ONE(ts_sin1, ts_sin)
TS_OF_ONE(ts_cos1, ts_cos)
