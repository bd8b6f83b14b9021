/* --- matrix products, float32. One sum in order would lose ever more digits as it grows, so every output is a sum
   of short ones. Its k products, in order, are cut into groups of 512, and those into blocks of 16; the last group and
   the last block may be shorter, and both run on across segments. The sum of a block begins with +0 and adds one
   product after the other, each with one ts_fma. The sum of a group is that of its first block, to which those of the
   others are added one after the other; without products it is +0. The output is the start, to which the sums of the
   groups are added one after the other.
   No tile and no width changes that order, so a row gives the same bits alone, in any batch, and on every machine
   of one kind. The error is at most (47 + the number of groups) / 2 ULP of the sum of the absolute values of the
   products and of the start.

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
/* One product for a block of rows: `count` elements of each, from the one numbered `at` of the run at offsets[0]; the
   runs are `length` long. `start` is never NULL here. `step` is 0 for packed weights; else the operand is read where it
   lies: its rows `step` floats apart, its columns side by side, a multiple of 16. */
typedef struct {
  const ptrdiff_t *offsets;
  ptrdiff_t length, at, count;
  ptrdiff_t step;
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
#define TS_SUMMED 16 /* products that are summed from zero: a block */
#define TS_GROUP 512 /* products of which the sum goes into the output at once: a group */
static const float ts_zeros[4 * TS_PANEL] = {0};
TS_INLINE ptrdiff_t ts_padded(ptrdiff_t n) {
  return (n + 15) / 16 * 16;
}
/* The sums are variables with numbers, not an array: so compilers keep every one of them in a register. Those
   beyond the size of a tile, which is constant, vanish. */
#define TS_EACH_12(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define TS_NEXT_12(DO) DO(12) DO(13) DO(14) DO(15) DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) DO(22) DO(23)
#define TS_EACH_24(DO) TS_EACH_12(DO) TS_NEXT_12(DO)
/* One group for `rows` rows by `panels` * `vectors` vectors, all three constants. The weights of one k are
   `vectors` vectors in each panel, `step` floats before those of the next k; panels lie `panel` floats apart.
   What there is less of, rows or vectors, is loaded first, and the others one by one when their turn comes. The
   registers hold the sums of a block; the totals wait in memory, which costs little once in 16 products. They begin
   with -0, to which any sum is added as it is. */
TS_INLINE void ts_tile(const int rows, const int panels, const int vectors, const float *const *x, const float *w,
    ptrdiff_t step, ptrdiff_t panel, const ts_product *p) {
  const int wide = panels * vectors, size = rows * wide, inner = rows < wide ? rows : wide;
  const ptrdiff_t length = p->length;
  const ptrdiff_t *offsets = p->offsets;
  const float *start = p->start;
  float *out = p->out;
  const ptrdiff_t start_stride = p->start_stride, out_stride = p->out_stride;
  float totals[24 * TS_W] TS_ALIGNED;
  const float *at[12];
  ptrdiff_t remain = p->count, offset = remain > 0 ? offsets[0] : 0, k = p->at;
#define TS_DO(r) at[r] = r < rows ? x[r] + offset : NULL;
  TS_EACH_12(TS_DO)
#undef TS_DO
#define TS_ROW(i) (rows < wide ? i % inner : i / inner)
#define TS_VECTOR(i) (rows < wide ? i / inner : i % inner)
#define TS_WEIGHT(v) ts_load(w + (v) / vectors * panel + (v) % vectors * TS_W)
#define TS_DO(i) \
  ts_v sum##i = ts_set(0); \
  if (i < size) \
    ts_store(totals + i * TS_W, ts_set(-0.0f));
  TS_EACH_24(TS_DO)
#undef TS_DO
  for (;;) {
    ptrdiff_t block = remain < TS_SUMMED ? remain : TS_SUMMED;
    remain -= block;
    while (block > 0) {
      if (k == length) {
        offset = *++offsets;
#define TS_DO(r) \
  if (r < rows) \
    at[r] = x[r] + offset;
        TS_EACH_12(TS_DO)
#undef TS_DO
        k = 0;
      }
      const ptrdiff_t end = length - k < block ? length : k + block;
      for (block -= end - k; k < end; k++, w += step) {
        ts_v first[12], next = ts_set(0);
#define TS_DO(i) \
  if (i < inner && rows < wide) \
    first[i] = ts_set(at[i][k]); \
  if (i < inner && rows >= wide) { \
    first[i] = TS_WEIGHT(i); \
    TS_IN_REGISTER(first[i]); \
  }
        TS_EACH_12(TS_DO)
#undef TS_DO
#define TS_DO(i) \
  if (i < size) { \
    if (i % inner == 0 && rows < wide) { \
      next = TS_WEIGHT(i / inner); \
      if (rows > 1) \
        TS_IN_REGISTER(next); \
    } \
    if (i % inner == 0 && rows >= wide) \
      next = ts_set(at[i / inner][k]); \
    sum##i = ts_fma(first[i % inner], next, sum##i); \
  }
        TS_EACH_24(TS_DO)
#undef TS_DO
      }
    }
    if (remain == 0)
      break;
#define TS_DO(i) \
  if (i < size) { \
    ts_store(totals + i * TS_W, ts_load(totals + i * TS_W) + sum##i); \
    sum##i = ts_set(0); \
  }
    TS_EACH_24(TS_DO)
#undef TS_DO
  }
#define TS_DO(i) \
  if (i < size) { \
    const float *begin = start + TS_ROW(i) * start_stride + TS_VECTOR(i) * TS_W; \
    sum##i = ts_load(begin) + (ts_load(totals + i * TS_W) + sum##i); \
  }
  TS_EACH_24(TS_DO)
#undef TS_DO
#define TS_DO(i) \
  if (i < size) \
    sum##i = ts_relu(sum##i);
  if (p->relu) {
    TS_EACH_24(TS_DO)
  }
#undef TS_DO
#define TS_DO(i) \
  if (i < size) \
    ts_store(out + TS_ROW(i) * out_stride + TS_VECTOR(i) * TS_W, sum##i);
  TS_EACH_24(TS_DO)
#undef TS_DO
}
#define TS_TILE(name, rows, panels, vectors) \
  TS_FUNCTION void name(const float *const *x, const float *w, ptrdiff_t step, ptrdiff_t panel, \
      const ts_product *p) { \
    ts_tile(rows, panels, vectors, x, w, step, panel, p); \
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
    for (; i < count - TS_W; i += TS_W)
      ts_store(to + i, ts_load(from + i));
    ts_store(to + count - TS_W, ts_load(from + count - TS_W));
  } else {
    for (; i < count; i++)
      to[i] = from[i];
  }
}
/* The columns of a tile are TS_STRIP vectors, half of that, TS_HALF, or twice that. */
#define TS_IS_STRIP 0
#define TS_IS_NARROW 1
#define TS_IS_HALF 2
#define TS_IS_WIDE 3
TS_INLINE void ts_run_group(int rows, int kind, const float *const *x, const float *w, ptrdiff_t step, ptrdiff_t panel,
    const ts_product *p) {
  switch (4 * rows + kind) {
#if TS_ROWS >= 12
    case 4 * 12 + TS_IS_STRIP:
      ts_tile_12(x, w, step, panel, p);
      break;
    case 4 * 12 + TS_IS_NARROW:
      ts_tile_12_narrow(x, w, step, panel, p);
      break;
    case 4 * 8 + TS_IS_STRIP:
      ts_tile_8(x, w, step, panel, p);
      break;
    case 4 * 8 + TS_IS_NARROW:
      ts_tile_8_narrow(x, w, step, panel, p);
      break;
#endif
#if TS_ROWS >= 6
    case 4 * 6 + TS_IS_STRIP:
      ts_tile_6(x, w, step, panel, p);
      break;
    case 4 * 6 + TS_IS_NARROW:
      ts_tile_6_narrow(x, w, step, panel, p);
      break;
#endif
    case 4 * 4 + TS_IS_STRIP:
      ts_tile_4(x, w, step, panel, p);
      break;
    case 4 * 4 + TS_IS_NARROW:
      ts_tile_4_narrow(x, w, step, panel, p);
      break;
    case 4 * 3 + TS_IS_STRIP:
      ts_tile_3(x, w, step, panel, p);
      break;
    case 4 * 3 + TS_IS_NARROW:
      ts_tile_3_narrow(x, w, step, panel, p);
      break;
    case 4 * 2 + TS_IS_STRIP:
      ts_tile_2(x, w, step, panel, p);
      break;
    case 4 * 2 + TS_IS_NARROW:
      ts_tile_2_narrow(x, w, step, panel, p);
      break;
    case 4 * 1 + TS_IS_STRIP:
      ts_tile_1(x, w, step, panel, p);
      break;
    case 4 * 1 + TS_IS_NARROW:
      ts_tile_1_narrow(x, w, step, panel, p);
      break;
#if TS_FEW >= 3
    case 4 * 3 + TS_IS_HALF:
      ts_tile_3_half(x, w, step, panel, p);
      break;
#endif
#if TS_FEW >= 2
    case 4 * 2 + TS_IS_HALF:
      ts_tile_2_half(x, w, step, panel, p);
      break;
#endif
    case 4 * 1 + TS_IS_HALF:
      ts_tile_1_half(x, w, step, panel, p);
      break;
    default:
      ts_tile_1_wide(x, w, step, panel, p);
      break;
  }
}
/* A long product, group by group: each adds to what the groups before it have come to. */
TS_FUNCTION void ts_run_groups(int rows, int kind, const float *const *x, const float *w, ptrdiff_t step,
    ptrdiff_t panel, const ts_product *product) {
  ptrdiff_t left = product->count;
  ts_product p = *product;
  p.relu = 0;
  for (p.count = TS_GROUP; left > 0; left -= TS_GROUP, w += TS_GROUP * step) {
    if (left <= TS_GROUP) {
      p.count = left;
      p.relu = product->relu;
    }
    ts_run_group(rows, kind, x, w, step, panel, &p);
    p.start = p.out;
    p.start_stride = p.out_stride;
    p.at += TS_GROUP;
    p.offsets += p.at / p.length;
    p.at %= p.length;
  }
}
TS_INLINE void ts_run_tile(int rows, int kind, const float *const *x, const float *w, ptrdiff_t step, ptrdiff_t panel,
    const ts_product *p) {
  if (p->count <= TS_GROUP)
    ts_run_group(rows, kind, x, w, step, panel, p);
  else
    ts_run_groups(rows, kind, x, w, step, panel, p);
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
  for (ptrdiff_t i = 0; i < 24 * TS_W; i++)
    buffer[i] = 0;
  p.out = buffer;
  p.out_stride = full;
  p.start = buffer;
  p.start_stride = full;
  for (int tile; rows > 0; rows -= tile, x += tile) {
    tile = ts_tile_rows(rows);
    for (int r = 0; r < tile; r++, start += product->start_stride)
      ts_copy(buffer + r * full, start, columns);
    ts_run_tile(tile, kind, x, w, step, panel, &p);
    for (int r = 0; r < tile; r++, out += product->out_stride)
      ts_copy(out, buffer + r * full, columns);
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
    const ptrdiff_t columns = n - column < full ? n - column : full;
    if (p.step)
      ts_columns(rows, kind, full, columns, x, packed + column, p.step, TS_PANEL, &p);
    else
      ts_columns(rows, kind, full, columns, x, packed + base * k + inside, padded - base >= TS_PANEL ? TS_PANEL : 16,
          k * TS_PANEL, &p);
  }
}
/* At most TS_BLOCK rows by all columns: those few that are left over by the larger tiles apart. */
TS_FUNCTION void ts_block(ptrdiff_t rows, const float *const *x, const float *packed, ptrdiff_t n,
    const ts_product *product) {
  static const unsigned char few[12] = {0, 1, 2, 3, 0, 5, 0, 3, 0, 3, 0, 3};
  const ptrdiff_t k = product->count;
  ptrdiff_t left = few[rows % TS_ROWS];
  ts_product p = *product;
  if (rows > left)
    ts_all_columns(rows - left, x, k, packed, n, &p);
  x += rows - left;
  p.start += (rows - left) * p.start_stride;
  p.out += (rows - left) * p.out_stride;
  for (int tile; left > 0; left -= tile, x += tile, p.start += tile * p.start_stride, p.out += tile * p.out_stride) {
    tile = ts_tile_rows(left);
    ts_all_columns(tile, x, k, packed, n, &p);
  }
}
/* out[r][j] = start[r][j] + sum of x[r][i] * w[i][j] over i < k, in that order. Rows lie *_stride floats apart:
   a bias has the start_stride 0; a start of NULL is zeros; start may be out. relu: the larger of that and 0, NaN
   stays. */
TS_FUNCTION void ts_linear(ptrdiff_t rows, const float *x, ptrdiff_t x_stride, ptrdiff_t k, const float *packed,
    ptrdiff_t n, const float *start, ptrdiff_t start_stride, float *out, ptrdiff_t out_stride,
    int relu) {
  const ptrdiff_t offset = 0;
  const float *at[TS_BLOCK];
  ts_product p = {&offset, k, 0, k, 0, start ? start : ts_zeros, start ? start_stride : 0, out, out_stride, relu};
  for (ptrdiff_t done = 0; done < rows;) {
    int count = 0;
    for (; count < TS_BLOCK && done < rows; count++, done++)
      at[count] = x + done * x_stride;
    ts_block(count, at, packed, n, &p);
    p.start += count * p.start_stride;
    p.out += count * p.out_stride;
  }
}
/* Where the rows of the outputs first, first + 1, ... begin in the input; returns how many, at most `most`. */
TS_INLINE int ts_place_offsets(const ts_places *places, ptrdiff_t first, int most, ptrdiff_t *offsets) {
  ptrdiff_t column = first % places->width, row = first / places->width % places->height;
  ptrdiff_t image = first / places->width / places->height;
  int count = 0;
  for (; image < places->images; image++, row = 0)
    for (; row < places->height; row++, column = 0)
      for (; column < places->width; column++) {
        if (count == most)
          return count;
        offsets[count++] =
            image * places->image_stride + row * places->row_stride + column * places->pixel_stride;
      }
  return count;
}
/* A convolution, channels last: the same, each row being what one output sees, in `segments` of the input. */
TS_FUNCTION void ts_conv(const ts_places *places, const float *x, const ts_segments *segments, const float *packed,
    ptrdiff_t n, const float *start, ptrdiff_t start_stride, float *out, ptrdiff_t out_stride,
    int relu) {
  const ptrdiff_t rows = places->images * places->height * places->width;
  const float *at[TS_BLOCK];
  ptrdiff_t offsets[TS_BLOCK];
  ts_product p = {segments->offsets, segments->length, 0, segments->count * segments->length, 0,
      start ? start : ts_zeros, start ? start_stride : 0, out, out_stride, relu};
  for (ptrdiff_t done = 0; done < rows;) {
    const int count = ts_place_offsets(places, done, TS_BLOCK, offsets);
    for (int r = 0; r < count; r++)
      at[r] = x + offsets[r];
    ts_block(count, at, packed, n, &p);
    done += count;
    p.start += count * p.start_stride;
    p.out += count * p.out_stride;
  }
}
/* One panel of w[i][j] = w[i * k_stride + j * n_stride]: `width` columns, of which the operand has `columns`. */
TS_INLINE void ts_pack_panel(ptrdiff_t k, ptrdiff_t columns, ptrdiff_t width, const float *w, ptrdiff_t k_stride,
    ptrdiff_t n_stride, float *packed) {
  ptrdiff_t j = 0;
  if (n_stride == 1) {
    for (ptrdiff_t i = 0; i < k; i++)
      ts_copy(packed + i * width, w + i * k_stride, columns);
    j = columns;
  }
#if TS_W > 1 && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
  /* A transposed operand: blocks of 4 x 4. */
  typedef float ts_4 __attribute__((vector_size(16), aligned(4), may_alias));
  for (; k_stride == 1 && j + 4 <= columns; j += 4) {
    const float *from = w + j * n_stride;
    ptrdiff_t i = 0;
    for (; i + 4 <= k; i += 4) {
      const ts_4 a = *(const ts_4 *)(from + i), b = *(const ts_4 *)(from + n_stride + i);
      const ts_4 c = *(const ts_4 *)(from + 2 * n_stride + i), d = *(const ts_4 *)(from + 3 * n_stride + i);
      const ts_4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const ts_4 ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      float *to = packed + i * width + j;
      *(ts_4 *)to = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
      *(ts_4 *)(to + width) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
      *(ts_4 *)(to + 2 * width) = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
      *(ts_4 *)(to + 3 * width) = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
    }
    for (; i < k; i++)
      for (ptrdiff_t c = 0; c < 4; c++)
        packed[i * width + j + c] = from[i + c * n_stride];
  }
#endif
#endif
  for (; j < width; j++)
    for (ptrdiff_t i = 0; i < k; i++)
      packed[i * width + j] = j < columns ? w[i * k_stride + j * n_stride] : 0;
}
/* Packs w[i][j] = w[i * k_stride + j * n_stride] for ts_linear and ts_conv: k * ts_padded(n) floats. */
TS_FUNCTION void ts_pack(ptrdiff_t k, ptrdiff_t n, const float *w, ptrdiff_t k_stride, ptrdiff_t n_stride,
    float *packed) {
  for (ptrdiff_t base = 0; base < n; base += TS_PANEL) {
    const ptrdiff_t width = n - base > 16 ? TS_PANEL : 16, columns = n - base < width ? n - base : width;
    ts_pack_panel(k, columns, width, w + base * n_stride, k_stride, n_stride, packed + base * k);
  }
}
/* out[b][r][j] = sum of x[b][r][i] * w[b][i][j] over i < k: the same bits as ts_pack and ts_linear. The
   *_batch and *_stride are in floats; the rows of x are contiguous, w may be transposed. `scratch` holds 32 * k floats,
   aligned to 64. */
TS_FUNCTION void ts_matmul(ptrdiff_t batch, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t n, const float *x,
    ptrdiff_t x_batch, ptrdiff_t x_stride, const float *w, ptrdiff_t w_batch,
    ptrdiff_t k_stride, ptrdiff_t n_stride, float *out, ptrdiff_t out_batch,
    ptrdiff_t out_stride, float *scratch) {
  const ptrdiff_t offset = 0;
  const float *at[TS_BLOCK];
  /* Packing pays once for many rows. */
  const ptrdiff_t in_place = n_stride == 1 && rows <= 2 * TS_ROWS ? n / 16 * 16 : 0;
  for (; batch > 0; batch--, x += x_batch, w += w_batch, out += out_batch)
    for (ptrdiff_t base = 0, columns; base < n; base += columns) {
      const int packs = base >= in_place;
      columns = !packs ? in_place : n - base < TS_PANEL ? n - base
                                                        : TS_PANEL;
      ts_product p = {&offset, k, 0, k, packs ? 0 : k_stride, ts_zeros, 0, out + base, out_stride, 0};
      if (packs)
        ts_pack_panel(k, columns, ts_padded(columns), w + base * n_stride, k_stride, n_stride, scratch);
      for (ptrdiff_t done = 0; done < rows;) {
        int count = 0;
        for (; count < TS_BLOCK && done < rows; count++, done++)
          at[count] = x + done * x_stride;
        ts_block(count, at, packs ? scratch : w, columns, &p);
        p.out += count * out_stride;
      }
    }
}
/* --- depthwise convolutions: out[r][c] = start[r][c] + sum of x[r][offsets[t] + c] * w[t][c] over the taps t,
   in blocks and groups of taps like the products above. The weights of a tap are ts_padded(channels) floats, aligned to
   64. --- */
#define TS_DEPTH_ROWS 4
#define TS_DEPTH_VECTORS 2
TS_INLINE void ts_depth_tile(const int rows, const int vectors, int columns, const float *const *x, ptrdiff_t taps,
    const ptrdiff_t *offsets, const float *w, ptrdiff_t step, const ts_product *p) {
  ts_v totals[TS_DEPTH_ROWS][TS_DEPTH_VECTORS], groups[TS_DEPTH_ROWS][TS_DEPTH_VECTORS];
  ts_v sums[TS_DEPTH_ROWS][TS_DEPTH_VECTORS];
  const int whole = columns == vectors * TS_W;
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < vectors; v++) {
      const float *start = p->start + r * p->start_stride + v * TS_W;
      totals[r][v] = whole ? ts_load(start) : ts_load_first(start, columns);
      groups[r][v] = ts_set(-0.0f);
      sums[r][v] = ts_set(0);
    }
  for (ptrdiff_t t = 0; t < taps; t++, w += step) {
    if (t % TS_SUMMED == 0 && t > 0)
      for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
          groups[r][v] = groups[r][v] + sums[r][v];
          sums[r][v] = ts_set(0);
          if (t % TS_GROUP > 0)
            continue;
          totals[r][v] = totals[r][v] + groups[r][v];
          groups[r][v] = ts_set(-0.0f);
        }
    for (int v = 0; v < vectors; v++) {
      const ts_v weight = ts_load(w + v * TS_W);
      for (int r = 0; r < rows; r++) {
        const float *value = x[r] + offsets[t] + v * TS_W;
        sums[r][v] = ts_fma(whole ? ts_load(value) : ts_load_first(value, columns), weight, sums[r][v]);
      }
    }
  }
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < vectors; v++) {
      float *out = p->out + r * p->out_stride + v * TS_W;
      ts_v sum = totals[r][v] + (groups[r][v] + sums[r][v]);
      if (p->relu)
        sum = ts_relu(sum);
      if (whole)
        ts_store(out, sum);
      else
        ts_store_first(out, sum, columns);
    }
}
TS_FUNCTION void ts_depthwise(const ts_places *places, const float *x, ptrdiff_t taps, const ptrdiff_t *offsets,
    const float *weights, ptrdiff_t channels, const float *start, ptrdiff_t start_stride,
    float *out, ptrdiff_t out_stride, int relu) {
  const ptrdiff_t rows = places->images * places->height * places->width, step = ts_padded(channels);
  const float *at[TS_DEPTH_ROWS];
  ptrdiff_t begins[TS_DEPTH_ROWS];
  ts_product p = {NULL, 0, 0, 0, 0, NULL, start ? start_stride : 0, NULL, out_stride, relu};
  for (ptrdiff_t done = 0; done < rows;) {
    const int count = ts_place_offsets(places, done, TS_DEPTH_ROWS, begins);
    for (ptrdiff_t c = 0; c < channels;) {
      const ptrdiff_t left = channels - c;
      const float *w = weights + c;
      p.start = start ? start + done * start_stride + c : ts_zeros;
      p.out = out + done * out_stride + c;
      for (int r = 0; r < count; r++)
        at[r] = x + begins[r] + c;
      if (count == TS_DEPTH_ROWS && left >= TS_DEPTH_VECTORS * TS_W) {
        ts_depth_tile(TS_DEPTH_ROWS, TS_DEPTH_VECTORS, TS_DEPTH_VECTORS * TS_W, at, taps, offsets, w, step, &p);
        c += TS_DEPTH_VECTORS * TS_W;
      } else if (count == TS_DEPTH_ROWS && left >= TS_W) {
        ts_depth_tile(TS_DEPTH_ROWS, 1, TS_W, at, taps, offsets, w, step, &p);
        c += TS_W;
      } else {
        for (int r = 0; r < count; r++, p.start += p.start_stride, p.out += out_stride) {
          if (left >= TS_W)
            ts_depth_tile(1, 1, TS_W, at + r, taps, offsets, w, step, &p);
          else
            ts_depth_tile(1, 1, (int)left, at + r, taps, offsets, w, step, &p);
        }
        c += TS_W;
      }
    }
    done += count;
  }
}
/* --- one-hot operands: the product with a row that is 0 but for one 1 in each group of classes, as a sum of rows of
   the weights. The class of tap t is index[segments of the row]; its weights are the ts_padded(n) floats at
   tables + t * table_stride + class * ts_padded(n), aligned to 64. A negative class adds nothing: a padded input.
   The sum runs in blocks and groups of taps like the products above, a padded input taking its place among them. The
   order is that of the taps, not of the elements of the row of zeros and ones: ts_linear on that row rounds
   otherwise. The error is at most (47 + the number of groups) / 2 ULP of the sum of the absolute values. --- */
