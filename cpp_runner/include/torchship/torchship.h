#ifndef TORCHSHIP_TORCHSHIP_H
#define TORCHSHIP_TORCHSHIP_H

/*
 * The C ABI of torchship (C11): opens and runs archives from C, and from any language that can call
 * C.
 *
 * Status codes. Every function that can fail returns a status, equal to the exit code of
 * `torchship-runner`. torchship_last_message(), called by the same thread, then says why. A call
 * that fails sets its results to NULL or 0. No exception leaves this library.
 *
 * Threads. Any number of threads may use an archive at once. A session belongs to one thread at a
 * time; sessions of one archive run in parallel, each with its own state.
 *
 * Memory. The library reads inputs without copying them and keeps no pointer to them after a call.
 * Inputs are never written to: a model that overwrites them gets a copy. Outputs either stay in the
 * library's memory and are lent to the caller, or are copied into the caller's memory. What a
 * function returns belongs to the library; each function says how long it is valid. Handles are
 * freed by their close function, sessions and archive in any order.
 *
 * Floating point. During a call the calling thread has the default mode (rounding, subnormal
 * numbers, trapped exceptions). Its own mode is restored afterwards.
 *
 * Counts. A call takes at most 65,536 tensors, buffers or folders.
 *
 * Alignment. Inputs that are not aligned to their element size are refused. Inputs aligned to 64
 * bytes give exactly the bits of the golden outputs; other alignments may round differently,
 * because rounding in some kernels depends on where a row begins.
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
  TORCHSHIP_MISMATCH = 1,      /* golden outputs were not reproduced */
  TORCHSHIP_BAD_USAGE = 2,     /* an unknown name, a NULL that is not allowed */
  TORCHSHIP_BAD_ARCHIVE = 3,   /* damaged, changed, too new, not signed, or not an archive */
  TORCHSHIP_BAD_INPUT = 4,     /* does not fit the signature, or the model raised an error */
  TORCHSHIP_OUT_OF_MEMORY = 5, /* input and archive are not at fault; may succeed later */
  TORCHSHIP_INTERNAL = 70      /* a bug in this library */
} torchship_status;

/* The element type of a tensor. A bool is one byte, 0 or 1; float16 and bfloat16 have two bytes. */
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

/* A named tensor: an input in the caller's memory, or an output in the library's. */
typedef struct torchship_tensor {
  const char* name;       /* as in the signature: "obs", "hidden.0" */
  int32_t dtype;          /* a torchship_dtype */
  int32_t rank;           /* 0 for a single number */
  const int64_t* shape;   /* `rank` sizes; may be NULL at rank 0 */
  const int64_t* strides; /* `rank` strides in elements, none negative; NULL: contiguous */
  const void* data;       /* the first element; may be NULL if there are no elements */
} torchship_tensor;

/* The caller's memory for an output. */
typedef struct torchship_buffer {
  const char* name;     /* of the output, as in the signature: "logits" */
  int32_t dtype;        /* a torchship_dtype, the output's */
  int32_t rank;         /* 0 for a single number */
  const int64_t* shape; /* the output's `rank` sizes; may be NULL at rank 0 */
  void* data;           /* room for all elements, contiguous; may be NULL if there are none */
} torchship_buffer;

typedef struct torchship_archive torchship_archive;
typedef struct torchship_session torchship_session;

/* The version of the library, "0.1.0"; valid as long as the process. */
TORCHSHIP_API const char* torchship_version(void);

/* Why this thread's last failed call failed, UTF-8; "" if no call has failed. Valid until the
 * thread's next failed call. */
TORCHSHIP_API const char* torchship_last_message(void);

/* ---- Options -------------------------------------------------------------------------------- */

typedef enum torchship_fusion {
  TORCHSHIP_FUSION_OFF = 0,
  TORCHSHIP_FUSION_STATIC = 1,
  TORCHSHIP_FUSION_DYNAMIC = 2
} torchship_fusion;

/* Options for opening an archive; torchship/options.h describes each. Begin with the defaults,
 * TORCHSHIP_OPTIONS, which are also those of Python:
 *
 *   torchship_options options = TORCHSHIP_OPTIONS;
 *   options.trusted_keys = "keys.pem";
 *
 * New versions add members at the end of the struct. A library accepts the `size` of every earlier
 * header and uses the defaults of the members that are missing. A size that it does not know is
 * TORCHSHIP_BAD_USAGE: the program was compiled with a newer header. The struct, and what it points
 * to, is read during the call only. */
typedef struct torchship_options {
  size_t size;              /* sizeof(torchship_options) */
  int32_t threads;          /* inside an operator, 1 to 1024, for the whole process */
  int32_t warm_up;          /* calls of each method while the archive is opened */
  int32_t freeze;           /* 1: weights become constants, which may change rounding */
  int32_t fusion;           /* a torchship_fusion; fusion may change rounding */
  const char* device;       /* "cpu", "cuda", "cuda:1" */
  const char* trusted_keys; /* PEM file of Ed25519 public keys; NULL: signatures are not checked */

  /* Added after the first header. */
  const char* trusted_keys_pem; /* the keys themselves, as PEM, instead of the file */
  const char* const* operators; /* `operator_count` folders with libraries of custom operators */
  size_t operator_count;
} torchship_options;

