/* The yardstick of `nestvmm bench`: the least that a monitor can do to serve port reads. */
#ifndef NV_BENCH_H
#define NV_BENCH_H

#include <stdint.h>

struct kvm_run;

/* Runs a vCPU until it made this many port exits, answers each read of one byte with all ones, and gives the TSC ticks that passed.
 * Exits of another reason end it with -EPROTO, a signal with -EINTR. */
int nv_bench_bare(int fd, struct kvm_run *run, uint64_t exits, uint64_t *ticks);

#endif
