/* (x - mean) / sqrt(variance + eps) * weight + bias, row by row; the variance is that of x - mean. */
TS_FUNCTION void ts_layer_norm(ptrdiff_t rows, ptrdiff_t n, const float *in, const float *weight, const float *bias,
    float eps, float *out, ptrdiff_t out_stride, ptrdiff_t in_stride) {
  for (ptrdiff_t r = 0; r < rows; r++, in += in_stride, out += out_stride) {
    const float mean = ts_sum_row(in, n) / (float)n;
    TS_SUM_ROW(squares, n, {
      const ts_v centred = ts_row(in, at, limit, mean) - ts_set(mean);
      sum = ts_fma(centred, centred, sum);
    });
    const float variance = squares / (float)n;
    const ts_v scale = ts_set(1.0f) / ts_sqrt(ts_set(variance + eps));
    for (ptrdiff_t at = 0; at < n; at += TS_W) {
      ts_v value = (ts_row(in, at, n, 0) - ts_set(mean)) * scale;
      if (weight && bias)
        value = ts_fma(value, ts_row(weight, at, n, 0), ts_row(bias, at, n, 0));
      else if (weight)
        value = value * ts_row(weight, at, n, 0);
      ts_store_row(out, at, n, value);
    }
  }
}
