#define _GNU_SOURCE
#include "vcpu.h"
#include "likely.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

uint64_t nv_ticks(void)
{
	return __rdtsc();
}

static void interrupted(int signal)
{
	(void)signal;
}

/* SIGRTMIN belongs to whoever embeds us; the one after it is rarely taken. */
static int kick_signal(void)
{
	return SIGRTMIN + 1;
}

/* The calling thread's id: asked for once, because a system call costs as much as the rest of a run's start. */
static __thread int thread_id;

static void forget_thread_id(void)
{
	thread_id = 0;
}

static __attribute__((noinline)) int own_thread(void)
{
	if (!thread_id)
		thread_id = syscall(SYS_gettid);
	return thread_id;
}

int nv_kick_init(void)
{
	/* no SA_RESTART: KVM_RUN and a blocked write must come back */
	struct sigaction action = {.sa_handler = interrupted};
	static int forks_forget;

	if (!forks_forget)
		forks_forget = !pthread_atfork(NULL, NULL, forget_thread_id);
	return sigaction(kick_signal(), &action, NULL) ? -errno : 0;
}

void nv_vcpu_init(struct nv_vcpu *vcpu, const struct nv_engine_ops *ops, uint8_t level)
{
	memset(vcpu, 0, sizeof *vcpu);
	vcpu->ops = ops;
	vcpu->level = level;
}

void nv_vcpu_kick(struct nv_vcpu *vcpu)
{
	int thread;

	__atomic_store_n(&vcpu->kicked, 1, __ATOMIC_SEQ_CST);
	if (vcpu->run)
		__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	thread = __atomic_load_n(&vcpu->thread, __ATOMIC_SEQ_CST);
	if (thread)
		syscall(SYS_tgkill, getpid(), thread, kick_signal());
}

/* Takes a kick, if there is one. immediate_exit goes first, kick or not: nv_vcpu_kick sets it last, so it may belong to a kick
 * that was taken already, and would then end every entry; one that comes in between has set the flag. */
static __attribute__((noinline)) int take_kick(struct nv_vcpu *vcpu)
{
	if (vcpu->run && __atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_SEQ_CST))
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	return __atomic_exchange_n(&vcpu->kicked, 0, __ATOMIC_SEQ_CST);
}

static inline void set_turn(struct nv_vcpu *vcpu, uint16_t claim)
{
	const struct nv_claim *claims = vcpu->table->claims;
	struct nv_event *event = &vcpu->event;

	/* levels above the one whose software it is do not see it */
	while (claim && unlikely(claims[claim].level >= event->level))
		claim = claims[claim].next;
	event->claim = claim;
	event->slot = claim ? claims[claim].slot : event->reason;
	event->handler = claim ? claims[claim].level : 0;
}

uint16_t nv_vcpu_decline(struct nv_vcpu *vcpu)
{
	set_turn(vcpu, vcpu->table->claims[vcpu->event.claim].next);
	return vcpu->event.claim;
}

static inline int serve(struct nv_vcpu *vcpu)
{
	struct nv_event *event = &vcpu->event;

	while (event->claim) {
		const struct nv_claim *claim = &vcpu->table->claims[event->claim];
		const struct nv_server *server;

		if (!claim->server)
			return 0;
		server = &vcpu->table->servers[claim->server];
		if (server->serve(server->device, event->qualifier - server->base, event) == NV_HANDLED)
			return 1;
		nv_vcpu_decline(vcpu);
	}
	return 0;
}

int nv_vcpu_serve(struct nv_vcpu *vcpu)
{
	return serve(vcpu);
}

__attribute__((noinline)) int nv_vcpu_default(struct nv_vcpu *vcpu)
{
	struct nv_event *event = &vcpu->event;

	switch (event->reason) {
	case NV_REASON_IO:
	case NV_REASON_MMIO:
		/* what a bus without a device answers */
		if (event->direction == NV_WRITE)
			return 1;
		event->value = event->size < 8 ? (1ull << 8 * event->size) - 1 : ~0ull;
		if (event->count != 1)
			memset(event->data, 0xff, (size_t)event->size * event->count);
		return 1;
	case NV_REASON_RDMSR:
	case NV_REASON_WRMSR:
		event->fault = 1;
		return 1;
	default:
		return 0;
	}
}

