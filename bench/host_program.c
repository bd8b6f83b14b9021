/* What an archive costs a program in C that runs it, and what that program may do to it:
 *
 *   host_program heap|stack|fork|exit ARCHIVE INPUT DTYPE SHAPE
 *   host_program heap moba.pt obs 1 1,510
 *
 * Inputs are zeros. `heap` and `stack` print figures, `fork` steps in a child process, `exit` closes
 * its handles after main() has returned. Exit code 0 when all went well. */

#define _GNU_SOURCE
#include <torchship/torchship.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- The heap: these definitions come before the C library's, for every library too. -------- */

void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* old, size_t size);
void* __libc_memalign(size_t alignment, size_t size);

static atomic_long heap_calls;

void* malloc(size_t size) {
  ++heap_calls;
  return __libc_malloc(size);
}

void* calloc(size_t count, size_t size) {
  ++heap_calls;
  return __libc_calloc(count, size);
}

void* realloc(void* old, size_t size) {
  ++heap_calls;
  return __libc_realloc(old, size);
}

void* aligned_alloc(size_t alignment, size_t size) {
  ++heap_calls;
  return __libc_memalign(alignment, size);
}

int posix_memalign(void** result, size_t alignment, size_t size) {
  ++heap_calls;
  *result = __libc_memalign(alignment, size);
  return *result == NULL ? 12 : 0;
}

/* ---- The model ------------------------------------------------------------------------------ */

static torchship_archive* archive;
static torchship_session* session;
static const char* path;
static torchship_tensor input;
static int64_t shape[8];

static void expect(torchship_status status) {
  if (status == TORCHSHIP_OK) return;
  fprintf(stderr, "host_program: %s\n", torchship_last_message());
  _exit(1);
}

static void open_model(void) {
  torchship_options options = TORCHSHIP_OPTIONS;
  options.warm_up = 1;
  expect(torchship_archive_open(path, &options, &archive));
  expect(torchship_session_open(archive, NULL, &session));
}

static void read_input(char** arguments) {
  size_t bytes = 8;
  input = (torchship_tensor){.name = arguments[0], .dtype = atoi(arguments[1]), .shape = shape};
  for (char* size = strtok(arguments[2], ","); size != NULL; size = strtok(NULL, ",")) {
    shape[input.rank] = atoll(size);
    bytes *= (size_t)shape[input.rank++];
  }
  input.data = memset(__libc_memalign(64, bytes), 0, bytes);
}

/* The first byte of the first output, so that two steps can be compared. */
static int step(void) {
  const torchship_tensor* outputs = NULL;
  size_t count = 0;
  expect(torchship_session_step(session, &input, 1, &outputs, &count));
  return count == 0 ? 0 : *(const unsigned char*)outputs[0].data;
}

/* ---- What is asked --------------------------------------------------------------------------- */

static int heap(void) {
  enum { steps = 1000 };
  open_model();
  for (int i = 0; i < 10; ++i) step();
  const long before = heap_calls;
  for (int i = 0; i < steps; ++i) step();
  printf("%.0f calls of the heap in a step\n", (double)(heap_calls - before) / steps);
  return 0;
}

static void* opens(void* unused) {
  open_model();
  return unused;
}

static void* steps(void* unused) {
  for (int i = 0; i < 10; ++i) step();
  return unused;
}

/* KiB of its stack that a thread writes to; what glibc puts there for thread-local data included. */
static size_t stack_of(void* (*work)(void*)) {
  const size_t size = (size_t)64 << 20;
  unsigned char* stack =
      mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  pthread_attr_t attributes;
  pthread_t thread;
  pthread_attr_init(&attributes);
  pthread_attr_setstack(&attributes, stack, size);
  if (pthread_create(&thread, &attributes, work, NULL) != 0) _exit(1);
  pthread_join(thread, NULL);
  size_t untouched = 0;
  while (untouched < size && stack[untouched] == 0) ++untouched;
  munmap(stack, size);
  return (size - untouched + 1023) / 1024;
}

static int stack(void) {
  const size_t to_open = stack_of(opens);
  printf("%zu KiB to open, %zu KiB to step\n", to_open, stack_of(steps));
  /* And so it runs on no more than is promised. */
  pthread_attr_t attributes;
  pthread_t thread;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 96 * 1024);
  if (pthread_create(&thread, &attributes, steps, NULL) != 0) return 1;
  pthread_join(thread, NULL);
  return 0;
}

static int forked(void) {
  open_model();
  step();
  const pid_t child = fork();
  const int value = step();
  if (child == 0) _exit(value);
  int status = 0;
  waitpid(child, &status, 0);
  const int same = WIFEXITED(status) && WEXITSTATUS(status) == value;
  puts(same ? "the child steps as its parent does" : "the child does not");
  return same ? 0 : 1;
}

static void close_late(void) {
  torchship_session_close(session);
  torchship_archive_close(archive);
  puts("closed after main");
}

static int exits(void) {
  atexit(close_late);
  open_model();
  step();
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  path = argv[2];
  read_input(argv + 3);
  if (strcmp(argv[1], "heap") == 0) return heap();
  if (strcmp(argv[1], "stack") == 0) return stack();
  if (strcmp(argv[1], "fork") == 0) return forked();
  if (strcmp(argv[1], "exit") == 0) return exits();
  return 2;
}
