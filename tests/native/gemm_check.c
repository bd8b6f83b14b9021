/* Every kernel of gemm.h, and the sums of rows.h, against loops over scalars: the same bits, and no
   access beyond an operand. Compiled once for each instruction set, after vector.h, scalar.h,
   rows.h and gemm.h. */
static uint32_t ts_seed = 1;
TS_INLINE uint32_t ts_random(uint32_t below) {
  ts_seed = ts_seed * 1664525u + 1013904223u;
  return (uint32_t)(((uint64_t)(ts_seed >> 8) * below) >> 24);
}
TS_INLINE float ts_random_float(int special) {
  static const float specials[] = {INFINITY, -INFINITY, NAN, -0.0f, 0.0f, 1e-40f, -1e-42f, 3e38f};
  if (special && ts_random(50) == 0) return specials[ts_random(8)];
  return ((float)ts_random(1 << 20) / (1 << 19) - 1) * (ts_random(8) == 0 ? 1000.0f : 1.0f);
}
TS_INLINE float ts_reference_step(float a, float b, float c) {
#if TS_HAS_FMA
  return fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
/* The order of gemm.h: blocks of 16 products, each summed from zero; groups of 32 blocks, added to
 * the start. */
#define TS_MOST_PRODUCTS 1600
TS_INLINE float ts_reference(ptrdiff_t k, const float* a, const float* b, float start, int relu) {
  float sum = start, group = 0;
  for (ptrdiff_t begin = 0; begin < k; begin += 16) {
    float block = 0;
    for (ptrdiff_t i = begin; i < begin + 16 && i < k; i++)
      block = ts_reference_step(a[i], b[i], block);
    group = begin % 512 == 0 ? block : group + block;
    if (begin + 16 >= k || begin % 512 == 496) sum += group;
  }
  if (k == 0) sum += group;
  return relu && sum < 0 ? 0.0f : sum;
}
TS_INLINE int ts_same(float a, float b) {
  return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b);
}
/* `count` floats that end where reading or writing fails; those before them are NaN. */
TS_INLINE float* ts_operand(int which, ptrdiff_t count, int special) {
  float* end = operand_end(which);
  for (ptrdiff_t i = 1; i <= 64; i++) end[-count - i] = NAN;
  for (ptrdiff_t i = 1; i <= count; i++) end[-i] = ts_random_float(special);
  return end - count;
}
/* The packed weights of the definition, in place of ts_pack. */
TS_INLINE float* ts_packed_operand(ptrdiff_t k, ptrdiff_t n, const float* w) {
  const ptrdiff_t padded = (n + 15) / 16 * 16;
  float* packed = ts_operand(1, k * padded, 0);
  ptrdiff_t i = 0;
  for (ptrdiff_t panel = 0; panel < padded; panel += 32)
    for (ptrdiff_t row = 0; row < k; row++)
      for (ptrdiff_t column = panel; column < panel + 32 && column < padded; column++)
        packed[i++] = column < n ? w[row * n + column] : 0;
  return packed;
}
/* Starts: 0 is NULL, 1 a bias, 2 rows of their own, 3 those of the output itself. */
TS_INLINE int ts_check_rows(const char* name, ptrdiff_t rows, ptrdiff_t n, const float* expected,
                            const float* out, ptrdiff_t out_stride) {
  for (ptrdiff_t r = 0; r < rows; r++)
    for (ptrdiff_t j = 0; j < (r + 1 < rows ? out_stride : n); j++) {
      const float want = j < n ? expected[r * n + j] : 77.0f;
      if (ts_same(out[r * out_stride + j], want)) continue;
      printf("%s: rows %d n %d, row %d column %d: %.9g is not %.9g\n", name, (int)rows, (int)n,
             (int)r, (int)j, (double)out[r * out_stride + j], (double)want);
      return 1;
    }
  return 0;
}
typedef struct {
  const float* start;
  ptrdiff_t start_stride;
  float* out;
  ptrdiff_t out_stride;
  int relu;
} ts_ends;
TS_INLINE ts_ends ts_random_ends(ptrdiff_t rows, ptrdiff_t n, int special) {
  const int kind = (int)ts_random(4);
  ts_ends e = {NULL, 0, NULL, n + (ptrdiff_t)ts_random(4), (int)ts_random(2)};
  e.out = ts_operand(3, rows > 0 ? (rows - 1) * e.out_stride + n : 0, special);
  for (ptrdiff_t r = 0; r < rows; r++)
    for (ptrdiff_t j = 0; j < (r + 1 < rows ? e.out_stride : n); j++)
      if (j >= n || kind != 3) e.out[r * e.out_stride + j] = 77.0f;
  if (kind == 1) e.start = ts_operand(2, n, special);
  if (kind == 2) {
    e.start_stride = n + (ptrdiff_t)ts_random(3);
    e.start = ts_operand(2, rows > 0 ? (rows - 1) * e.start_stride + n : 0, special);
  }
  if (kind == 3) {
    e.start = e.out;
    e.start_stride = e.out_stride;
  }
  return e;
}
TS_INLINE float ts_start(const ts_ends* e, ptrdiff_t r, ptrdiff_t j) {
  return e->start ? e->start[r * e->start_stride + j] : 0.0f;
}
static float ts_expected[1 << 16], ts_weights[1 << 16], ts_a[TS_MOST_PRODUCTS],
    ts_b[TS_MOST_PRODUCTS];
