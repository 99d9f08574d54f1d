/* The yardstick of `nestvmm bench`: the least that a monitor can do to serve port reads. */
#ifndef NV_BENCH_H
#define NV_BENCH_H

#include <stdint.h>

struct kvm_run;
struct nv_vmcb;

/* Runs a vCPU until it made this many port exits, answers each read of one byte with all ones, and gives the TSC ticks that passed.
 * Exits of another reason end it with -EPROTO, a signal with -EINTR. */
int nv_bench_bare(int fd, struct kvm_run *run, uint64_t exits, uint64_t *ticks);

/* Runs a vCPU whose code is VMRUN and a doorbell in a loop until it rang this many times for CPUID, which it steps over. */
int nv_bench_svm(int fd, struct kvm_run *run, struct nv_vmcb *block, uint64_t exits, uint64_t *ticks);

/* Likewise, of VMRESUME: its code steps over the CPUID, and rings with the basic exit reason in RBX, which is read as registers are. */
int nv_bench_vmx(int fd, struct kvm_run *run, uint64_t exits, uint64_t *ticks);

#endif
