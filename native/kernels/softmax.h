/* exp(x - max) / sum of that, and its logarithm x - max - log(sum), row by row. */
TS_FUNCTION void ts_softmax(ptrdiff_t rows, ptrdiff_t n, const float *in, float *out) {
  for (ptrdiff_t r = 0; r < rows; r++, in += n, out += n) {
    const ts_v top = ts_set(ts_max_row(in, n));
    ts_lanes sums = ts_no_lanes(0);
    for (ptrdiff_t at = 0; at < n; at += TS_LANES)
      for (int p = 0; p < TS_LANES / TS_W; p++) {
        const ts_v power = ts_exp(ts_row(in, at + p * TS_W, n, -INFINITY) - top);
        ts_store_row(out, at + p * TS_W, n, power);
        sums.part[p] = sums.part[p] + power;
      }
    const ts_v total = ts_set(ts_sum_of_lanes(sums));
    for (ptrdiff_t at = 0; at < n; at += TS_W)
      ts_store_row(out, at, n, ts_row(out, at, n, 0) / total);
  }
}
TS_FUNCTION void ts_log_softmax(ptrdiff_t rows, ptrdiff_t n, const float *in, float *out) {
  for (ptrdiff_t r = 0; r < rows; r++, in += n, out += n) {
    const ts_v top = ts_set(ts_max_row(in, n));
    ts_lanes sums = ts_no_lanes(0);
    for (ptrdiff_t at = 0; at < n; at += TS_LANES)
      for (int p = 0; p < TS_LANES / TS_W; p++)
        sums.part[p] = sums.part[p] + ts_exp(ts_row(in, at + p * TS_W, n, -INFINITY) - top);
    const ts_v log_sum = ts_log(ts_set(ts_sum_of_lanes(sums)));
    for (ptrdiff_t at = 0; at < n; at += TS_W)
      ts_store_row(out, at, n, ts_row(in, at, n, 0) - top - log_sum);
  }
}