TS_FUNCTION int ts_check_linear(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t k, int special) {
  const ptrdiff_t x_stride = k + (ptrdiff_t)ts_random(4);
  const float* x = ts_operand(0, rows > 0 ? (rows - 1) * x_stride + k : 0, special);
  for (ptrdiff_t i = 0; i < k * n; i++) ts_weights[i] = ts_random_float(0);
  const float* packed = ts_packed_operand(k, n, ts_weights);
  const ts_ends e = ts_random_ends(rows, n, special);
  for (ptrdiff_t r = 0; r < rows; r++)
    for (ptrdiff_t j = 0; j < n; j++) {
      for (ptrdiff_t i = 0; i < k; i++) ts_b[i] = ts_weights[i * n + j];
      ts_expected[r * n + j] = ts_reference(k, x + r * x_stride, ts_b, ts_start(&e, r, j), e.relu);
    }
  ts_linear(rows, x, x_stride, k, packed, n, e.start, e.start_stride, e.out, e.out_stride, e.relu);
  return ts_check_rows("linear", rows, n, ts_expected, e.out, e.out_stride);
}
#define TS_MOST_TAPS 528
/* A convolution without padding, grouped where the group's channels are a part of a pixel. */
typedef struct {
  ptrdiff_t images, height, width, channels, taken, kernel_height, kernel_width, stride_y, stride_x,
      dilation;
  ptrdiff_t out_height, out_width;
} ts_shape;
TS_INLINE ts_shape ts_random_shape(ptrdiff_t channels, ptrdiff_t taken, int plain) {
  ts_shape s = {0, 0, 0, channels, taken, 0, 0, 0, 0, 0, 0, 0};
  /* Some of so many taps that they are more than two blocks. */
  const uint32_t most = ts_random(4) == 0 ? 6 : 3;
  s.kernel_height = 1 + ts_random(most);
  s.kernel_width = most == 6 ? 6 : 1 + ts_random(most);
  s.dilation = plain ? 1 : 1 + ts_random(2);
  s.stride_y = 1 + ts_random(2);
  s.stride_x = 1 + ts_random(3);
  s.images = ts_random(4);
  s.out_height = 1 + ts_random(5);
  s.out_width = 1 + ts_random(s.images == 1 ? 70 : 9);
  /* A few of more than a group, for few outputs. */
  if (!plain && ts_random(12) == 0) {
    s.kernel_height = 32 + ts_random(2);
    s.kernel_width = 16;
    s.dilation = s.images = 1;
    s.out_height = 1 + ts_random(2);
    s.out_width = 1 + ts_random(6);
  }
  s.height = (s.out_height - 1) * s.stride_y + (s.kernel_height - 1) * s.dilation + 1;
  s.width = (s.out_width - 1) * s.stride_x + (s.kernel_width - 1) * s.dilation + 1;
  return s;
}
TS_INLINE ts_places ts_shape_places(const ts_shape* s) {
  const ptrdiff_t line = s->width * s->channels;
  const ts_places places = {s->images,        s->out_height,      s->out_width,
                            s->height * line, s->stride_y * line, s->stride_x * s->channels};
  return places;
}
/* Where tap t of output r begins in the input: the last group of channels, so that the last tap of
   the last output ends where the operand does. */
