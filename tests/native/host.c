/* Runs methods of a generated file, and watches how they treat memory.

   Reads calls from standard input and writes what they return to standard output. Every input,
   output and workspace is a block of the heap that ends where it has to, so that the address
   sanitizer sees an access one byte further. Each call is made twice, with memory at other
   addresses and with other contents; the outputs must be the same bits.
   `--once` leaves the second time out.

   usage: host [--supports NAMES] [--threads COUNT] [--weights FILE] [--selftest yes] [--once yes]

   A call is: the number of the method, or -1 at the end; then for each input its kind (0 a number,
   1 absent, 2 a tensor), and the number, or the size of an element, the size in bytes and the
   bytes. An answer is: the status, the size of the message and its text, and if the status is 0,
   for each output its size in bytes and its bytes. All numbers are 64-bit words. */
#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(HOST_THREADS)
#include <pthread.h>
#endif

static const char* supported = NULL;
/* While the method runs, nothing may be allocated. */
static int forbidden = 0;

int host_supports(const char* name) {
  return supported == NULL || strstr(supported, name) != NULL;
}

static void fail(const char* text) {
  fprintf(stderr, "%s\n", text);
  exit(3);
}

#if defined(HOST_ABORTING_ALLOCATOR)
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void __libc_free(void*);
static void check_allowed(void) {
  if (forbidden) abort();
}
void* malloc(size_t size) {
  check_allowed();
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  check_allowed();
  return __libc_calloc(count, size);
}
void* realloc(void* block, size_t size) {
  check_allowed();
  return __libc_realloc(block, size);
}
void free(void* block) {
  check_allowed();
  __libc_free(block);
}
#endif

static void* block_of(size_t size) {
  void* block = malloc(size ? size : 1);
  if (block == NULL) fail("no memory");
  return block;
}

static int read_all(FILE* file, void* place, size_t size) {
  return size == 0 || fread(place, 1, size, file) == size;
}

static int64_t read_word(void) {
  int64_t word;
  if (!read_all(stdin, &word, sizeof word)) fail("the calls end early");
  return word;
}

static void write_bytes(const void* data, size_t size) {
  if (size && fwrite(data, 1, size, stdout) != size) fail("cannot write");
}

static void write_word(int64_t word) {
  write_bytes(&word, sizeof word);
}

typedef struct {
  const host_method* method;
  int64_t kinds[HOST_MOST_FIELDS], words[HOST_MOST_FIELDS], sizes[HOST_MOST_FIELDS];
  char* data[HOST_MOST_FIELDS];
} call;

typedef struct {
  int64_t status, sizes[HOST_MOST_FIELDS];
  char message[512];
  char* data[HOST_MOST_FIELDS];
} answer;

/* A block that ends `size` bytes after a pointer which lies `shift` bytes after its begin. */
typedef struct {
  char *begin, *at;
} block;

static block shifted(size_t size, size_t shift, int content) {
  block made;
  made.begin = (char*)block_of(size + shift);
  made.at = made.begin + shift;
  memset(made.begin, content, size + shift);
  return made;
}

/* Runs a call once. `shift` counts elements for tensors and bytes for the workspace; `content`
   fills what is not an input. */
static answer run(const call* c, const void* weights, size_t shift, int content) {
  const host_method* m = c->method;
  block inputs[HOST_MOST_FIELDS], outputs[HOST_MOST_FIELDS];
  int64_t in[HOST_MOST_FIELDS], out[HOST_MOST_FIELDS];
  answer a;
  memset(&a, 0, sizeof a);
  for (int i = 0; i < m->inputs; i++) {
    in[i] = c->kinds[i] == 0 ? c->words[i] : 0;
    if (c->kinds[i] != 2) continue;
    inputs[i] = shifted((size_t)c->sizes[i], shift * (size_t)c->words[i], content);
    memcpy(inputs[i].at, c->data[i], (size_t)c->sizes[i]);
    in[i] = (int64_t)(intptr_t)inputs[i].at;
  }
  for (int i = 0; i < m->outputs; i++) {
    int64_t shape[16], size = m->item_sizes[i];
    const int rank = m->shape(in, i, shape);
    if (rank < 0) fail("an output has no shape");
    for (int axis = 0; axis < rank; axis++) size *= shape[axis] > 0 ? shape[axis] : 0;
    a.sizes[i] = size;
    outputs[i] = shifted((size_t)size, shift * (size_t)m->item_sizes[i], content);
    out[i] = (int64_t)(intptr_t)outputs[i].at;
  }
  block workspace = shifted(m->workspace_size(in), shift, content);
  forbidden = 1;
  a.status = m->run(weights, in, out, a.message, (int64_t)sizeof a.message, workspace.at);
  forbidden = 0;
  free(workspace.begin);
  for (int i = 0; i < m->inputs; i++) {
    if (c->kinds[i] != 2) continue;
    if (memcmp(inputs[i].at, c->data[i], (size_t)c->sizes[i]) != 0) fail("an input was written to");
    free(inputs[i].begin);
  }
  for (int i = 0; i < m->outputs; i++) {
    a.data[i] = (char*)block_of((size_t)a.sizes[i]);
    memcpy(a.data[i], outputs[i].at, (size_t)a.sizes[i]);
    free(outputs[i].begin);
  }
  return a;
}

