/* --- matrix products, float32. Every output is one sum that begins with its start value and adds one product
   after the other, in the order of k, each with one ts_fma. No tile and no width changes that order, so a row
   gives the same bits alone, in any batch, and on every machine of one kind. The error is that of a sum in
   order: at most (k + 1) / 2 ULP of the sum of the absolute products.

   Packed weights: the n columns in panels of 32, the last one 16 wide where at most 16 remain. A panel holds,
   for each k, its columns side by side, zeros where there are none: k * ts_padded(n) floats, aligned to 64. --- */
/* An operand row is `count` runs of `length` floats, each at its offset from where the row begins. */
typedef struct {
  ptrdiff_t count;
  const ptrdiff_t *offsets;
  ptrdiff_t length;
} ts_segments;
/* The outputs of a convolution in order, and how far apart in the input, in elements, the rows of two neighbours
   begin: the stride of the convolution times that of the input. */
typedef struct {
  ptrdiff_t images, height, width;
  ptrdiff_t image_stride, row_stride, pixel_stride;
} ts_places;
/* One product for a block of rows; `start` is never NULL here. */
typedef struct {
  const ts_segments *segments;
  const float *start;
  ptrdiff_t start_stride;
  float *out;
  ptrdiff_t out_stride;
  int relu;
} ts_product;
/* A tile is TS_ROWS rows by TS_STRIP vectors: as many sums as the registers hold beside one row of weights and
   one broadcast value. A single row takes TS_WIDE vectors, enough to hide the latency of its sums. */
#undef TS_ROWS
#undef TS_STRIP
#undef TS_WIDE
#if defined(TS_PASS_AVX512)
#define TS_ROWS 12
#define TS_STRIP 2
#define TS_WIDE 8
#elif defined(TS_PASS_NEON)
#define TS_ROWS 6
#define TS_STRIP 4
#define TS_WIDE 16
#elif defined(TS_PASS_AVX2) || defined(TS_PASS_SSE2)
#define TS_ROWS 6
#define TS_STRIP 2
#define TS_WIDE 8
#else
#define TS_ROWS 4
#define TS_STRIP 2
#define TS_WIDE 8
#endif
#define TS_BLOCK 264 /* rows whose addresses are kept at a time: a multiple of every TS_ROWS */
#define TS_PANEL 32
static const float ts_zeros[4 * TS_PANEL] = {0};
TS_INLINE ptrdiff_t ts_padded(ptrdiff_t n) { return (n + 15) / 16 * 16; }
/* The sums of `rows` rows by `panels` * `vectors` vectors, all three constants. The weights of one k are
   `vectors` vectors in each panel, `step` floats before those of the next k; panels lie `panel` floats apart. */
TS_INLINE void ts_tile(const int rows, const int panels, const int vectors, const float *const *x, const float *w,
                       ptrdiff_t step, ptrdiff_t panel, const ts_product *p) {
  const int wide = panels * vectors;
  const ptrdiff_t count = p->segments->count, length = p->segments->length;
  const ptrdiff_t *offsets = p->segments->offsets;
  ts_v sums[TS_ROWS * TS_STRIP > TS_WIDE ? TS_ROWS * TS_STRIP : TS_WIDE];
  const float *start = p->start;
  float *out = p->out;
  TS_UNROLL for (int r = 0; r < rows; r++, start += p->start_stride)
    TS_UNROLL for (int v = 0; v < wide; v++) sums[r * wide + v] = ts_load(start + v * TS_W);
  for (ptrdiff_t s = 0; s < count; s++) {
    const ptrdiff_t offset = offsets[s];
    const float *at[TS_ROWS];
    TS_UNROLL for (int r = 0; r < rows; r++) at[r] = x[r] + offset;
    for (ptrdiff_t k = 0; k < length; k++, w += step) {
      ts_v weights[TS_WIDE];
      TS_UNROLL for (int v = 0; v < wide; v++) weights[v] = ts_load(w + v / vectors * panel + v % vectors * TS_W);
      TS_UNROLL for (int r = 0; r < rows; r++) {
        const ts_v value = ts_set(at[r][k]);
        TS_UNROLL for (int v = 0; v < wide; v++)
          sums[r * wide + v] = ts_fma(value, weights[v], sums[r * wide + v]);
      }
    }
  }
  if (p->relu) { TS_UNROLL for (int i = 0; i < rows * wide; i++) sums[i] = ts_relu(sums[i]); }
  TS_UNROLL for (int r = 0; r < rows; r++, out += p->out_stride)
    TS_UNROLL for (int v = 0; v < wide; v++) ts_store(out + v * TS_W, sums[r * wide + v]);
}
#define TS_TILE(name, rows, panels, vectors)                                                                    \
  TS_FUNCTION void name(const float *const *x, const float *w, ptrdiff_t step, ptrdiff_t panel,                 \
                        const ts_product *p) {                                                                  \
    ts_tile(rows, panels, vectors, x, w, step, panel, p);                                                       \
  }