TS_INLINE ptrdiff_t ts_tap(const ts_shape* s, ptrdiff_t r, ptrdiff_t t) {
  const ptrdiff_t image = r / (s->out_height * s->out_width);
  const ptrdiff_t y =
      r / s->out_width % s->out_height * s->stride_y + t / s->kernel_width * s->dilation;
  const ptrdiff_t x = r % s->out_width * s->stride_x + t % s->kernel_width * s->dilation;
  return ((image * s->height + y) * s->width + x) * s->channels + s->channels - s->taken;
}
TS_INLINE ptrdiff_t ts_offsets(const ts_shape* s, ptrdiff_t* offsets) {
  const ptrdiff_t taps = s->kernel_height * s->kernel_width;
  for (ptrdiff_t t = 0; t < taps; t++) offsets[t] = ts_tap(s, 0, t);
  return taps;
}
TS_FUNCTION int ts_check_conv(ptrdiff_t n, int special) {
  const ptrdiff_t taken = 1 + ts_random(9), channels = taken * (1 + ts_random(2));
  const int lines = channels == taken && ts_random(2);
  const ts_shape s = ts_random_shape(channels, taken, lines);
  const ts_places places = ts_shape_places(&s);
  ptrdiff_t offsets[TS_MOST_TAPS];
  const ptrdiff_t taps = ts_offsets(&s, offsets), rows = s.images * s.out_height * s.out_width,
                  k = taps * taken;
  ts_segments segments = {taps, offsets, taken};
  if (rows * n > 1 << 16 || k * n > 1 << 16 || k > TS_MOST_PRODUCTS) return 0;
  if (lines) {
    for (ptrdiff_t y = 0; y < s.kernel_height; y++) offsets[y] = offsets[y * s.kernel_width];
    segments.count = s.kernel_height;
    segments.length = s.kernel_width * taken;
  }
  const float* x = ts_operand(0, s.images * s.height * s.width * channels, special);
  for (ptrdiff_t i = 0; i < k * n; i++) ts_weights[i] = ts_random_float(0);
  const float* packed = ts_packed_operand(k, n, ts_weights);
  const ts_ends e = ts_random_ends(rows, n, special);
  for (ptrdiff_t r = 0; r < rows; r++)
    for (ptrdiff_t j = 0; j < n; j++) {
      for (ptrdiff_t i = 0; i < k; i++) {
        ts_a[i] = x[ts_tap(&s, r, i / taken) + i % taken];
        ts_b[i] = ts_weights[i * n + j];
      }
      ts_expected[r * n + j] = ts_reference(k, ts_a, ts_b, ts_start(&e, r, j), e.relu);
    }
  ts_conv(&places, x, &segments, packed, n, e.start, e.start_stride, e.out, e.out_stride, e.relu);
  return ts_check_rows("conv", rows, n, ts_expected, e.out, e.out_stride);
}
TS_FUNCTION int ts_check_pack(ptrdiff_t k, ptrdiff_t n) {
  const int transposed = (int)ts_random(2);
  const ptrdiff_t stride = (transposed ? k : n) + (ptrdiff_t)ts_random(3),
                  padded = (n + 15) / 16 * 16;
  const ptrdiff_t k_stride = transposed ? 1 : stride, n_stride = transposed ? stride : 1;
  const ptrdiff_t last = k == 0 ? 0 : (k - 1) * k_stride + (n - 1) * n_stride + 1;
  const float* w = ts_operand(0, last, 0);
  for (ptrdiff_t i = 0; i < k; i++)
    for (ptrdiff_t j = 0; j < n; j++) ts_weights[i * n + j] = w[i * k_stride + j * n_stride];
  const float* expected = ts_packed_operand(k, n, ts_weights);
  float* packed = ts_operand(3, k * padded, 0);
  ts_pack(k, n, w, k_stride, n_stride, packed);
  return ts_check_rows("pack", k, padded, expected, packed, padded);
}
/* Products of operands that are both known only at run time, w in place or transposed. */
TS_FUNCTION int ts_check_matmul(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t k, int special) {
  const ptrdiff_t batch = ts_random(3), x_stride = k + (ptrdiff_t)ts_random(3);
  const ptrdiff_t x_batch = rows * x_stride, out_stride = n + (ptrdiff_t)ts_random(3),
                  out_batch = rows * out_stride;
  const int transposed = (int)ts_random(2);
  const ptrdiff_t stride = (transposed ? k : n) + (ptrdiff_t)ts_random(3);
  const ptrdiff_t k_stride = transposed ? 1 : stride, n_stride = transposed ? stride : 1;
  const ptrdiff_t w_batch = ts_random(2) ? (transposed ? n : k) * stride : 0;
  ptrdiff_t x_size = 0, w_size = 0;
  if (batch > 0 && rows > 0 && k > 0) {
    x_size = (batch - 1) * x_batch + (rows - 1) * x_stride + k;
    w_size = (batch - 1) * w_batch + (k - 1) * k_stride + (n - 1) * n_stride + 1;
  }
  const float *x = ts_operand(0, x_size, special), *w = ts_operand(1, w_size, special);
  float* scratch = ts_operand(2, 32 * k, 0);
  if (batch == 0 || rows == 0) return 0;
  float* out = ts_operand(3, (batch * rows - 1) * out_stride + n, 0);
  for (ptrdiff_t r = 0; r < batch * rows; r++)
    for (ptrdiff_t j = 0; j < (r + 1 < batch * rows ? out_stride : n); j++)
      out[r * out_stride + j] = 77.0f;
  for (ptrdiff_t r = 0; r < batch * rows; r++)
    for (ptrdiff_t j = 0; j < n; j++) {
      const float *row = x + r / rows * x_batch + r % rows * x_stride,
                  *column = w + r / rows * w_batch + j * n_stride;
      for (ptrdiff_t i = 0; i < k; i++) ts_b[i] = column[i * k_stride];
      ts_expected[r * n + j] = ts_reference(k, row, ts_b, 0, 0);
    }
  ts_matmul(batch, rows, k, n, x, x_batch, x_stride, w, w_batch, k_stride, n_stride, out, out_batch,
            out_stride, scratch);
  return ts_check_rows("matmul", batch * rows, n, ts_expected, out, out_stride);
}
TS_FUNCTION int ts_check_depthwise(ptrdiff_t channels, int special) {
  const ts_shape s = ts_random_shape(channels, channels, 0);
  const ts_places places = ts_shape_places(&s);
  ptrdiff_t offsets[TS_MOST_TAPS];
  const ptrdiff_t taps = ts_offsets(&s, offsets), rows = s.images * s.out_height * s.out_width;
  const ptrdiff_t padded = (channels + 15) / 16 * 16;
  if (rows * channels > 1 << 16) return 0;
  const float* x = ts_operand(0, s.images * s.height * s.width * channels, special);
  const float* weights = ts_operand(1, taps * padded, special);
  const ts_ends e = ts_random_ends(rows, channels, special);
  for (ptrdiff_t r = 0; r < rows; r++)
    for (ptrdiff_t c = 0; c < channels; c++) {
      for (ptrdiff_t t = 0; t < taps; t++) {
        ts_a[t] = x[ts_tap(&s, r, t) + c];
        ts_b[t] = weights[t * padded + c];
      }
      ts_expected[r * channels + c] = ts_reference(taps, ts_a, ts_b, ts_start(&e, r, c), e.relu);
    }
  ts_depthwise(&places, x, taps, offsets, weights, channels, e.start, e.start_stride, e.out,
               e.out_stride, e.relu);
  return ts_check_rows("depthwise", rows, channels, ts_expected, e.out, e.out_stride);
}
/* A convolution of classes: each tap is a product of 1 and a weight, or of 0 and 0 where there is
 * no class. */
