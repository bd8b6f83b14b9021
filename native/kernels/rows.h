/* --- what combines the elements of a row. A sum is split over 16 lanes, element i going to lane i % 16, and the
   lanes are added in one fixed tree: the same bits for every width of vectors. A long sum would lose ever more digits
   as it grows. So each lane sums 16 elements from zero, 16 such sums make one of the next level, and so on; what is left
   over on each level is added from the lowest to the highest. --- */
#define TS_LANES 16
#define TS_STRETCH 256 /* elements of a row that the lanes sum from zero */
#define TS_LEVELS 3 /* the last one takes all that there is */
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
TS_INLINE ts_lanes ts_load_lanes(const float *from) {
  ts_lanes lanes;
  for (int p = 0; p < TS_LANES / TS_W; p++)
    lanes.part[p] = ts_load(from + p * TS_W);
  return lanes;
}
TS_INLINE void ts_store_lanes(float *to, ts_lanes lanes) {
  for (int p = 0; p < TS_LANES / TS_W; p++)
    ts_store(to + p * TS_W, lanes.part[p]);
}
TS_INLINE ts_lanes ts_add_lanes(ts_lanes a, ts_lanes b) {
  for (int p = 0; p < TS_LANES / TS_W; p++)
    a.part[p] = a.part[p] + b.part[p];
  return a;
}
/* The sums of the stretches of a row so far. A level holds those that do not fill one of the next yet: their number
   is a digit of `count` to the base 16. */
typedef struct {
  ptrdiff_t count;
  float levels[TS_LEVELS][TS_LANES] TS_ALIGNED, sums[TS_LANES] TS_ALIGNED;
} ts_stretches;
TS_FUNCTION void ts_add_stretch(ts_stretches *row) {
  ptrdiff_t held = row->count++;
  int level = 0;
  ts_lanes sums = ts_load_lanes(row->sums);
  for (; level < TS_LEVELS - 1 && held % 16 == 15; level++, held /= 16)
    sums = ts_add_lanes(ts_load_lanes(row->levels[level]), sums);
  if ((level < TS_LEVELS - 1 ? held % 16 : held) > 0)
    sums = ts_add_lanes(ts_load_lanes(row->levels[level]), sums);
  ts_store_lanes(row->levels[level], sums);
}
TS_FUNCTION float ts_total(const ts_stretches *row) {
  ts_lanes sums = ts_no_lanes(0);
  ptrdiff_t held = row->count;
  for (int level = 0; held > 0; level++, held /= 16) {
    const int last = level == TS_LEVELS - 1;
    if (last || held % 16 > 0)
      sums = ts_add_lanes(ts_load_lanes(row->levels[level]), sums);
    if (last)
      break;
  }
  return ts_sum_of_lanes(sums);
}
#undef TS_ONES
#if TS_W == 16
#define TS_ONES -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1
#elif TS_W == 8
#define TS_ONES -1, -1, -1, -1, -1, -1, -1, -1
#elif TS_W == 4
#define TS_ONES -1, -1, -1, -1
#else
#define TS_ONES -1
#endif
/* The vector at `at` of a row of n floats; beyond its end, `beyond`. */
TS_INLINE ts_v ts_row(const float *row, ptrdiff_t at, ptrdiff_t n, float beyond) {
  static const int32_t first[2 * TS_W] = {TS_ONES};
  if (at + TS_W <= n)
    return ts_load(row + at);
  if (at >= n)
    return ts_set(beyond);
  return ts_select(ts_loadi(first + TS_W - (n - at)), ts_load_first(row + at, (int)(n - at)), ts_set(beyond));
}
TS_INLINE void ts_store_row(float *row, ptrdiff_t at, ptrdiff_t n, ts_v value) {
  if (at + TS_W <= n)
    ts_store(row + at, value);
  else if (at < n)
    ts_store_first(row + at, value, (int)(n - at));
}
/* total = the sum of a row of n elements: STEP adds those at `at`, a vector that ends before `limit`, to `sum`. */
#define TS_SUM_STEP(step, beyond, STEP) \
  for (int p = 0; p < TS_LANES / TS_W; p++) { \
    const ptrdiff_t at = step + p * TS_W; \
    const ptrdiff_t limit = beyond; \
    ts_v sum = sums.part[p]; \
    STEP; \
    sums.part[p] = sum; \
  }
#define TS_SUM_ROW(total, n, STEP) \
  float total = 0; \
  do { \
    ts_stretches stretches; \
    ts_lanes sums; \
    stretches.count = 0; \
    for (ptrdiff_t at_16 = 0;;) { \
      const ptrdiff_t end = n - at_16 < TS_STRETCH ? n : at_16 + TS_STRETCH; \
      sums = ts_no_lanes(0); \
      for (; at_16 + TS_LANES <= end; at_16 += TS_LANES) \
        TS_SUM_STEP(at_16, at + TS_W, STEP) \
      if (at_16 < end) { \
        TS_SUM_STEP(at_16, n, STEP) \
      } \
      if (end == n && stretches.count == 0) { \
        total = ts_sum_of_lanes(sums); \
        break; \
      } \
      ts_store_lanes(stretches.sums, sums); \
      ts_add_stretch(&stretches); \
      if (end == n) { \
        total = ts_total(&stretches); \
        break; \
      } \
    } \
  } while (0)
TS_INLINE float ts_sum_row(const float *row, ptrdiff_t n) {
  TS_SUM_ROW(total, n, sum = sum + ts_row(row, at, limit, 0));
  return total;
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
