/* What a generated file is called through: its methods, with their fields as 64-bit words. */
#ifndef HOST_H
#define HOST_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#define HOST_MOST_FIELDS 64
typedef struct {
  int inputs, outputs;
  const int* item_sizes; /* of the outputs, in bytes */
  size_t (*workspace_size)(const int64_t* in);
  int (*shape)(const int64_t* in, int output, int64_t* shape);
  int (*run)(const void* weights, const int64_t* in, const int64_t* out, char* message,
             int64_t message_size, void* workspace);
} host_method;
extern const host_method host_methods[];
extern const size_t host_weights_size;
/* NULL if the file has no golden cases. */
extern int (*const host_selftest)(void* workspace, char* text, int64_t text_size);
extern size_t (*const host_selftest_workspace_size)(void);
/* Takes the place of __builtin_cpu_supports, so that a program can be told which instructions to
 * use. */
int host_supports(const char* name);
#ifdef __cplusplus
}
#endif
#endif
