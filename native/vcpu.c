#define _GNU_SOURCE
#include "vcpu.h"

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

static int own_thread(void)
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
static int take_kick(struct nv_vcpu *vcpu)
{
	if (vcpu->run && __atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_SEQ_CST))
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	/* most often there is none, and a load costs less than an exchange */
	return __atomic_load_n(&vcpu->kicked, __ATOMIC_SEQ_CST) && __atomic_exchange_n(&vcpu->kicked, 0, __ATOMIC_SEQ_CST);
}

static void set_turn(struct nv_vcpu *vcpu, uint16_t claim)
{
	const struct nv_claim *entry = &vcpu->table->claims[claim];

	/* levels above the one whose software it is do not see it */
	while (claim && entry->level >= vcpu->event.level) {
		claim = entry->next;
		entry = &vcpu->table->claims[claim];
	}
	vcpu->event.claim = claim;
	vcpu->event.slot = claim ? entry->slot : vcpu->event.reason;
	vcpu->event.handler = claim ? entry->level : 0;
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

int nv_vcpu_default(struct nv_vcpu *vcpu)
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

static inline int traced(const struct nv_vcpu *vcpu)
{
	return vcpu->trace.record != NULL;
}

static inline int enter(struct nv_vcpu *vcpu)
{
	if (traced(vcpu)) {
		vcpu->trace.entries++;
		vcpu->trace.entered = nv_ticks();
	}
	return vcpu->ops->enter(vcpu);
}

static inline void finish(struct nv_vcpu *vcpu)
{
	struct nv_event *event = &vcpu->event;
	uint64_t handled = 0, now;

	if (!vcpu->pending)
		return;
	if (traced(vcpu))
		handled = nv_ticks();
	vcpu->ops->complete(vcpu, event);
	vcpu->pending = 0;
	now = nv_ticks();
	nv_counter_add(&vcpu->counters[event->slot], now - event->ticks, event->served);
	if (!event->claim)
		nv_unclaimed_add(vcpu->unclaimed, event->reason, event->direction, event->qualifier);
	if (traced(vcpu))
		nv_trace_add(&vcpu->trace, event, handled, now);
}

void nv_vcpu_finish(struct nv_vcpu *vcpu)
{
	finish(vcpu);
}

/* KVM exits for an interrupt window where it can; KVM-PVM does not while other exits come first. */
static int window_open(const struct nv_vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;

	return run && run->request_interrupt_window && run->ready_for_interrupt_injection && run->if_flag;
}

/* One exit: 0 when it was served here, 1 when it is for Python, as every settled one is: changed registers wait for its end. */
static int dispatch(struct nv_vcpu *vcpu)
{
	int settled = vcpu->exited;
	struct nv_event *event = &vcpu->event;

	event->ticks = nv_ticks();
	event->level = vcpu->level;
	event->served = event->space = 0;
	event->fault = event->retry = 0;
	vcpu->exited = 0;
	vcpu->ops->decode(vcpu, event);
	vcpu->pending = 1;
	vcpu->exits++;
	if (traced(vcpu)) {
		vcpu->trace.rip = vcpu->ops->rip ? vcpu->ops->rip(vcpu) : 0;
		vcpu->trace.decoded = nv_ticks();
	}
	set_turn(vcpu, nv_table_lookup(vcpu->table, event));
	if (traced(vcpu))
		vcpu->trace.routed = nv_ticks();
	if (settled)
		return 1;
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
	result = enter(vcpu);
	vcpu->exited = !result;
	return result == -EINTR || result == -EAGAIN ? 0 : result;
}

int nv_vcpu_run(struct nv_vcpu *vcpu)
{
	int result;

	__atomic_store_n(&vcpu->thread, own_thread(), __ATOMIC_SEQ_CST);
	for (;;) {
		finish(vcpu);
		if (take_kick(vcpu)) {
			result = NV_RUN_KICKED;
			break;
		}
		if (traced(vcpu) && nv_trace_waits(&vcpu->trace)) {
			result = NV_RUN_DRAIN;
			break;
		}
		if (window_open(vcpu)) {
			result = NV_RUN_WINDOW;
			break;
		}
		result = vcpu->exited ? 0 : enter(vcpu);
		if (result < 0) {
			if (result == -EINTR || result == -EAGAIN)
				continue;
			break;
		}
		if (result)
			break;
		if (dispatch(vcpu)) {
			result = NV_RUN_EVENT;
			break;
		}
	}
	return result;
}
