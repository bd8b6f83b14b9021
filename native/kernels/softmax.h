/* exp(x - max) / sum of that, and its logarithm x - max - log(sum), row by row. */
TS_FUNCTION void ts_softmax(ptrdiff_t rows, ptrdiff_t n, const float *in, float *out) {
  for (ptrdiff_t r = 0; r < rows; r++, in += n, out += n) {
    const ts_v top = ts_set(ts_max_row(in, n));
    TS_SUM_ROW(powers, n, {
      const ts_v power = ts_exp(ts_row(in, at, limit, -INFINITY) - top);
      ts_store_row(out, at, limit, power);
      sum = sum + power;
    });
    const ts_v total = ts_set(powers);
    for (ptrdiff_t at = 0; at < n; at += TS_W)
      ts_store_row(out, at, n, ts_row(out, at, n, 0) / total);
  }
}
TS_FUNCTION void ts_log_softmax(ptrdiff_t rows, ptrdiff_t n, const float *in, float *out) {
  for (ptrdiff_t r = 0; r < rows; r++, in += n, out += n) {
    const ts_v top = ts_set(ts_max_row(in, n));
    TS_SUM_ROW(powers, n, sum = sum + ts_exp(ts_row(in, at, limit, -INFINITY) - top));
    const ts_v log_sum = ts_log(ts_set(powers));
    for (ptrdiff_t at = 0; at < n; at += TS_W)
      ts_store_row(out, at, n, ts_row(in, at, n, 0) - top - log_sum);
  }
}
