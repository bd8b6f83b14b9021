/* Runs the kernels of elementary.h, each compiled for every instruction set at hand:
     sweep PASS FUNCTION N   the worst error against double precision; of every float32, or of one
   block of N, a power of 2 digest [PASS]   a digest of what each function gives for a sample of
   float32, pass by pass The test writes names.h, which gives the names of the kernels their suffix.
 */
#ifndef KERNELS
#define KERNELS
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif
#include "portable.h"

#include "names.h"

#define FUNCTIONS(X) \
  X(exp) X(expm1) X(log) X(log1p) X(tanh) X(sigmoid) X(erf) X(softplus) X(sin) X(cos)
enum {
#define ENUMERATE(name) F_##name,
  FUNCTIONS(ENUMERATE)
#undef ENUMERATE
      FUNCTION_COUNT
};
static const char* const function_names[] = {
#define NAME(name) #name,
    FUNCTIONS(NAME)
#undef NAME
};
/* `count` is a multiple of 16. */
typedef void kernel(const float* in, float* out, size_t count);

#if defined(__x86_64__)
#define TS_PASS_AVX512
#include __FILE__
#undef TS_PASS_AVX512
#define TS_PASS_AVX2
#include __FILE__
#undef TS_PASS_AVX2
#define TS_PASS_SSE2
#include __FILE__
#undef TS_PASS_SSE2
#elif defined(__aarch64__)
#define TS_PASS_NEON
#include __FILE__
#undef TS_PASS_NEON
#elif defined(__wasm_simd128__)
#define TS_PASS_WASM
#include __FILE__
#undef TS_PASS_WASM
#endif
#include __FILE__

typedef struct {
  const char* name;
  int fma;
  kernel *const *vectors, *const *scalars;
} pass;
#define PASS(name) {#name, fma_##name, vectors_##name, scalars_##name}
/* From the fastest to the slowest. */
static const pass passes[] = {
#if defined(__x86_64__)
    PASS(avx512),
    PASS(avx2),
    PASS(sse2),
#elif defined(__aarch64__)
    PASS(neon),
#elif defined(__wasm_simd128__)
    PASS(wasm),
#endif
    PASS(plain),
};
enum { PASS_COUNT = sizeof passes / sizeof passes[0] };

static int runs_here(const char* name) {
#if defined(__x86_64__)
  if (!strcmp(name, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!strcmp(name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  (void)name;
  return 1;
}

enum { BLOCK = 1024, BLOCKS = 1 << 22 };
static uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
static float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
/* FNV-1a over 32-bit words; all NaN are one. */
static uint64_t digest(uint64_t hash, const float* values, size_t count) {
  for (size_t i = 0; i < count; i++)
    hash = (hash ^ (values[i] != values[i] ? 0x7fc00000u : bits_of(values[i]))) * 0x100000001b3u;
  return hash;
}
/* A sample with every sign and exponent, and for each 1024 mantissas: the ends, and others at
 * random. */
static void digest_pass(const pass* tested) {
  for (int function = 0; function < FUNCTION_COUNT; function++) {
    uint64_t hash = 0xcbf29ce484222325u, random = 1, scalar_hash = hash;
    for (uint32_t exponent = 0; exponent < 512; exponent++) {
      float in[1024], out[1024];
      for (uint32_t i = 0; i < 1024; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint32_t mantissa = i < 8 ? i : i < 16 ? 0x7ffff8 + i - 8 : (uint32_t)(random >> 41);
        in[i] = float_of(exponent << 23 | mantissa);
      }
      tested->vectors[function](in, out, 1024);
      hash = digest(hash, out, 1024);
      tested->scalars[function](in, out, 1024);
      scalar_hash = digest(scalar_hash, out, 1024);
    }
    printf("%s %d %s %016llx %016llx\n", tested->name, tested->fma, function_names[function],
           (unsigned long long)hash, (unsigned long long)scalar_hash);
  }
}

#if defined(SWEEP)
#include <pthread.h>
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define FAST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FAST
#endif
/* Functions of many doubles: glibc has some as vectors, at most 4 units of double precision from
 * the exact value. */
#if defined(__x86_64__) && defined(__GLIBC__)
typedef double four __attribute__((vector_size(32)));
#define OF_MANY(name)                                                     \
  four vector_##name(four x) __asm__("_ZGVdN4v_" #name);                  \
  __attribute__((target("avx2"))) static void name##_by_four(double* x) { \
    for (size_t i = 0; i < BLOCK; i += 4) {                               \
      four v;                                                             \
      memcpy(&v, x + i, sizeof v);                                        \
      v = vector_##name(v);                                               \
      memcpy(x + i, &v, sizeof v);                                        \
    }                                                                     \
  }                                                                       \
  static void name##_of_many(double* x) {                                 \
    if (runs_here("avx2")) {                                              \
      name##_by_four(x);                                                  \
    } else {                                                              \
      for (size_t i = 0; i < BLOCK; i++) x[i] = name(x[i]);               \
    }                                                                     \
  }
#else
#define OF_MANY(name)                                     \
  static void name##_of_many(double* x) {                 \
    for (size_t i = 0; i < BLOCK; i++) x[i] = name(x[i]); \
  }