#if TS_ROWS >= 12
TS_TILE(ts_tile_12, 12, 1, TS_STRIP)
TS_TILE(ts_tile_12_narrow, 12, 1, TS_STRIP / 2)
TS_TILE(ts_tile_8, 8, 1, TS_STRIP)
TS_TILE(ts_tile_8_narrow, 8, 1, TS_STRIP / 2)
#endif
#if TS_ROWS >= 6
TS_TILE(ts_tile_6, 6, 1, TS_STRIP)
TS_TILE(ts_tile_6_narrow, 6, 1, TS_STRIP / 2)
#endif
TS_TILE(ts_tile_4, 4, 1, TS_STRIP)
TS_TILE(ts_tile_4_narrow, 4, 1, TS_STRIP / 2)
TS_TILE(ts_tile_3, 3, 1, TS_STRIP)
TS_TILE(ts_tile_3_narrow, 3, 1, TS_STRIP / 2)
TS_TILE(ts_tile_2, 2, 1, TS_STRIP)
TS_TILE(ts_tile_2_narrow, 2, 1, TS_STRIP / 2)
TS_TILE(ts_tile_1, 1, 1, TS_STRIP)
TS_TILE(ts_tile_1_narrow, 1, 1, TS_STRIP / 2)
/* A row alone: whole panels, or part of one where a panel is wider than that. */
#if TS_WIDE * TS_W > TS_PANEL
TS_TILE(ts_tile_wide, 1, TS_WIDE * TS_W / TS_PANEL, TS_PANEL / TS_W)
TS_TILE(ts_tile_half_wide, 1, TS_WIDE * TS_W / TS_PANEL / 2, TS_PANEL / TS_W)
#else
TS_TILE(ts_tile_wide, 1, 1, TS_WIDE)
TS_TILE(ts_tile_half_wide, 1, 1, TS_WIDE / 2)
#endif
/* Copies count floats, which may end anywhere: the last vector overlaps the one before it. */
TS_INLINE void ts_copy(float *to, const float *from, ptrdiff_t count) {
  ptrdiff_t i = 0;
  if (count >= TS_W) {
    for (; i < count - TS_W; i += TS_W) ts_store(to + i, ts_load(from + i));
    ts_store(to + count - TS_W, ts_load(from + count - TS_W));
  } else {
    for (; i < count; i++) to[i] = from[i];
  }
}
/* How many rows the next tile takes of those that remain: 11 are 8 and 3, 10 are 6 and 4, 5 are 3 and 2. */
TS_INLINE int ts_tile_rows(ptrdiff_t remain) {
  static const unsigned char next[12] = {0, 1, 2, 3, 4, 3, 6, 4, 8, 6, 6, 8};
  return remain >= TS_ROWS ? TS_ROWS : next[remain];
}
TS_INLINE void ts_run_tile(int rows, int narrow, const float *const *x, const float *w, ptrdiff_t step,
                           const ts_product *p) {
  switch (2 * rows + narrow) {
#if TS_ROWS >= 12
    case 24: ts_tile_12(x, w, step, 0, p); break;
    case 25: ts_tile_12_narrow(x, w, step, 0, p); break;
    case 16: ts_tile_8(x, w, step, 0, p); break;
    case 17: ts_tile_8_narrow(x, w, step, 0, p); break;
#endif
#if TS_ROWS >= 6
    case 12: ts_tile_6(x, w, step, 0, p); break;
    case 13: ts_tile_6_narrow(x, w, step, 0, p); break;
#endif
    case 8: ts_tile_4(x, w, step, 0, p); break;
    case 9: ts_tile_4_narrow(x, w, step, 0, p); break;
    case 6: ts_tile_3(x, w, step, 0, p); break;
    case 7: ts_tile_3_narrow(x, w, step, 0, p); break;
    case 4: ts_tile_2(x, w, step, 0, p); break;
    case 5: ts_tile_2_narrow(x, w, step, 0, p); break;
    case 2: ts_tile_1(x, w, step, 0, p); break;
    default: ts_tile_1_narrow(x, w, step, 0, p); break;
  }
}
/* Rows by the `columns` first columns of a strip. A strip that is not full is computed in a buffer. */
TS_FUNCTION void ts_strip(ptrdiff_t rows, const float *const *x, const float *w, ptrdiff_t step, ptrdiff_t columns,
                          const ts_product *product) {
  const int narrow = columns <= TS_STRIP * TS_W / 2;
  const ptrdiff_t full = narrow ? TS_STRIP * TS_W / 2 : TS_STRIP * TS_W;
  ts_product p = *product;
  if (columns == full) {
    for (int tile; rows > 0; rows -= tile, x += tile, p.start += tile * p.start_stride, p.out += tile * p.out_stride) {
      tile = ts_tile_rows(rows);
      ts_run_tile(tile, narrow, x, w, step, &p);
    }
    return;
  }
  float buffer[TS_ROWS * TS_STRIP * TS_W] TS_ALIGNED = {0};
  const float *start = product->start;
  float *out = product->out;
  p.out = buffer;
  p.out_stride = full;
  p.start = buffer;
  p.start_stride = full;
  for (int tile; rows > 0; rows -= tile, x += tile) {
    tile = ts_tile_rows(rows);
    for (int r = 0; r < tile; r++, start += product->start_stride) ts_copy(buffer + r * full, start, columns);
    ts_run_tile(tile, narrow, x, w, step, &p);
    for (int r = 0; r < tile; r++, out += product->out_stride) ts_copy(out, buffer + r * full, columns);
  }
}
/* A row alone, for as many columns as wide tiles fit in; returns their number. */
TS_FUNCTION ptrdiff_t ts_wide_row(const float *const *x, ptrdiff_t k, const float *packed, ptrdiff_t n,
                                  const ts_product *product) {
  const ptrdiff_t wide = TS_WIDE * TS_W, half = wide / 2;
  ptrdiff_t column = 0;
  ts_product p = *product;
  for (; n - column >= half;) {
    const ptrdiff_t inside = column % TS_PANEL, base = column - inside;
    const float *w = packed + base * k + inside;
    const ptrdiff_t step = ts_padded(n) - base >= TS_PANEL ? TS_PANEL : 16;
    const ptrdiff_t taken = n - column >= wide ? wide : half;
    if (taken == wide) ts_tile_wide(x, w, step, k * TS_PANEL, &p);
    else ts_tile_half_wide(x, w, step, k * TS_PANEL, &p);
    column += taken;
    if (p.start != ts_zeros) p.start += taken;
    p.out += taken;
  }
  return column;
}
/* At most TS_BLOCK rows by all columns. */
TS_FUNCTION void ts_block(ptrdiff_t rows, const float *const *x, const float *packed, ptrdiff_t n,
                          const ts_product *product) {
  const ptrdiff_t k = product->segments->count * product->segments->length;
  ts_product p = *product;
  for (ptrdiff_t column = rows == 1 ? ts_wide_row(x, k, packed, n, product) : 0; column < n;
       column += TS_STRIP * TS_W) {
    const ptrdiff_t inside = column % TS_PANEL, base = column - inside;
    const ptrdiff_t step = ts_padded(n) - base >= TS_PANEL ? TS_PANEL : 16;
    const ptrdiff_t columns = n - column < TS_STRIP * TS_W ? n - column : TS_STRIP * TS_W;
    p.start = product->start == ts_zeros ? ts_zeros : product->start + column;
    p.out = product->out + column;
    ts_strip(rows, x, packed + base * k + inside, step, columns, &p);
  }
}
/* out[r][j] = start[r][j] + sum of x[r][i] * w[i][j] over i < k, in order. Rows lie *_stride floats apart: a bias has
   the start_stride 0; a start of NULL is zeros; start may be out. relu: the larger of that and 0, NaN stays. */