TS_FUNCTION int ts_check_gather(ptrdiff_t n) {
  const ptrdiff_t taken = 1 + ts_random(3), channels = taken * (1 + ts_random(2)),
                  classes = 1 + ts_random(5);
  const ts_shape s = ts_random_shape(channels, taken, 0);
  const ts_places places = ts_shape_places(&s);
  ptrdiff_t offsets[TS_MOST_TAPS];
  const ptrdiff_t count = ts_offsets(&s, offsets), taps = count * taken;
  const ptrdiff_t rows = s.images * s.out_height * s.out_width, padded = (n + 15) / 16 * 16;
  const ts_segments segments = {count, offsets, taken};
  const ptrdiff_t size = s.images * s.height * s.width * channels;
  if (rows * n > 1 << 16 || taps * classes * padded > 1 << 18) return 0;
  /* Integers as wide as floats, in an operand of floats. */
  float* memory = ts_operand(0, size, 0);
  int32_t* index = (int32_t*)(void*)memory;
  for (ptrdiff_t i = 0; i < size; i++) index[i] = (int32_t)ts_random((uint32_t)classes + 1) - 1;
  const float* tables = ts_operand(1, taps * classes * padded, 0);
  const ts_ends e = ts_random_ends(rows, n, 0);
  for (ptrdiff_t r = 0; r < rows; r++)
    for (ptrdiff_t j = 0; j < n; j++) {
      for (ptrdiff_t t = 0; t < taps; t++) {
        const int32_t class_of_tap = index[ts_tap(&s, r, t / taken) + t % taken];
        ts_a[t] = class_of_tap < 0 ? 0.0f : 1.0f;
        ts_b[t] = class_of_tap < 0 ? 0.0f : tables[(t * classes + class_of_tap) * padded + j];
      }
      ts_expected[r * n + j] = ts_reference(taps, ts_a, ts_b, ts_start(&e, r, j), e.relu);
    }
  ts_gather_sum(&places, index, &segments, tables, classes * padded, n, e.start, e.start_stride,
                e.out, e.out_stride, e.relu);
  return ts_check_rows("gather_sum", rows, n, ts_expected, e.out, e.out_stride);
}
TS_FUNCTION int ts_check_index(void) {
  const uint8_t bytes[5] = {255, 1, 2, 3, 4};
  const int64_t longs[5] = {70000, 1, -1, 3, 4};
  int32_t index[3];
  int failed = 0;
  ts_index_u8(3, bytes, 2, index);
  failed += index[0] != 255 || index[1] != 2 || index[2] != 4;
  ts_index_i64(3, longs, 2, index);
  failed += index[0] != 70000 || index[1] != -1 || index[2] != 4;
  if (failed) printf("index\n");
  return failed;
}
/* A product that is too small for a float can be -0, and so are the total and the output then. */
TS_FUNCTION int ts_check_negative_zero(void) {
  const ptrdiff_t offset = 0;
  const ts_places places = {1, 1, 1, 0, 0, 0};
  const float x = -1e-30f, start = -0.0f;
  float weights[16] TS_ALIGNED = {1e-30f}, out = 1,
                    expected = ts_reference(1, &x, weights, start, 0);
  int failed = 0;
  ts_linear(1, &x, 1, 1, weights, 1, &start, 0, &out, 1, 0);
  failed += ts_check_rows("negative zero, linear", 1, 1, &expected, &out, 1);
  ts_depthwise(&places, &x, 1, &offset, weights, 1, &start, 0, &out, 1, 0);
  return failed + ts_check_rows("negative zero, depthwise", 1, 1, &expected, &out, 1);
}
/* The order of rows.h, lane by lane: sums of 16 elements, of 16 such sums, and so on; what is left
   over on each level is added from the lowest. */