#endif
OF_MANY(exp)
OF_MANY(log)
OF_MANY(sin)
OF_MANY(cos)

static double exact_one(int function, double x) {
  switch (function) {
    case F_exp:
      return exp(x);
    case F_expm1:
      return expm1(x);
    case F_log:
      return log(x);
    case F_log1p:
      return log1p(x);
    case F_tanh:
      return tanh(x);
    case F_sigmoid:
      return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x));
    case F_erf:
      return erf(x);
    case F_softplus:
      return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
    case F_sin:
      return sin(x);
    case F_cos:
      return cos(x);
  }
  abort();
}
/* The exact values, to some 36 bits, of the BLOCK numbers in x, which have one sign and magnitudes
   from `low` to `high`, both finite: by vectors, by few terms of a series, or the limit. */
FAST static void exact_many(int function, const double* x, double* y, double low, double high) {
  const int negative = signbit(x[0]) != 0;
#define EACH(value) \
  for (size_t i = 0; i < BLOCK; i++) y[i] = (value)
  const int exponential =
      function == F_exp || function == F_expm1 || function == F_sigmoid || function == F_softplus;
  if (exponential && low > 110) {
    const double at_infinity = negative                ? (function == F_expm1 ? -1 : 0)
                               : function == F_sigmoid ? 1
                                                       : INFINITY;
    if (function == F_softplus && !negative)
      EACH(x[i]);
    else
      EACH(at_infinity);
    return;
  }
  if (high < 1e-9 && (exponential || function == F_cos) && function != F_expm1) {
    if (function == F_sigmoid)
      EACH(0.5 + x[i] / 4);
    else if (function == F_softplus)
      EACH(0.69314718055994530942 + x[i] / 2);
    else if (function == F_exp)
      EACH(1 + x[i]);
    else
      EACH(1);
    return;
  }
  switch (function) {
    case F_exp:
      EACH(x[i]);
      exp_of_many(y);
      break;
    case F_expm1:
      if (high < 1e-3) {
        EACH(x[i] * (1 + x[i] * (1. / 2 + x[i] * (1. / 6 + x[i] / 24))));
      } else {
        EACH(x[i]);
        exp_of_many(y);
        EACH(y[i] - 1);
      }
      break;
    case F_log:
      if (negative) {
        EACH(x[i] == 0 ? -INFINITY : (double)NAN);
      } else {
        EACH(x[i]);
        log_of_many(y);
      }
      break;
    case F_log1p:
      if (high < 1e-3) {
        EACH(x[i] * (1 - x[i] * (1. / 2 - x[i] * (1. / 3 - x[i] / 4))));
      } else if (negative && low > 1) {
        EACH((double)NAN);
      } else {
        EACH(1 + x[i]);
        log_of_many(y);
      }
      break;
    case F_tanh:
      if (high < 1e-3) {
        EACH(x[i] * (1 - x[i] * x[i] * (1. / 3 - x[i] * x[i] * (2. / 15))));
      } else if (low > 20) {
        EACH(negative ? -1 : 1);
      } else {
        EACH(2 * x[i]);
        exp_of_many(y);
        EACH((y[i] - 1) / (y[i] + 1));
      }
      break;
    case F_sigmoid:
      EACH(-x[i]);
      exp_of_many(y);
      EACH(1 / (1 + y[i]));
      break;
    case F_erf:
      if (high < 1e-3) {
        EACH(x[i] * (1 - x[i] * x[i] * (1. / 3 - x[i] * x[i] / 10)) * 1.1283791670955125739);
      } else if (low > 6) {
        EACH(negative ? -1 : 1);
      } else {
        EACH(erf(x[i]));
      }
      break;
    case F_softplus:
      EACH(x[i]);
      exp_of_many(y);
      if (negative && low > 10) {
        EACH(y[i] * (1 - y[i] * (1. / 2 - y[i] / 3)));
      } else {
        EACH(1 + y[i]);
        log_of_many(y);
      }
      break;
    case F_sin:
      if (high < 1e-3) {
        EACH(x[i] * (1 - x[i] * x[i] * (1. / 6 - x[i] * x[i] / 120)));
      } else {
        EACH(x[i]);
        sin_of_many(y);
      }
      break;
    case F_cos:
      EACH(x[i]);
      cos_of_many(y);
      break;
  }
}
/* 1 / the unit in the last place of a float32 near `exact`. */
static inline double inverse_unit_of(double exact) {
  const uint64_t exponent = (uint64_t)0x7ff << 52, smallest = (uint64_t)(1023 - 126) << 52;
  uint64_t bits;
  memcpy(&bits, &exact, sizeof bits);
  bits &= exponent;
  bits = bits < smallest ? smallest : bits;
  bits = ((uint64_t)(2 * 1023 + 23) << 52) - bits;
  double inverse;
  memcpy(&inverse, &bits, sizeof inverse);
  return inverse;
}
/* How far `got` is from `exact`, in units in the last place of a float32 near `exact`: infinitely
   far if a sign is wrong, or if only one is NaN. Where the exact value rounds to an infinity, only
   that will do. */
