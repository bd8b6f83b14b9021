#ifndef TORCHSHIP_TORCHSHIP_H
#define TORCHSHIP_TORCHSHIP_H

/*
 * The C ABI of torchship (C11): archives are opened and run from C, and from whatever can call C.
 *
 * Status codes. Every function that can fail returns one, equal to the exit code of
 * `torchship-runner`; the thread that called can then ask torchship_last_message() for what went
 * wrong. A call that fails sets its results to NULL or 0. No exception leaves this library.
 *
 * Threads. An archive may be used by any number of threads at once. A session belongs to one thread
 * at a time; sessions of one archive run in parallel, each with its own state.
 *
 * Memory. The library reads inputs where they lie and keeps no pointer to them after a call. It
 * lends outputs where they lie, or copies them into memory of the caller. What it returns is
 * borrowed: each function says for how long. Handles are freed by their close
 * function, sessions and archive in any order.
 *
 * Counts. At most 65,536 tensors, buffers or folders are taken in one call.
 *
 * Alignment. Inputs are aligned to their element size, or refused. Aligned to 64 bytes they give
 * the very bits of the golden outputs: how some kernels round depends on where a row begins.
 */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TORCHSHIP_API __attribute__((visibility("default")))
#else
#define TORCHSHIP_API
#endif

typedef enum torchship_status {
  TORCHSHIP_OK = 0,
  TORCHSHIP_MISMATCH = 1,    /* golden outputs were not reproduced */
  TORCHSHIP_BAD_USAGE = 2,   /* a name that is not there, a NULL that must not be */
  TORCHSHIP_BAD_ARCHIVE = 3, /* damaged, tampered with, too new, not signed, or no archive */
  TORCHSHIP_BAD_INPUT = 4,   /* does not fit the signature, or the model itself raised */
  TORCHSHIP_INTERNAL = 70    /* a fault of this library, or no memory */
} torchship_status;

/* Elements of a tensor. TORCHSHIP_BOOL is one byte, 0 or 1; float16 and bfloat16 are two bytes. */
typedef enum torchship_dtype {
  TORCHSHIP_BOOL = 0,
  TORCHSHIP_UINT8 = 1,
  TORCHSHIP_UINT16 = 2,
  TORCHSHIP_UINT32 = 3,
  TORCHSHIP_UINT64 = 4,
  TORCHSHIP_INT8 = 5,
  TORCHSHIP_INT16 = 6,
  TORCHSHIP_INT32 = 7,
  TORCHSHIP_INT64 = 8,
  TORCHSHIP_FLOAT16 = 9,
  TORCHSHIP_BFLOAT16 = 10,
  TORCHSHIP_FLOAT32 = 11,
  TORCHSHIP_FLOAT64 = 12
} torchship_dtype;

/* A named tensor in somebody's memory. */
typedef struct torchship_tensor {
  const char* name;     /* as in the signature: "obs", "hidden.0" */
  int32_t dtype;        /* a torchship_dtype */
  int32_t rank;         /* 0 for a single number */
  const int64_t* shape; /* `rank` sizes; may be NULL at rank 0 */
  const int64_t*
      strides;      /* `rank` steps, in elements, none negative; NULL where rows are contiguous */
  const void* data; /* the first element; may be NULL where there is none */
} torchship_tensor;

/* Memory of the caller that an output is written to. */
typedef struct torchship_buffer {
  const char* name;     /* of an output, as in the signature: "logits" */
  int32_t dtype;        /* a torchship_dtype, the output's */
  int32_t rank;         /* 0 for a single number */
  const int64_t* shape; /* the output's, all `rank` sizes; may be NULL at rank 0 */
  void* data;           /* room for all elements, contiguous; may be NULL where there is none */
} torchship_buffer;

typedef struct torchship_archive torchship_archive;
typedef struct torchship_session torchship_session;

/* "0.1.0"; lives as long as the process. */
TORCHSHIP_API const char* torchship_version(void);

/* What this thread's last failed call had to say, UTF-8; "" when none has failed. Lives until the
 * thread's next failed call. */
TORCHSHIP_API const char* torchship_last_message(void);

/* ---- Options -------------------------------------------------------------------------------- */

typedef enum torchship_fusion {
  TORCHSHIP_FUSION_OFF = 0,
  TORCHSHIP_FUSION_STATIC = 1,
  TORCHSHIP_FUSION_DYNAMIC = 2
} torchship_fusion;

/* How an archive is opened; what each option does is told in torchship/options.h. Begin with
 * TORCHSHIP_OPTIONS, the defaults, which are those of Python too:
 *
 *   torchship_options options = TORCHSHIP_OPTIONS;
 *   options.trusted_keys = "keys.pem";
 *
 * The struct grows at its end. A library takes the `size` of every header before its own, and gives
 * what is not there its default; a size that it does not know is TORCHSHIP_BAD_USAGE: the program
 * was compiled with a newer header than the library's. Everything here is read during the call. */
typedef struct torchship_options {
  size_t size;              /* sizeof(torchship_options) */
  int32_t threads;          /* inside an operator, for the whole process */
  int32_t warm_up;          /* calls of each method before the archive is handed out */
  int32_t freeze;           /* 1: weights become constants; may round differently */
  int32_t fusion;           /* a torchship_fusion; all but OFF may round differently */
  const char* device;       /* "cpu", "cuda", "cuda:1" */
  const char* trusted_keys; /* PEM file of Ed25519 public keys; NULL asks for no signature */

  /* Not in the first header. */
  const char* trusted_keys_pem; /* such keys themselves, PEM; in place of the file */
  const char* const* operators; /* `operator_count` folders of libraries of custom operators */
  size_t operator_count;
} torchship_options;

