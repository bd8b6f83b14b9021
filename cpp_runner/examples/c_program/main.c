/* c_program moba.pt STEPS
 *
 * Steps a recurrent policy from C, saves its state, and goes on from there in a second session. */

#include <torchship/torchship.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { observation = 510 };

/* Says what went wrong, and makes it this program's exit code. */
static void check(torchship_status status, const char* what) {
  if (status == TORCHSHIP_OK) return;
  fprintf(stderr, "c_program: %s: %s\n", what, torchship_last_message());
  exit((int)status);
}

/* One step of one hero; the observation says nothing but which step it is. */
static void step(torchship_session* session, int number) {
  static uint8_t bytes[observation];
  static const int64_t shape[] = {1, observation};
  const torchship_tensor obs = {"obs", TORCHSHIP_UINT8, 2, shape, NULL, bytes};
  static const int64_t one[] = {1, 1};
  float value = 0;
  const torchship_buffer out = {"value", TORCHSHIP_FLOAT32, 2, one, &value};

  memset(bytes, number % 16, sizeof bytes);
  check(torchship_session_step_into(session, &obs, 1, &out, 1), "step");
  printf("step %d: value %.9g\n", number, (double)value);
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fputs("usage: c_program moba.pt STEPS\n", stderr);
    return TORCHSHIP_BAD_USAGE;
  }
  const int steps = atoi(argv[2]);
  torchship_options options = TORCHSHIP_OPTIONS;
  options.warm_up = 3;
  torchship_archive* archive = NULL;
  check(torchship_archive_open(argv[1], &options, &archive), "open");
  check(torchship_archive_verify(archive), "verify");
  printf("torchship %s: the archive is as it was made\n", torchship_version());

  torchship_session* first = NULL;
  torchship_session* second = NULL;
  check(torchship_session_open(archive, NULL, &first), "session");
  check(torchship_session_open(archive, NULL, &second), "session");
  torchship_archive_close(archive);

  for (int i = 0; i < steps; ++i) step(first, i);
  const void* state = NULL;
  size_t size = 0;
  check(torchship_session_save_state(first, &state, &size), "save");
  check(torchship_session_load_state(second, state, size), "load");
  torchship_session_close(first);
  step(second, steps);

  torchship_session_close(second);
  return TORCHSHIP_OK;
}