#define TORCHSHIP_OPTIONS \
  {sizeof(torchship_options), 1, 0, 0, TORCHSHIP_FUSION_OFF, "cpu", NULL, NULL, NULL, 0}

/* ---- Archives ------------------------------------------------------------------------------- */

/* Opens, checks and loads an archive; `options` may be NULL for the defaults. Not thread-safe, and
 * no session may run meanwhile, because some options hold for the whole process. */
TORCHSHIP_API torchship_status torchship_archive_open(const char* path,
                                                      const torchship_options* options,
                                                      torchship_archive** archive);

/* The same for an archive of `size` bytes in memory, which are read during the call and not kept.
 *
 * Messages call the archive `name`, or "memory" if it is NULL. `signature` points to the 64 bytes
 * of the archive's `.sig` file; it is NULL, and its size 0, if there is none, which with trusted
 * keys is TORCHSHIP_BAD_ARCHIVE. A signature without trusted keys is TORCHSHIP_BAD_USAGE. */
TORCHSHIP_API torchship_status torchship_archive_open_memory(
    const void* bytes, size_t size, const char* name, const void* signature, size_t signature_size,
    const torchship_options* options, torchship_archive** archive);

/* Frees the handle; NULL is allowed. Open sessions remain usable. */
TORCHSHIP_API void torchship_archive_close(torchship_archive* archive);

/* The archive's name and version, and its methods with their signatures, as JSON that is valid as
 * long as the archive's handle:
 *
 *   {"name": "moba", "version": "1", "methods": [{
 *     "name": "forward",
 *     "inputs": [{"name": "obs", "value": "uint8[batch,510]", "required": true,
 *                 "dtype": "uint8", "shape": ["batch", 510]}, ...],
 *     "outputs": [{"name": "logits", ...}, ...],
 *     "state": [{"input": "h", "output": "h", "start": "zeros"}, ...]}]}
 *
 * In a shape, a string is a symbol, which has the same size wherever it occurs in one call, and
 * null is any size. */
TORCHSHIP_API torchship_status torchship_archive_describe(const torchship_archive* archive,
                                                          const char** json);

/* Runs the golden cases. Returns TORCHSHIP_OK, or TORCHSHIP_MISMATCH with a message that names the
 * first output that does not agree, and any other BLAS that replaces LibTorch's. */
TORCHSHIP_API torchship_status torchship_archive_verify(const torchship_archive* archive);

/* ---- Sessions ------------------------------------------------------------------------------- */

/* Opens a session of one method, which is "forward" if `method` is NULL. */
TORCHSHIP_API torchship_status torchship_session_open(const torchship_archive* archive,
                                                      const char* method,
                                                      torchship_session** session);

/* Frees the handle and the outputs that it lent; NULL is allowed. */
TORCHSHIP_API void torchship_session_close(torchship_session* session);

/* One call without state from earlier calls: state inputs that are not given start as the manifest
 * says, and no state is kept.
 *
 * `outputs` is set to an array of `output_count` contiguous tensors, sorted by name. They are valid
 * until the next run or step of this session returns, so they may be its inputs. */
TORCHSHIP_API torchship_status torchship_session_run(torchship_session* session,
                                                     const torchship_tensor* inputs,
                                                     size_t input_count,
                                                     const torchship_tensor** outputs,
                                                     size_t* output_count);

/* One step of a sequence: state inputs that are not given come from the previous step, and the new
 * state is kept for the next one. A step that fails leaves the state unchanged. */
TORCHSHIP_API torchship_status torchship_session_step(torchship_session* session,
                                                      const torchship_tensor* inputs,
                                                      size_t input_count,
                                                      const torchship_tensor** outputs,
                                                      size_t* output_count);

/* As run and step, but the outputs that `buffers` name are copied into the caller's memory, and no
 * output is lent. A buffer may be the memory of an input. The call fails if a buffer does not fit
 * its output (TORCHSHIP_BAD_INPUT) or does not name one (TORCHSHIP_BAD_USAGE); then no buffer has
 * been written to, and the state is unchanged. Outputs lent by earlier calls remain valid. */
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

/* Discards the state: the next step is the first of a new sequence. */
TORCHSHIP_API torchship_status torchship_session_reset(torchship_session* session);

/* Discards the state of some rows of the batch, for example those of agents that died. `rows` are
 * indices from 0. */
TORCHSHIP_API torchship_status torchship_session_reset_rows(torchship_session* session,
                                                            const int64_t* rows, size_t row_count);

/* The state between two steps as bytes (safetensors), valid until the next save or close. Any
 * session of the same method, in C or another language, can load them and continue. */
TORCHSHIP_API torchship_status torchship_session_save_state(torchship_session* session,
                                                            const void** bytes, size_t* size);
TORCHSHIP_API torchship_status torchship_session_load_state(torchship_session* session,
                                                            const void* bytes, size_t size);

#ifdef __cplusplus
}
#endif

#endif