static double error_in_ulp(float got, double exact) {
  const float rounded = (float)exact;
  if (rounded != rounded || got != got)
    return rounded != rounded && got != got ? 0 : (double)INFINITY;
  if (bits_of(got) == bits_of(rounded))
    return isinf(rounded) ? 0 : fabs((double)got - exact) * inverse_unit_of(exact);
  if (isinf(rounded) || !signbit(got) != !signbit(exact)) return (double)INFINITY;
  return fabs((double)got - exact) * inverse_unit_of(exact);
}
/* Whether error_in_ulp has to look at a block: an error may be above `worst`, or is of a special
 * value. */
FAST static int may_be_worse(const float* got, const double* exact, double worst) {
  int64_t any = 0;
  for (size_t i = 0; i < BLOCK; i++) {
    int64_t got_bits, exact_bits;
    const double wide = got[i];
    memcpy(&got_bits, &wide, sizeof got_bits);
    memcpy(&exact_bits, &exact[i], sizeof exact_bits);
    const double error = fabs(wide - exact[i]) * inverse_unit_of(exact[i]);
    const int64_t bad = error <= worst ? got_bits ^ exact_bits : -1;
    any |= got_bits == exact_bits ? 0 : bad;
  }
  return any < 0;
}
typedef struct {
  kernel* run;
  int function;
  uint32_t first, step, skip;
  double worst;
  float worst_x, worst_y;
  double worst_exact;
} sweep;
static void* sweep_blocks(void* argument) {
  sweep* s = (sweep*)argument;
  const int periodic = s->function == F_sin || s->function == F_cos;
  for (uint32_t block = s->first; block < BLOCKS; block += s->step) {
    float in[BLOCK], out[BLOCK];
    double x[BLOCK], exact[BLOCK];
    for (uint32_t i = 0; i < BLOCK; i++) in[i] = float_of(block * BLOCK + i);
    const double low = fabs((double)in[0]), high = fabs((double)in[BLOCK - 1]);
    const uint32_t random = block * 2654435761u;
    if (random >> 16 & s->skip) continue;
    /* The sine of large numbers is slow: one block of 64. */
    if (periodic && low >= 16384 && high < INFINITY && random >> 26) continue;
    for (uint32_t i = 0; i < BLOCK; i++) x[i] = in[i];
    s->run(in, out, BLOCK);
    const int finite = low < INFINITY && high < INFINITY;
    if (finite) {
      exact_many(s->function, x, exact, low, high);
      const uint32_t i = block * 40503u % BLOCK;
      const double one = exact_one(s->function, x[i]);
      if (fabs(exact[i] - one) > 1e-11 * fabs(one) && !(fabs(one) < 1e-46 || fabs(one) > 4e38)) {
        fprintf(stderr, "the reference of %s(%.9g) is %.17g, or %.17g\n",
                function_names[s->function], x[i], exact[i], one);
        abort();
      }
      if (!may_be_worse(out, exact, s->worst)) continue;
    }
    for (uint32_t i = 0; i < BLOCK; i++) {
      const double wanted = finite ? exact[i] : exact_one(s->function, x[i]),
                   error = error_in_ulp(out[i], wanted);
      if (!(error <= s->worst)) {
        s->worst = error;
        s->worst_x = in[i];
        s->worst_y = out[i];
        s->worst_exact = wanted;
      }
    }
  }
  return NULL;
}
static int sweep_pass(const pass* tested, int function, uint32_t skip) {
  enum { THREADS = 2 };
  pthread_t threads[THREADS];
  sweep parts[THREADS];
  for (uint32_t i = 0; i < THREADS; i++) {
    sweep part = {tested->vectors[function], function, i, THREADS, skip, 0, 0, 0, 0};
    parts[i] = part;
    if (pthread_create(&threads[i], NULL, sweep_blocks, &parts[i])) return 2;
  }
  for (uint32_t i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  const sweep* worst = &parts[parts[1].worst > parts[0].worst];
  printf("%s %s %.4f x=%.9g (0x%08x) gives %.9g, not %.17g\n", tested->name,
         function_names[function], worst->worst, (double)worst->worst_x, bits_of(worst->worst_x),
         (double)worst->worst_y, worst->worst_exact);
  return 0;
}
#endif

int main(int argc, char** argv) {
#if defined(SWEEP)
  for (int i = 0; argc == 5 && !strcmp(argv[1], "sweep") && i < PASS_COUNT; i++)
    for (int function = 0; function < FUNCTION_COUNT; function++)
      if (!strcmp(argv[2], passes[i].name) && !strcmp(argv[3], function_names[function]))
        return sweep_pass(&passes[i], function, (uint32_t)atoi(argv[4]) - 1);
#endif
  if (argc < 2 || strcmp(argv[1], "digest")) return 2;
  for (int i = 0; i < PASS_COUNT; i++)
    if (runs_here(passes[i].name) && (argc < 3 || !strcmp(argv[2], passes[i].name)))
      digest_pass(&passes[i]);
  return 0;
}
#else
#include "passes_begin.h"

#include "vector.h"

#include "elementary.h"
#define VECTOR(name)                                                                        \
  TS_FUNCTION void TS_NAME(vector_##name)(const float* in, float* out, size_t count) {      \
    for (size_t i = 0; i < count; i += TS_W) ts_store(out + i, ts_##name(ts_load(in + i))); \
  }                                                                                         \
  TS_FUNCTION void TS_NAME(scalar_##name)(const float* in, float* out, size_t count) {      \
    for (size_t i = 0; i < count; i++) out[i] = ts_##name##1(in[i]);                        \
  }
FUNCTIONS(VECTOR)
#undef VECTOR
enum { TS_NAME(fma) = TS_HAS_FMA };
static kernel* const TS_NAME(vectors)[] = {
#define KERNEL(name) TS_NAME(vector_##name),
    FUNCTIONS(KERNEL)
#undef KERNEL
};
static kernel* const TS_NAME(scalars)[] = {
#define KERNEL(name) TS_NAME(scalar_##name),
    FUNCTIONS(KERNEL)
#undef KERNEL
};
#include "passes_end.h"
#endif
