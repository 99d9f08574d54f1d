/* Bytes on their way out of the guest: what the UART and the debug console share. */
#ifndef NV_OUTPUT_H
#define NV_OUTPUT_H

#include <stddef.h>
#include <stdint.h>

/* Writes to a file descriptor, waiting while nobody reads; -1 drops. Gives how many bytes were lost: after an error, or after a
 * signal, because a kick must end the run even when the reader never comes back. */
size_t nv_output(int fd, const uint8_t *bytes, size_t count);

#endif