/* Tracing begins and ends between runs: `traced` is a constant in each of the loop's two copies. */
static inline int traced(const struct nv_vcpu *vcpu)
{
	return vcpu->trace.record != NULL;
}

static inline int enter(struct nv_vcpu *vcpu, int traced)
{
	if (traced) {
		vcpu->trace.entries++;
		vcpu->trace.entered = nv_ticks();
	}
	return vcpu->ops->enter(vcpu);
}

static inline void finish(struct nv_vcpu *vcpu, int traced)
{
	struct nv_event *event = &vcpu->event;
	uint64_t handled = traced ? nv_ticks() : 0, now;

	vcpu->ops->complete(vcpu, event);
	now = nv_ticks();
	nv_counter_add(&vcpu->counters[event->slot], now - event->ticks, event->served);
	if (unlikely(!event->claim))
		nv_unclaimed_add(vcpu->unclaimed, event->reason, event->direction, event->qualifier);
	if (traced)
		nv_trace_add(&vcpu->trace, event, handled, now);
}

__attribute__((noinline)) void nv_vcpu_finish(struct nv_vcpu *vcpu)
{
	if (!vcpu->pending)
		return;
	finish(vcpu, traced(vcpu));
	vcpu->pending = 0;
}

/* KVM exits for an interrupt window where it can; KVM-PVM does not while other exits come first. */
static int window_open(const struct kvm_run *run)
{
	return run && run->request_interrupt_window && run->ready_for_interrupt_injection && run->if_flag;
}

/* Somebody wants something between two entries; take_kick and window_open say what. */
static inline int disturbed(const struct nv_vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;

	return __atomic_load_n(&vcpu->kicked, __ATOMIC_SEQ_CST) ||
	       (run && (run->request_interrupt_window | __atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST)));
}

/* One exit: 0 when it was served here, 1 when it is for Python, as every settled one is: changed registers wait for its end. */
static inline int dispatch(struct nv_vcpu *vcpu, int traced)
{
	struct nv_event *event = &vcpu->event;

	event->ticks = nv_ticks();
	event->level = vcpu->level;
	event->instruction_length = 0;
	event->length = event->space = event->advance = event->fault = event->retry = event->served = event->handler = 0;
	vcpu->ops->decode(vcpu, event);
	vcpu->exits++;
	if (traced) {
		vcpu->trace.rip = vcpu->ops->rip ? vcpu->ops->rip(vcpu) : 0;
		vcpu->trace.decoded = nv_ticks();
	}
	set_turn(vcpu, nv_table_lookup(vcpu->table, event));
	if (traced)
		vcpu->trace.routed = nv_ticks();
	if (unlikely(vcpu->exited)) {
		vcpu->exited = 0;
		return 1;
	}
	if (serve(vcpu) || (!event->claim && !vcpu->strict && nv_vcpu_default(vcpu))) {
		event->served = 1;
		return 0;
	}
	return 1;
}

int nv_vcpu_settle(struct nv_vcpu *vcpu)
{
	int result;

	nv_vcpu_finish(vcpu);
	if (vcpu->run)
		__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	result = enter(vcpu, traced(vcpu));
	vcpu->exited = !result;
	return result == -EINTR || result == -EAGAIN ? 0 : result;
}

static inline __attribute__((always_inline)) int run(struct nv_vcpu *vcpu, const int traced)
{
	nv_vcpu_finish(vcpu);
	for (;;) {
		int wanted = disturbed(vcpu);

		if (unlikely(wanted) && take_kick(vcpu))
			return NV_RUN_KICKED;
		if (traced && nv_trace_waits(&vcpu->trace))
			return NV_RUN_DRAIN;
		if (unlikely(wanted) && window_open(vcpu->run))
			return NV_RUN_WINDOW;
		if (likely(!vcpu->exited)) {
			int result = enter(vcpu, traced);

			if (unlikely(result)) {
				if (result == -EINTR || result == -EAGAIN)
					continue;
				return result;
			}
		}
		if (dispatch(vcpu, traced)) {
			vcpu->pending = 1;
			return NV_RUN_EVENT;
		}
		finish(vcpu, traced);
	}
}

/* The parts of the way of an exit that C serves are functions of several files: all of it is one here. */
__attribute__((flatten)) int nv_vcpu_run(struct nv_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->thread, own_thread(), __ATOMIC_SEQ_CST);
	return traced(vcpu) ? run(vcpu, 1) : run(vcpu, 0);
}