TS_INLINE float ts_reference_lane(const float* row, ptrdiff_t n, ptrdiff_t lane) {
  static float sums[1 << 12];
  ptrdiff_t count = 0;
  float total = 0;
  for (ptrdiff_t i = lane; i < n; i += 16) {
    const ptrdiff_t step = i / 16;
    sums[step / 16] = step % 16 == 0 ? 0 + row[i] : sums[step / 16] + row[i];
    count = step / 16 + 1;
  }
  for (int level = 0; count > 0; level++) {
    const ptrdiff_t whole = level == 2 ? 0 : count / 16;
    float rest = 0;
    for (ptrdiff_t i = 16 * whole; i < count; i++)
      rest = i == 16 * whole ? sums[i] : rest + sums[i];
    total = rest + total;
    for (ptrdiff_t i = 0; i < whole; i++) {
      float sum = sums[16 * i];
      for (ptrdiff_t j = 1; j < 16; j++) sum += sums[16 * i + j];
      sums[i] = sum;
    }
    count = whole;
  }
  return total;
}
TS_FUNCTION int ts_check_sum(ptrdiff_t n, int special) {
  float lanes[16];
  const float* row = ts_operand(0, n, special);
  for (ptrdiff_t lane = 0; lane < 16; lane++) lanes[lane] = ts_reference_lane(row, n, lane);
  for (int half = 8; half > 0; half /= 2)
    for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
  const float sum = ts_sum_row(row, n);
  return ts_check_rows("sum", 1, 1, lanes, &sum, 1);
}
/* Every number of rows, of columns and of k, each with others drawn by chance; fewer unless
 * thorough. */
