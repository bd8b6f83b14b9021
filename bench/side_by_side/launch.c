/* Starts a program and says what it took: launch STDIN_FILE PROGRAM ARGUMENT...
 *
 * Prints its milliseconds from start to end by the clock, and the most KiB of memory that it had. A
 * child of a large process would be charged with that process's memory: hence this small one. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e3 + (double)time.tv_nsec * 1e-6;
}

int main(int count, char **arguments) {
  if (count < 3) return 2;
  const double start = now();
  const pid_t child = fork();
  if (child < 0) return 1;
  if (child == 0) {
    const int input = open(arguments[1], O_RDONLY);
    const int nowhere = open("/dev/null", O_WRONLY);
    if (input < 0 || nowhere < 0) _exit(126);
    dup2(input, 0);
    dup2(nowhere, 1);
    dup2(nowhere, 2);
    execv(arguments[2], arguments + 2);
    _exit(127);
  }
  int status = 0;
  struct rusage used;
  if (wait4(child, &status, 0, &used) != child) return 1;
  printf("%.3f %ld\n", now() - start, used.ru_maxrss);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}
