/* --- integers: divisions round to minus infinity, as Python's do; b is positive --- */
TS_INLINE int64_t ts_floor_div(int64_t a, int64_t b) {
  return a / b - (a % b != 0 && (a < 0) != (b < 0));
}
TS_INLINE int64_t ts_modulo(int64_t a, int64_t b) {
  return a - ts_floor_div(a, b) * b;
}
TS_INLINE int64_t ts_smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
TS_INLINE int64_t ts_larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}