TS_FUNCTION int ts_check(int thorough) {
  int failed = ts_check_index() + ts_check_negative_zero();
  for (int round = 0; round < (thorough ? 2 : 1); round++) {
    const int special = round == 1;
    for (ptrdiff_t n = 1; n <= 70 && failed < 10; n++) {
      for (ptrdiff_t i = 0; i <= 40; i += thorough ? 1 : 1 + ts_random(4)) {
        failed += ts_check_linear(i, n, ts_random(41), special);
        failed += ts_check_linear(ts_random(41), n, i, special);
        failed += ts_check_pack(i, n);
        failed += ts_check_matmul(i, n, ts_random(41), special);
      }
      for (int i = 0; i < 6; i++) {
        failed += ts_check_conv(n, special);
        failed += ts_check_depthwise(n, special);
        failed += ts_check_gather(n);
      }
    }
    for (ptrdiff_t n = 65; n <= 300 && failed < 10; n++)
      failed += ts_check_linear(1 + ts_random(3), n, ts_random(20), 0);
    for (ptrdiff_t n = 0; n <= 600 && failed < 10; n++) failed += ts_check_sum(n, special);
    for (ptrdiff_t n = 4000; n <= 5000; n += 37) failed += ts_check_sum(n, 0);
    failed += ts_check_sum(160007, 0);
    failed += ts_check_linear(600, 20, 5, 0);
    failed += ts_check_linear(23, 40, TS_MOST_PRODUCTS, 0);
  }
  return failed;
}
