#define _GNU_SOURCE
#include "trace_file.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define STACK (16 * 1024)

int nv_trace_file_append(int fd, const char *bytes, size_t length)
{
	while (length) {
		ssize_t written = write(fd, bytes, length);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return written ? -errno : -EIO;
		bytes += written;
		length -= written;
	}
	return 0;
}

struct job {
	const char *bytes;
	size_t length;
	uint64_t offset;
	int fd;
	int result;
};

static int put(void *argument)
{
	struct job *job = argument;

	while (job->length) {
		ssize_t written = pwrite(job->fd, job->bytes, job->length, job->offset);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0) {
			job->result = written ? -errno : -EIO;
			break;
		}
		job->bytes += written;
		job->length -= written;
		job->offset += written;
	}
	return 0;
}

/* In a process of its own, which shares all memory and files with this one; no signal says that it has ended. */
static void put_apart(struct job *job)
{
	_Alignas(16) char stack[STACK];
	sigset_t all, before;
	int child;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	child = clone(put, stack + sizeof stack, CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_FS, job);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	while (child > 0 && waitpid(child, NULL, __WCLONE) < 0 && errno == EINTR)
		;
}

int nv_trace_file_put(int fd, const char *bytes, size_t length, uint64_t offset)
{
	struct job job = {.bytes = bytes, .length = length, .offset = offset, .fd = fd};

	/* the kernel looks for a SIGKILL before each page, and leaves a write unfinished then */
	if (offset / PAGE != (offset + length - 1) / PAGE)
		put_apart(&job);
	/* all of it where there can be no other process */
	if (!job.result)
		put(&job);
	return job.result;
}
