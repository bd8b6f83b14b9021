/* --- single floats: the same bits as in a lane of a vector --- */
/* As ts_max and ts_min do: a NaN of either is the result. */
TS_INLINE float ts_max1(float a, float b) {
  return a < b || b != b ? b : a;
}
TS_INLINE float ts_min1(float a, float b) {
  return b < a || b != b ? b : a;
}
TS_INLINE float ts_relu1(float x) {
  return x < 0 ? 0 : x;
}
TS_INLINE float ts_fma1(float a, float b, float c) {
  return ts_lane(ts_fma(ts_set(a), ts_set(b), ts_set(c)), 0);
}
TS_INLINE float ts_sqrt1(float x) {
  return ts_lane(ts_sqrt(ts_set(x)), 0);
}
TS_INLINE float ts_remainder1(float a, float b) {
  const float rest = fmodf(a, b);
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}
/* The quotient rounded down, found from the remainder, as torch has it. */
TS_INLINE float ts_floor_div1(float a, float b) {
  const float rest = fmodf(a, b), quotient = (a - rest) / b;
  const float below = rest != 0 && (b < 0) != (rest < 0) ? quotient - 1 : quotient;
  if (b == 0)
    return a / b;
  if (below == 0)
    return copysignf(0, a / b);
  return below - floorf(below) > 0.5f ? floorf(below) + 1 : floorf(below);
}
TS_INLINE float ts_sign1(float x) {
  return (float)((x > 0) - (x < 0));
}