TS_FUNCTION void ts_linear(ptrdiff_t rows, const float *x, ptrdiff_t x_stride, ptrdiff_t k, const float *packed,
                           ptrdiff_t n, const float *start, ptrdiff_t start_stride, float *out, ptrdiff_t out_stride,
                           int relu) {
  const ptrdiff_t offset = 0;
  const ts_segments segments = {1, &offset, k};
  const float *at[TS_BLOCK];
  ts_product p = {&segments, start ? start : ts_zeros, start ? start_stride : 0, out, out_stride, relu};
  for (ptrdiff_t done = 0; done < rows;) {
    int count = 0;
    for (; count < TS_BLOCK && done < rows; count++, done++) at[count] = x + done * x_stride;
    ts_block(count, at, packed, n, &p);
    p.start += count * p.start_stride;
    p.out += count * p.out_stride;
  }
}
/* A convolution, channels last: the same, each row being what one output sees, in `segments` of the input. */
TS_FUNCTION void ts_conv(const ts_places *places, const float *x, const ts_segments *segments, const float *packed,
                         ptrdiff_t n, const float *start, ptrdiff_t start_stride, float *out, ptrdiff_t out_stride,
                         int relu) {
  const float *at[TS_BLOCK];
  int count = 0;
  ts_product p = {segments, start ? start : ts_zeros, start ? start_stride : 0, out, out_stride, relu};
  for (ptrdiff_t image = 0; image < places->images; image++)
    for (ptrdiff_t row = 0; row < places->height; row++) {
      const float *first = x + image * places->image_stride + row * places->row_stride;
      for (ptrdiff_t column = 0; column < places->width; column++) {
        at[count++] = first + column * places->pixel_stride;
        if (count < TS_BLOCK) continue;
        ts_block(count, at, packed, n, &p);
        p.start += count * p.start_stride;
        p.out += count * p.out_stride;
        count = 0;
      }
    }
  if (count > 0) ts_block(count, at, packed, n, &p);
}
/* Packs w[i][j] = w[i * k_stride + j * n_stride]: k * ts_padded(n) floats. */
TS_FUNCTION void ts_pack(ptrdiff_t k, ptrdiff_t n, const float *w, ptrdiff_t k_stride, ptrdiff_t n_stride,
                         float *packed) {
  for (ptrdiff_t base = 0; base < n; base += TS_PANEL) {
    const ptrdiff_t width = n - base > 16 ? TS_PANEL : 16, columns = n - base < width ? n - base : width;
    for (ptrdiff_t i = 0; i < k; i++, packed += width) {
      const float *from = w + i * k_stride + base * n_stride;
      if (n_stride == 1) ts_copy(packed, from, columns);
      else for (ptrdiff_t j = 0; j < columns; j++) packed[j] = from[j * n_stride];
      for (ptrdiff_t j = columns; j < width; j++) packed[j] = 0;
    }
  }
}