static void discard(const call* c, answer* a) {
  for (int i = 0; i < c->method->outputs; i++) free(a->data[i]);
}

static void check_same(const call* c, const answer* a, const answer* b, const char* what) {
  int same = a->status == b->status && strcmp(a->message, b->message) == 0;
  for (int i = 0; same && a->status == 0 && i < c->method->outputs; i++)
    same = a->sizes[i] == b->sizes[i] && memcmp(a->data[i], b->data[i], (size_t)a->sizes[i]) == 0;
  if (!same) fail(what);
}

static call read_call(int64_t number) {
  call c;
  memset(&c, 0, sizeof c);
  c.method = &host_methods[number];
  for (int i = 0; i < c.method->inputs; i++) {
    c.kinds[i] = read_word();
    if (c.kinds[i] != 1) c.words[i] = read_word();
    if (c.kinds[i] != 2) continue;
    c.sizes[i] = read_word();
    c.data[i] = (char*)block_of((size_t)c.sizes[i]);
    if (!read_all(stdin, c.data[i], (size_t)c.sizes[i])) fail("the calls end early");
  }
  return c;
}

static void* weights = NULL; /* those of a file; NULL for the ones that the code holds */

static void read_weights(const char* name) {
  FILE* file = fopen(name, "rb");
  weights = block_of(host_weights_size + 8);
  if (file == NULL || !read_all(file, (char*)weights + 8, host_weights_size))
    fail("cannot read the weights");
  weights = (char*)weights + 8; /* no alignment but that of the elements */
  fclose(file);
}

#if defined(HOST_THREADS)
typedef struct {
  const call* calls;
  const answer* answers;
  int64_t count, first;
} share;

static void* run_share(void* argument) {
  const share* s = (const share*)argument;
  for (int64_t i = 0; i < s->count; i++) {
    const int64_t n = (s->first + i) % s->count;
    answer a = run(&s->calls[n], weights, (size_t)s->first % 4, 0xff);
    check_same(&s->calls[n], &a, &s->answers[n],
               "threads: the outputs differ from those of one thread");
    discard(&s->calls[n], &a);
  }
  return NULL;
}

static void run_threads(const call* calls, const answer* answers, int64_t count, int threads) {
  pthread_t ids[16];
  share shares[16];
  for (int t = 0; t < threads; t++) {
    shares[t] = (share){calls, answers, count, t};
    if (pthread_create(&ids[t], NULL, run_share, &shares[t]) != 0) fail("no thread");
  }
  for (int t = 0; t < threads; t++) pthread_join(ids[t], NULL);
}
#endif

/* Runs the golden cases that the file holds. */
static void run_selftest(void) {
  if (host_selftest == NULL) fail("no golden cases");
  for (size_t shift = 0; shift < 4; shift += 3) {
    char text[256] = "";
    block workspace = shifted(host_selftest_workspace_size(), shift, 0xff);
    forbidden = 1;
    const int differing = host_selftest(workspace.at, text, (int64_t)sizeof text);
    forbidden = 0;
    free(workspace.begin);
    if (differing != 0) fail(text);
  }
}

int main(int count, char** arguments) {
  int threads = 0, selftest = 0, once = 0;
  for (int i = 1; i + 1 < count; i += 2) {
    if (strcmp(arguments[i], "--supports") == 0)
      supported = arguments[i + 1];
    else if (strcmp(arguments[i], "--threads") == 0)
      threads = atoi(arguments[i + 1]);
    else if (strcmp(arguments[i], "--weights") == 0)
      read_weights(arguments[i + 1]);
    else if (strcmp(arguments[i], "--selftest") == 0)
      selftest = strcmp(arguments[i + 1], "yes") == 0;
    else if (strcmp(arguments[i], "--once") == 0)
      once = strcmp(arguments[i + 1], "yes") == 0;
    else
      fail("unknown option");
  }
  if (selftest) run_selftest();
  call* calls = NULL;
  answer* answers = NULL;
  int64_t made = 0;
  for (int64_t number; (number = read_word()) >= 0; made++) {
    calls = (call*)realloc(calls, (size_t)(made + 1) * sizeof *calls);
    answers = (answer*)realloc(answers, (size_t)(made + 1) * sizeof *answers);
    if (calls == NULL || answers == NULL) fail("no memory");
    call* c = &calls[made];
    answer* a = &answers[made];
    *c = read_call(number);
    *a = run(c, weights, 0, 0xff);
    if (!once) {
      answer b = run(c, weights, 3, 0);
      check_same(c, a, &b, "the outputs depend on addresses, or on what lay in memory before");
      discard(c, &b);
    }
    write_word(a->status);
    write_word((int64_t)strlen(a->message));
    write_bytes(a->message, strlen(a->message));
    for (int i = 0; a->status == 0 && i < c->method->outputs; i++) {
      write_word(a->sizes[i]);
      write_bytes(a->data[i], (size_t)a->sizes[i]);
    }
  }
#if defined(HOST_THREADS)
  run_threads(calls, answers, made, threads);
#else
  if (threads) fail("built without threads");
#endif
  for (int64_t i = 0; i < made; i++) {
    discard(&calls[i], &answers[i]);
    for (int f = 0; f < calls[i].method->inputs; f++) free(calls[i].data[f]);
  }
  free(calls);
  free(answers);
  if (weights != NULL) free((char*)weights - 8);
  return fflush(stdout) != 0;
}
