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
   one broadcast value. The last TS_FEW rows or fewer take wider tiles, of TS_HALF columns, and a row alone
   those of twice as many: enough sums at a time to hide the latency of each. */
#undef TS_ROWS
#undef TS_STRIP
#undef TS_FEW
#undef TS_HALF
#if defined(TS_PASS_AVX512)
#define TS_ROWS 12
#define TS_STRIP 2
#define TS_FEW 3
#define TS_HALF 64
#elif defined(TS_PASS_AVX2)
#define TS_ROWS 6
#define TS_STRIP 2
#define TS_FEW 3
#define TS_HALF 32
#elif defined(TS_PASS_NEON)
#define TS_ROWS 6
#define TS_STRIP 4
#define TS_FEW 3
#define TS_HALF 32
#elif defined(TS_PASS_SSE2)
#define TS_ROWS 6
#define TS_STRIP 2
#define TS_FEW 2
#define TS_HALF 16
#else
#define TS_ROWS 4
#define TS_STRIP 2
#define TS_FEW 1
#define TS_HALF (4 * TS_W)
#endif
#define TS_BLOCK 264 /* rows whose addresses are kept at a time: a multiple of every TS_ROWS */
#define TS_PANEL 32
static const float ts_zeros[4 * TS_PANEL] = {0};
TS_INLINE ptrdiff_t ts_padded(ptrdiff_t n) { return (n + 15) / 16 * 16; }
/* The sums are variables with numbers, not an array: so compilers keep every one of them in a register. Those
   beyond the size of a tile, which is constant, vanish. */
#define TS_EACH_12(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define TS_EACH_24(DO) \
  TS_EACH_12(DO) DO(12) DO(13) DO(14) DO(15) DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) DO(22) DO(23)
/* The sums of `rows` rows by `panels` * `vectors` vectors, all three constants. The weights of one k are
   `vectors` vectors in each panel, `step` floats before those of the next k; panels lie `panel` floats apart.
   What there is less of, rows or vectors, is loaded first, and the others one by one when their turn comes. */
