/* --- what combines the elements of a row. A sum is split over 16 lanes, element i going to lane i % 16, and the
   lanes are added in one fixed tree: the same bits for every width of vectors. --- */
#define TS_LANES 16
typedef struct {
  ts_v part[TS_LANES / TS_W];
} ts_lanes;
TS_INLINE ts_lanes ts_no_lanes(float value) {
  ts_lanes lanes;
  for (int p = 0; p < TS_LANES / TS_W; p++)
    lanes.part[p] = ts_set(value);
  return lanes;
}
TS_INLINE float ts_sum_of_lanes(ts_lanes lanes) {
  float sums[TS_LANES];
  for (int p = 0; p < TS_LANES / TS_W; p++)
    ts_store(sums + p * TS_W, lanes.part[p]);
  for (int half = TS_LANES / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; lane++)
      sums[lane] += sums[lane + half];
  return sums[0];
}
/* The vector at `at` of a row of n floats; beyond its end, `beyond`. */
TS_INLINE ts_v ts_row(const float *row, ptrdiff_t at, ptrdiff_t n, float beyond) {
  float lanes[TS_W];
  if (at + TS_W <= n)
    return ts_load(row + at);
  for (int lane = 0; lane < TS_W; lane++)
    lanes[lane] = at + lane < n ? row[at + lane] : beyond;
  return ts_load(lanes);
}
TS_INLINE void ts_store_row(float *row, ptrdiff_t at, ptrdiff_t n, ts_v value) {
  if (at + TS_W <= n)
    ts_store(row + at, value);
  else if (at < n)
    ts_store_first(row + at, value, (int)(n - at));
}
TS_INLINE float ts_sum_row(const float *row, ptrdiff_t n) {
  ts_lanes sums = ts_no_lanes(0);
  for (ptrdiff_t at = 0; at < n; at += TS_LANES)
    for (int p = 0; p < TS_LANES / TS_W; p++)
      sums.part[p] = sums.part[p] + ts_row(row, at + p * TS_W, n, 0);
  return ts_sum_of_lanes(sums);
}
/* The largest of a row, NaN if there is one, -infinity for an empty row. */
TS_INLINE float ts_max_row(const float *row, ptrdiff_t n) {
  ts_v top = ts_set(-INFINITY);
  float largest = -INFINITY;
  for (ptrdiff_t at = 0; at < n; at += TS_W)
    top = ts_max(top, ts_row(row, at, n, -INFINITY));
  for (int lane = 0; lane < TS_W; lane++)
    largest = ts_max1(largest, ts_lane(top, lane));
  return largest;
}