#define TS_EACH_8(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
TS_INLINE void ts_gather_tile(const int vectors, const int32_t *index, const ts_segments *taps, const float *w,
    ptrdiff_t table_stride, ptrdiff_t step, const float *start, float *out, int relu) {
  float groups[8 * TS_W] TS_ALIGNED, totals[8 * TS_W] TS_ALIGNED;
  int block = 0, group = 0;
#define TS_DO(v) \
  ts_v sum##v = ts_set(0); \
  if (v < vectors) \
    ts_store(groups + v * TS_W, ts_set(-0.0f));
  TS_EACH_8(TS_DO)
#undef TS_DO
  for (ptrdiff_t s = 0; s < taps->count; s++) {
    const int32_t *classes = index + taps->offsets[s];
    for (ptrdiff_t t = 0; t < taps->length; t++, w += table_stride) {
      if (block++ == TS_SUMMED) {
#define TS_DO(v) \
  if (v < vectors) { \
    ts_store(groups + v * TS_W, ts_load(groups + v * TS_W) + sum##v); \
    sum##v = ts_set(0); \
  }
        TS_EACH_8(TS_DO)
#undef TS_DO
        block = 1;
        group += TS_SUMMED;
        if (group == TS_GROUP) {
          for (int v = 0; v < vectors; v++) {
            ts_store(totals + v * TS_W, ts_load(start + v * TS_W) + ts_load(groups + v * TS_W));
            ts_store(groups + v * TS_W, ts_set(-0.0f));
          }
          start = totals;
          group = 0;
        }
      }
      if (classes[t] < 0)
        continue;
      const float *row = w + classes[t] * step;
#define TS_DO(v) \
  if (v < vectors) \
    sum##v += ts_load(row + v * TS_W);
      TS_EACH_8(TS_DO)
#undef TS_DO
    }
  }
#define TS_DO(v) \
  if (v < vectors) \
    sum##v = ts_load(start + v % vectors * TS_W) + (ts_load(groups + v * TS_W) + sum##v);
  TS_EACH_8(TS_DO)
#undef TS_DO
#define TS_DO(v) \
  if (v < vectors) \
    ts_store(out + v * TS_W, relu ? ts_relu(sum##v) : sum##v);
  TS_EACH_8(TS_DO)
#undef TS_DO
}
TS_FUNCTION void ts_gather_sum(const ts_places *places, const int32_t *index, const ts_segments *taps,
    const float *tables, ptrdiff_t table_stride, ptrdiff_t n, const float *start,
    ptrdiff_t start_stride, float *out, ptrdiff_t out_stride, int relu) {
  const ptrdiff_t rows = places->images * places->height * places->width, step = ts_padded(n);
  float buffer[8 * TS_W] TS_ALIGNED;
  ptrdiff_t offsets[16];
  for (ptrdiff_t v = 0; v < 8 * TS_W; v++)
    buffer[v] = 0;
  for (ptrdiff_t done = 0; done < rows;) {
    const int count = ts_place_offsets(places, done, 16, offsets);
    for (int r = 0; r < count; r++, done++) {
      const int32_t *at = index + offsets[r];
      for (ptrdiff_t j = 0, full; j < n; j += full) {
        const ptrdiff_t vectors = (n - j + TS_W - 1) / TS_W;
        const float *w = tables + j, *begin = start ? start + done * start_stride + j : ts_zeros;
        float *to = out + done * out_stride + j, *end = to;
        /* Three vectors are four where the tables have as many. */
        full = TS_W * (vectors >= 8 ? 8 : vectors >= 3 && step - j >= 4 * TS_W ? 4
                              : vectors >= 2                                   ? 2
                                                                               : 1);
        if (n - j < full) {
          ts_copy(buffer, begin, n - j);
          begin = buffer;
          to = buffer;
        }
        switch (full / TS_W) {
          case 8:
            ts_gather_tile(8, at, taps, w, table_stride, step, begin, to, relu);
            break;
          case 4:
            ts_gather_tile(4, at, taps, w, table_stride, step, begin, to, relu);
            break;
          case 2:
            ts_gather_tile(2, at, taps, w, table_stride, step, begin, to, relu);
            break;
          default:
            ts_gather_tile(1, at, taps, w, table_stride, step, begin, to, relu);
            break;
        }
        if (n - j < full)
          ts_copy(end, buffer, n - j);
      }
    }
  }
}
/* Classes as ts_gather_sum reads them, from elements `stride` apart. */
TS_FUNCTION void ts_index_u8(ptrdiff_t count, const uint8_t *classes, ptrdiff_t stride, int32_t *index) {
  for (ptrdiff_t i = 0; i < count; i++)
    index[i] = classes[i * stride];
}
TS_FUNCTION void ts_index_i64(ptrdiff_t count, const int64_t *classes, ptrdiff_t stride, int32_t *index) {
  for (ptrdiff_t i = 0; i < count; i++)
    index[i] = (int32_t)classes[i * stride];
}
