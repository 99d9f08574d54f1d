/* What the extension's generated source includes before our headers: the KVM API, with what older headers lack. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Debian 12 has the header of Linux 6.1. */
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39 /* Linux 6.8 */
#endif
#ifndef KVM_EXIT_TDX
#define KVM_EXIT_TDX 40 /* Linux 6.16 */
#endif

/* Members of struct kvm_run's union that older headers lack. */
struct nv_exit_memory_fault {
	__u64 flags, gpa, size;
};

struct nv_exit_tdx {
	__u64 flags, nr, ret, data[5];
};

/* An ioctl's result, or its negative errno. */
static inline int nv_ioctl(int fd, unsigned long request, void *argument)
{
	int result = ioctl(fd, request, argument);

	return result < 0 ? -errno : result;
}

/* The same for an ioctl whose argument is a number. */
static inline int nv_ioctl_value(int fd, unsigned long request, unsigned long argument)
{
	int result = ioctl(fd, request, argument);

	return result < 0 ? -errno : result;
}