TS_INLINE void ts_tile(const int rows, const int panels, const int vectors, const float *const *x, const float *w,
                       ptrdiff_t step, ptrdiff_t panel, const ts_product *p) {
  const int wide = panels * vectors, size = rows * wide, inner = rows < wide ? rows : wide;
  const ptrdiff_t count = p->segments->count, length = p->segments->length;
  const ptrdiff_t *offsets = p->segments->offsets;
  const float *start = p->start;
  float *out = p->out;
  const ptrdiff_t start_stride = p->start_stride, out_stride = p->out_stride;
#define TS_ROW(i) (rows < wide ? i % inner : i / inner)
#define TS_VECTOR(i) (rows < wide ? i / inner : i % inner)
#define TS_WEIGHT(v) ts_load(w + (v) / vectors * panel + (v) % vectors * TS_W)
#define TS_DO(i) \
  ts_v sum##i = ts_set(0); \
  if (i < size) sum##i = ts_load(start + TS_ROW(i) * start_stride + TS_VECTOR(i) * TS_W);
  TS_EACH_24(TS_DO)
#undef TS_DO
  for (ptrdiff_t s = 0; s < count; s++) {
    const ptrdiff_t offset = offsets[s];
    const float *at[12];
#define TS_DO(r) if (r < rows) at[r] = x[r] + offset;
    TS_EACH_12(TS_DO)
#undef TS_DO
    for (ptrdiff_t k = 0; k < length; k++, w += step) {
      ts_v first[12], next = ts_set(0);
#define TS_DO(i) \
      if (i < inner && rows < wide) first[i] = ts_set(at[i][k]); \
      if (i < inner && rows >= wide) { first[i] = TS_WEIGHT(i); TS_IN_REGISTER(first[i]); }
      TS_EACH_12(TS_DO)
#undef TS_DO
#define TS_DO(i) \
      if (i < size) { \
        if (i % inner == 0 && rows < wide) { next = TS_WEIGHT(i / inner); if (rows > 1) TS_IN_REGISTER(next); } \
        if (i % inner == 0 && rows >= wide) next = ts_set(at[i / inner][k]); \
        sum##i = ts_fma(first[i % inner], next, sum##i); \
      }
      TS_EACH_24(TS_DO)
#undef TS_DO
    }
  }
#define TS_DO(i) if (i < size) sum##i = ts_relu(sum##i);
  if (p->relu) { TS_EACH_24(TS_DO) }
#undef TS_DO
#define TS_DO(i) if (i < size) ts_store(out + TS_ROW(i) * out_stride + TS_VECTOR(i) * TS_W, sum##i);
  TS_EACH_24(TS_DO)
#undef TS_DO
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
/* Wider tiles: whole panels, or a part of one where a panel is wider than that. */
#define TS_TILE_COLUMNS(name, rows, columns) \
  TS_TILE(name, rows, (columns > TS_PANEL ? columns / TS_PANEL : 1), (columns > TS_PANEL ? TS_PANEL : columns) / TS_W)
TS_TILE_COLUMNS(ts_tile_1_wide, 1, (2 * TS_HALF))
TS_TILE_COLUMNS(ts_tile_1_half, 1, TS_HALF)
#if TS_FEW >= 2
TS_TILE_COLUMNS(ts_tile_2_half, 2, TS_HALF)
#endif
#if TS_FEW >= 3
TS_TILE_COLUMNS(ts_tile_3_half, 3, TS_HALF)
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
/* The columns of a tile are TS_STRIP vectors, half of that, TS_HALF, or twice that. */
#define TS_IS_STRIP 0
#define TS_IS_NARROW 1
#define TS_IS_HALF 2
#define TS_IS_WIDE 3
TS_INLINE void ts_run_tile(int rows, int kind, const float *const *x, const float *w, ptrdiff_t step, ptrdiff_t panel,
                           const ts_product *p) {
  switch (4 * rows + kind) {
#if TS_ROWS >= 12
    case 4 * 12 + TS_IS_STRIP: ts_tile_12(x, w, step, panel, p); break;
    case 4 * 12 + TS_IS_NARROW: ts_tile_12_narrow(x, w, step, panel, p); break;
    case 4 * 8 + TS_IS_STRIP: ts_tile_8(x, w, step, panel, p); break;
    case 4 * 8 + TS_IS_NARROW: ts_tile_8_narrow(x, w, step, panel, p); break;
#endif
#if TS_ROWS >= 6
    case 4 * 6 + TS_IS_STRIP: ts_tile_6(x, w, step, panel, p); break;
    case 4 * 6 + TS_IS_NARROW: ts_tile_6_narrow(x, w, step, panel, p); break;
#endif
    case 4 * 4 + TS_IS_STRIP: ts_tile_4(x, w, step, panel, p); break;
    case 4 * 4 + TS_IS_NARROW: ts_tile_4_narrow(x, w, step, panel, p); break;
    case 4 * 3 + TS_IS_STRIP: ts_tile_3(x, w, step, panel, p); break;
    case 4 * 3 + TS_IS_NARROW: ts_tile_3_narrow(x, w, step, panel, p); break;
    case 4 * 2 + TS_IS_STRIP: ts_tile_2(x, w, step, panel, p); break;
    case 4 * 2 + TS_IS_NARROW: ts_tile_2_narrow(x, w, step, panel, p); break;
    case 4 * 1 + TS_IS_STRIP: ts_tile_1(x, w, step, panel, p); break;
    case 4 * 1 + TS_IS_NARROW: ts_tile_1_narrow(x, w, step, panel, p); break;
#if TS_FEW >= 3
    case 4 * 3 + TS_IS_HALF: ts_tile_3_half(x, w, step, panel, p); break;
#endif
#if TS_FEW >= 2
    case 4 * 2 + TS_IS_HALF: ts_tile_2_half(x, w, step, panel, p); break;
#endif
    case 4 * 1 + TS_IS_HALF: ts_tile_1_half(x, w, step, panel, p); break;
    default: ts_tile_1_wide(x, w, step, panel, p); break;
  }
}
/* How many rows the next tile takes of those that remain: 11 are 8 and 3, 10 are 6 and 4, 5 are 3 and 2. */
TS_INLINE int ts_tile_rows(ptrdiff_t remain) {
  static const unsigned char next[12] = {0, 1, 2, 3, 4, 3, 6, 4, 8, 6, 6, 8};
  return remain >= TS_ROWS ? TS_ROWS : next[remain];
}
/* All rows by the first `columns` columns of tiles that are `full` wide. A tile that is not full is computed in a
   buffer. */
TS_FUNCTION void ts_columns(ptrdiff_t rows, int kind, ptrdiff_t full, ptrdiff_t columns, const float *const *x,
                            const float *w, ptrdiff_t step, ptrdiff_t panel, const ts_product *product) {
  ts_product p = *product;
  if (columns == full) {
    for (int tile; rows > 0; rows -= tile, x += tile, p.start += tile * p.start_stride, p.out += tile * p.out_stride) {
      tile = ts_tile_rows(rows);
      ts_run_tile(tile, kind, x, w, step, panel, &p);
    }
    return;
  }
  float buffer[24 * TS_W] TS_ALIGNED;
  const float *start = product->start;
  float *out = product->out;
  for (ptrdiff_t i = 0; i < 24 * TS_W; i++) buffer[i] = 0;
  p.out = buffer;
  p.out_stride = full;
  p.start = buffer;
  p.start_stride = full;
  for (int tile; rows > 0; rows -= tile, x += tile) {
    tile = ts_tile_rows(rows);
    for (int r = 0; r < tile; r++, start += product->start_stride) ts_copy(buffer + r * full, start, columns);
    ts_run_tile(tile, kind, x, w, step, panel, &p);
    for (int r = 0; r < tile; r++, out += product->out_stride) ts_copy(out, buffer + r * full, columns);
  }
}
/* Rows by all columns, in the widest tiles that there are for so many rows. */
TS_FUNCTION void ts_all_columns(ptrdiff_t rows, const float *const *x, ptrdiff_t k, const float *packed, ptrdiff_t n,
                                const ts_product *product) {
  const ptrdiff_t padded = ts_padded(n);
  ts_product p = *product;
  for (ptrdiff_t column = 0, full; column < n; column += full) {
    const ptrdiff_t inside = column % TS_PANEL, base = column - inside;
    int kind = TS_IS_STRIP;
    full = TS_STRIP * TS_W;
    if (rows == 1 && padded - column >= 2 * TS_HALF) {
      kind = TS_IS_WIDE;
      full = 2 * TS_HALF;
    } else if (rows <= TS_FEW && padded - column >= TS_HALF && n - column > full) {
      kind = TS_IS_HALF;
      full = TS_HALF;
    } else if (n - column <= full / 2) {
      kind = TS_IS_NARROW;
      full /= 2;
    }
    p.start = product->start == ts_zeros ? ts_zeros : product->start + column;
    p.out = product->out + column;
    ts_columns(rows, kind, full, n - column < full ? n - column : full, x, packed + base * k + inside,
               padded - base >= TS_PANEL ? TS_PANEL : 16, k * TS_PANEL, &p);
  }
}
/* At most TS_BLOCK rows by all columns: those few that are left over by the larger tiles apart. */
TS_FUNCTION void ts_block(ptrdiff_t rows, const float *const *x, const float *packed, ptrdiff_t n,
                          const ts_product *product) {
  static const unsigned char few[12] = {0, 1, 2, 3, 0, 5, 0, 3, 0, 3, 0, 3};
  const ptrdiff_t k = product->segments->count * product->segments->length;
  ptrdiff_t left = few[rows % TS_ROWS];
  ts_product p = *product;
  if (rows > left) ts_all_columns(rows - left, x, k, packed, n, &p);
  x += rows - left;
  p.start += (rows - left) * p.start_stride;
  p.out += (rows - left) * p.out_stride;
  for (int tile; left > 0; left -= tile, x += tile, p.start += tile * p.start_stride, p.out += tile * p.out_stride) {
    tile = ts_tile_rows(left);
    ts_all_columns(tile, x, k, packed, n, &p);
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