#define TORCHSHIP_OPTIONS \
  {sizeof(torchship_options), 1, 0, 0, TORCHSHIP_FUSION_OFF, "cpu", NULL, NULL, NULL, 0}

/* ---- Archives ------------------------------------------------------------------------------- */

/* Opens, checks and loads an archive; `options` may be NULL for the defaults. One call at a time,
 * and none while a session runs: some options are the whole process's. */
TORCHSHIP_API torchship_status torchship_archive_open(const char* path,
                                                      const torchship_options* options,
                                                      torchship_archive** archive);

/* Likewise, of `size` bytes in memory, which are read during the call and not kept.
 *
 * `name` is what messages call the archive, "memory" where it is NULL. `signature` are the 64 bytes
 * of the `.sig` that belongs to the archive, NULL and 0 where it has none: with trusted keys that
 * is TORCHSHIP_BAD_ARCHIVE. A signature without trusted keys to check it is TORCHSHIP_BAD_USAGE. */
TORCHSHIP_API torchship_status torchship_archive_open_memory(
    const void* bytes, size_t size, const char* name, const void* signature, size_t signature_size,
    const torchship_options* options, torchship_archive** archive);

/* Frees the handle; NULL is allowed. Sessions stay as they are. */
TORCHSHIP_API void torchship_archive_close(torchship_archive* archive);

/* The archive's name, version, and its methods with their signatures, as JSON that lives as long as
 * the archive:
 *
 *   {"name": "moba", "version": "1", "methods": [{
 *     "name": "forward",
 *     "inputs": [{"name": "obs", "value": "uint8[batch,510]", "required": true,
 *                 "dtype": "uint8", "shape": ["batch", 510]}, ...],
 *     "outputs": [{"name": "logits", ...}, ...],
 *     "state": [{"input": "h", "output": "h", "start": "zeros"}, ...]}]}
 *
 * In a shape a string is a symbol, equal wherever it occurs in one call, and null is any size. */
TORCHSHIP_API torchship_status torchship_archive_describe(const torchship_archive* archive,
                                                          const char** json);

/* Runs the golden cases: TORCHSHIP_OK, or TORCHSHIP_MISMATCH and a message that names the first
 * output that does not agree. */
TORCHSHIP_API torchship_status torchship_archive_verify(const torchship_archive* archive);

/* ---- Sessions ------------------------------------------------------------------------------- */

/* One method of an archive, "forward" where `method` is NULL. */
TORCHSHIP_API torchship_status torchship_session_open(const torchship_archive* archive,
                                                      const char* method,
                                                      torchship_session** session);

/* Frees the handle and the outputs it has lent; NULL is allowed. */
TORCHSHIP_API void torchship_session_close(torchship_session* session);

/* One call by itself. State that is not given starts as the manifest says; none is kept.
 *
 * `outputs` becomes an array of `output_count` contiguous tensors, sorted by name, which live until
 * the next run or step of this session returns: they may be its inputs. */
TORCHSHIP_API torchship_status torchship_session_run(torchship_session* session,
                                                     const torchship_tensor* inputs,
                                                     size_t input_count,
                                                     const torchship_tensor** outputs,
                                                     size_t* output_count);

/* The same as one step of a sequence: state that is not given comes from the step before, and is
 * kept for the next. A step that fails leaves the state as it was. */
TORCHSHIP_API torchship_status torchship_session_step(torchship_session* session,
                                                      const torchship_tensor* inputs,
                                                      size_t input_count,
                                                      const torchship_tensor** outputs,
                                                      size_t* output_count);

/* The same two, whose outputs are copied into memory of the caller, and lent to nobody: only those
 * that `buffers` name. A buffer may be the memory of an input. One that does not fit the output
 * (TORCHSHIP_BAD_INPUT) or names none (TORCHSHIP_BAD_USAGE) fails the call: then no buffer has been
 * written to, and the state is as it was. Outputs that were lent before stay. */
TORCHSHIP_API torchship_status torchship_session_run_into(torchship_session* session,
                                                          const torchship_tensor* inputs,
                                                          size_t input_count,
                                                          const torchship_buffer* buffers,
                                                          size_t buffer_count);
TORCHSHIP_API torchship_status torchship_session_step_into(torchship_session* session,
                                                           const torchship_tensor* inputs,
                                                           size_t input_count,
                                                           const torchship_buffer* buffers,
                                                           size_t buffer_count);

/* Forgets the state: the next step is a first one. */
TORCHSHIP_API torchship_status torchship_session_reset(torchship_session* session);

/* Forgets the state of some rows of the batch: agents that died, say. */
TORCHSHIP_API torchship_status torchship_session_reset_rows(torchship_session* session,
                                                            const int64_t* rows, size_t row_count);

/* The state between two steps as bytes (safetensors), which live until the next save or close. Any
 * session of the same method, in C or elsewhere, can go on from them. */
TORCHSHIP_API torchship_status torchship_session_save_state(torchship_session* session,
                                                            const void** bytes, size_t* size);
TORCHSHIP_API torchship_status torchship_session_load_state(torchship_session* session,
                                                            const void* bytes, size_t size);

#ifdef __cplusplus
}
#endif

#endif
