/* Times calls of a compiled method from C, where no interpreter takes part in a call. */

#include <stdint.h>
#include <time.h>

typedef int (*method)(const void *weights, const void *in, const void *out, void *workspace);

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e6 + (double)time.tv_nsec * 1e-3;
}

/* Calls until `seconds` have passed, at least `fewest` samples. A sample is the mean duration of
 * `repeats` calls in microseconds, since reading the clock would be a part of a very short one.
 * Returns how many samples there are; or -1 if the method refuses. */
int64_t time_calls(method call, const void *in, const void *out, void *workspace, int64_t repeats,
                   double seconds, double *samples, int64_t fewest, int64_t most) {
  int64_t count = 0;
  const double end = now() + seconds * 1e6;
  double before = now();
  while (count < most && (count < fewest || before < end)) {
    for (int64_t i = 0; i < repeats; ++i)
      if (call(0, in, out, workspace)) return -1;
    const double after = now();
    samples[count++] = (after - before) / (double)repeats;
    before = after;
  }
  return count;
}
