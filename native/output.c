#include "output.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

/* Whoever shares a terminal or a pipe with us may have made it non-blocking. */
static int writable(int fd)
{
	struct pollfd poller = {.fd = fd, .events = POLLOUT};

	return poll(&poller, 1, -1) > 0;
}

size_t nv_output(int fd, const uint8_t *bytes, size_t count)
{
	while (fd >= 0 && count) {
		ssize_t written = write(fd, bytes, count);

		if (written > 0) {
			bytes += written;
			count -= written;
		} else if (!(written < 0 && errno == EAGAIN && writable(fd))) {
			return count;
		}
	}
	return 0;
}
