/* out[j] = start[j] + the rows of `table` that the indices choose, one tap after the other: the product with a
   one-hot operand, bit for bit. A row of the table is `width` floats; each tap has `classes` of them. */
#define TS_GATHER(name, type)                                                                                      \
  TS_INLINE void name(int taps, const type *index, const ptrdiff_t *offsets, ptrdiff_t classes, const float *table, \
                      ptrdiff_t width, ptrdiff_t n, const float *start, float *out) {                              \
    ptrdiff_t at = 0;                                                                                              \
    for (; at + 2 * TS_W <= n; at += 2 * TS_W) {                                                                   \
      ts_v a = start ? ts_load(start + at) : ts_set(0), b = start ? ts_load(start + at + TS_W) : ts_set(0);        \
      for (int tap = 0; tap < taps; tap++) {                                                                       \
        const float *row = table + (tap * classes + (ptrdiff_t)index[offsets[tap]]) * width + at;                  \
        a = a + ts_load(row);                                                                                      \
        b = b + ts_load(row + TS_W);                                                                               \
      }                                                                                                            \
      ts_store(out + at, a);                                                                                       \
      ts_store(out + at + TS_W, b);                                                                                \
    }                                                                                                              \
    for (; at < n; at += TS_W) {                                                                                   \
      const int rest = n - at < TS_W ? (int)(n - at) : TS_W;                                                       \
      ts_v a = start ? ts_load_first(start + at, rest) : ts_set(0);                                                \
      for (int tap = 0; tap < taps; tap++)                                                                         \
        a = a + ts_load(table + (tap * classes + (ptrdiff_t)index[offsets[tap]]) * width + at);                    \
      ts_store_first(out + at, a, rest);                                                                           \
    }                                                                                                              \
  }
TS_GATHER(ts_gather_uint8, uint8_t)
TS_GATHER(ts_gather_int64, int64_t)
