#include "bench.h"
#include "svm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

int nv_bench_bare(int fd, struct kvm_run *run, uint64_t exits, uint64_t *ticks)
{
	uint64_t start = __rdtsc();

	while (exits--) {
		if (ioctl(fd, KVM_RUN, 0))
			return -errno;
		if (run->exit_reason != KVM_EXIT_IO)
			return -EPROTO;
		((uint8_t *)run)[run->io.data_offset] = 0xff;
	}
	*ticks = __rdtsc() - start;
	return 0;
}

enum { EXIT_CPUID = 0x72, CPUID_LENGTH = 2, BASIC_CPUID = 10 };

int nv_bench_svm(int fd, struct kvm_run *run, struct nv_vmcb *block, uint64_t exits, uint64_t *ticks)
{
	uint64_t start = __rdtsc();

	while (exits--) {
		if (ioctl(fd, KVM_RUN, 0))
			return -errno;
		if (run->exit_reason != KVM_EXIT_IO || block->exit_code != EXIT_CPUID)
			return -EPROTO;
		block->rip += CPUID_LENGTH;
	}
	*ticks = __rdtsc() - start;
	return 0;
}

int nv_bench_vmx(int fd, struct kvm_run *run, uint64_t exits, uint64_t *ticks)
{
	uint64_t start = __rdtsc();
	struct kvm_regs regs;

	while (exits--) {
		if (ioctl(fd, KVM_RUN, 0) || ioctl(fd, KVM_GET_REGS, &regs))
			return -errno;
		if (run->exit_reason != KVM_EXIT_IO || regs.rbx != BASIC_CPUID)
			return -EPROTO;
	}
	*ticks = __rdtsc() - start;
	return 0;
}
