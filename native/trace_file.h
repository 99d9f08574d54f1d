/* The file of a trace, which is whole after each write whatever ends the process; or a pipe. */
#ifndef NV_TRACE_FILE_H
#define NV_TRACE_FILE_H

#include <stddef.h>
#include <stdint.h>

/* All of it at this place: 0 or -errno. A SIGKILL of this process comes before or after. */
int nv_trace_file_put(int fd, const char *bytes, size_t length, uint64_t offset);

/* All of it behind what was written before. */
int nv_trace_file_append(int fd, const char *bytes, size_t length);

#endif
