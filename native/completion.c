#define _GNU_SOURCE
#include "completion_state.h"
#include "registers.h"

#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define SHARED (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)

/* XCR0: x87 and SSE, AVX, AVX-512 */
#define X87_SSE 3ull
#define AVX 4ull
#define AVX512 0xe0ull

/* Offsets in an XSAVE area (AMD APM vol. 2, 11.5.2). */
#define AREA_FOP 6
#define AREA_FIP 8
#define AREA_FDP 16

static __thread struct nv_completion *current;
static pthread_once_t installed = PTHREAD_ONCE_INIT;
static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
static struct sigaction before[4];

/* Not ours: whoever had the signal before gets it, or the default ends the process when the instruction runs again. */
static void pass_on(int number, siginfo_t *info, void *context)
{
	for (size_t i = 0; i < 4; i++) {
		if (signals[i] != number)
			continue;
		if (before[i].sa_flags & SA_SIGINFO)
			before[i].sa_sigaction(number, info, context);
		else if (before[i].sa_handler != SIG_DFL && before[i].sa_handler != SIG_IGN)
			before[i].sa_handler(number);
		else
			signal(number, SIG_DFL);
	}
}

/* An exception in translated code: its call returns nonzero. The kernel restores the vector registers as they were. */
static void caught(int number, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
	uint64_t rip = (uint64_t)registers[REG_RIP];

	if (!current || !current->state->inside || rip < current->code_first || rip >= current->code_last) {
		pass_on(number, info, context);
		return;
	}
	current->state->trap = (int)registers[REG_TRAPNO];
	current->state->trap_error = (uint64_t)registers[REG_ERR];
	registers[REG_RSP] = (greg_t)current->host_stack;
	registers[REG_RIP] = (greg_t)nv_completion_recover;
}

static void install(void)
{
	struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};

	for (size_t i = 0; i < 4; i++)
		sigaction(signals[i], &action, &before[i]);
}

static uint64_t xcr0(void)
{
	uint32_t low, high;

	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}

/* Room for translated code, mapped twice: what can be written cannot be run. */
static int map_code(struct nv_completion *c, uint64_t size)
{
	int fd = memfd_create("nestvmm-completion", MFD_CLOEXEC), result = 0;
	void *run = MAP_FAILED;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size)) {
		result = -errno;
	} else {
		c->code = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		run = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
		if (c->code == MAP_FAILED || run == MAP_FAILED)
			result = -errno;
		if (c->code == MAP_FAILED)
			c->code = NULL;
		if (run != MAP_FAILED) {
			c->code_first = (uint64_t)run;
			c->code_last = c->code_first + size;
		}
	}
	close(fd);
	return result;
}

struct nv_completion *nv_completion_new(int fd, struct kvm_run *run, const int *kicked, const struct nv_slot *slots,
					uint32_t slot_count, uint32_t physical_bits, uint32_t xsave_size, uint64_t code_size)
{
	struct nv_completion *c = calloc(1, sizeof *c);
	struct nv_completion_state *state = aligned_alloc(64, (sizeof *state + 63) / 64 * 64);
	uint32_t area = (xsave_size + 63) / 64 * 64;
	int result = -ENOMEM;

	if (!c || !state) {
		free(state);
		free(c);
		errno = ENOMEM;
		return NULL;
	}
	memset(state, 0, sizeof *state);
	c->state = state;
	c->xsave_size = xsave_size;
	c->operations = calloc(NV_OPERATIONS, sizeof *c->operations);
	state->area = aligned_alloc(64, area);
	state->initial = aligned_alloc(64, area);
	if (c->operations && state->area && state->initial)
		result = map_code(c, code_size);
	if (result) {
		nv_completion_free(c);
		errno = -result;
		return NULL;
	}
	memset(state->area, 0, area);
	memset(state->initial, 0, area);
	state->fd = fd;
	state->kicked = kicked;
	state->run = run;
	/* an ioctl on a vCPU can cost as much as an exit */
	state->shares = (run->kvm_valid_regs & SHARED) == SHARED;
	state->supported = xcr0() & (X87_SSE | AVX | AVX512);
	nv_paging_init(&state->paging, slots, slot_count, physical_bits);
	pthread_once(&installed, install);
	return c;
}

void nv_completion_free(struct nv_completion *c)
{
	if (c->code)
		munmap(c->code, c->code_last - c->code_first);
	if (c->code_first)
		munmap((void *)c->code_first, c->code_last - c->code_first);
	free(c->state->initial);
	free(c->state->area);
	free(c->state);
	free(c->operations);
	free(c);
}

void nv_completion_clear(struct nv_completion *c)
{
	memset(c->operations, 0, NV_OPERATIONS * sizeof *c->operations);
}

void nv_completion_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t registers[4])
{
	memset(registers, 0, 4 * sizeof *registers);
	__get_cpuid_count(leaf, subleaf, &registers[0], &registers[1], &registers[2], &registers[3]);
}

static int kvm(struct nv_completion *c, unsigned long request, void *argument)
{
	return ioctl(c->state->fd, request, argument) < 0 ? -errno : 0;
}

static void take_segments(struct nv_completion *c)
{
	const struct kvm_sregs *sregs = &c->state->sregs;
	const struct kvm_segment *segments[] = {&sregs->es, &sregs->cs, &sregs->ss, &sregs->ds, &sregs->fs, &sregs->gs};

	for (size_t i = 0; i < 6; i++) {
		const struct kvm_segment *segment = segments[i];

		c->state->segment[i].base = c->mode == 64 && i < 4 ? 0 : segment->base;
		c->state->segment[i].limit = segment->limit;
		/* code for reading, or data that expands up and can be written */
		c->state->segment[i].usable = segment->present && !segment->unusable && segment->s &&
					      (segment->type & 8 ? i == 1 : (segment->type & 6) == 2);
	}
}

static void take_controls(struct nv_completion *c)
{
	struct nv_completion_state *state = c->state;
	uint64_t cr0 = state->sregs.cr0, cr4 = state->sregs.cr4;
	uint8_t *forbidden = state->forbidden;

	forbidden[NV_UNIT_X87] = cr0 & (CR0_EM | CR0_TS) ? NM : 0;
	forbidden[NV_UNIT_WAIT] = (cr0 & CR0_TS && cr0 & CR0_MP) ? NM : 0;
	forbidden[NV_UNIT_MMX] = cr0 & CR0_EM ? UD : cr0 & CR0_TS ? NM : 0;
	forbidden[NV_UNIT_SSE] = cr0 & CR0_EM || !(cr4 & CR4_OSFXSR) ? UD : cr0 & CR0_TS ? NM : 0;
	forbidden[NV_UNIT_AVX] = forbidden[NV_UNIT_AVX512] = UD;
}

/* From `run` if KVM left them there and nobody changed them since, or if KVM has yet to take them from there. */
static int take_registers(struct nv_completion *c)
{
	struct nv_completion_state *state = c->state;
	int fresh = state->shared && c->fresh, result = 0;

	if (fresh || state->run->kvm_dirty_regs & KVM_SYNC_X86_REGS)
		c->regs = state->run->s.regs.regs;
	else
		result = kvm(c, KVM_GET_REGS, &c->regs);
	if (fresh)
		state->sregs = state->run->s.regs.sregs;
	else if (!result)
		result = kvm(c, KVM_GET_SREGS, &state->sregs);
	return result;
}

static int give_registers(struct nv_completion *c)
{
	struct nv_completion_state *state = c->state;

	if (!state->shares)
		return kvm(c, KVM_SET_REGS, &c->regs);
	if (!state->shared)
		state->run->s.regs.sregs = state->sregs;
	state->run->s.regs.regs = c->regs;
	state->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	state->shared = 1;
	return 0;
}

/* Level n's state at the start of a run. */
static int begin(struct nv_completion *c)
{
	struct nv_completion_state *state = c->state;
	struct kvm_sregs *sregs = &state->sregs;
	int user, result = take_registers(c);

	if (result)
		return result;
	c->count = 0;
	c->runs++;
	state->have_vectors = state->vectors_changed = state->x87_pointers = 0;
	c->length = 0;
	if (c->regs.rflags & RFLAGS_VM || sregs->cr4 & (CR4_PKE | CR4_CET | CR4_PKS))
		return NV_COMPLETION_STATE;
	c->mode = sregs->efer & EFER_LMA && sregs->cs.l ? 64 : sregs->cs.db ? 32 : 16;
	user = sregs->cr0 & CR0_PE && (sregs->cs.selector & 3) == 3;
	take_segments(c);
	take_controls(c);
	nv_paging_flush(&state->paging);
	state->paging.cr0 = sregs->cr0;
	state->paging.cr3 = sregs->cr3;
	state->paging.cr4 = sregs->cr4;
	state->paging.efer = sregs->efer;
	state->paging.user = (uint8_t)user;
	state->paging.ac = !!(c->regs.rflags & RFLAGS_AC);
	/* a processor checks alignment at CPL 3 when this is set; this does not */
	if (user && c->regs.rflags & RFLAGS_AC && sregs->cr0 & 1 << 18)
		return NV_COMPLETION_STATE;
	return NV_COMPLETION_DONE;
}

static int fetch_vectors(struct nv_completion *c)
{
	struct nv_completion_state *state = c->state;
	int result = kvm(c, c->xsave_size > 4096 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, state->area);
	uint64_t enabled = X87_SSE;

	if (result)
		return result;
	if (state->sregs.cr4 & CR4_OSXSAVE) {
		struct kvm_xcrs xcrs;

		result = kvm(c, KVM_GET_XCRS, &xcrs);
		if (result)
			return result;
		for (uint32_t i = 0; i < xcrs.nr_xcrs; i++)
			if (!xcrs.xcrs[i].xcr)
				enabled |= xcrs.xcrs[i].value;
		if ((enabled & AVX) == AVX)
			state->forbidden[NV_UNIT_AVX] = state->sregs.cr0 & CR0_TS ? NM : 0;
		if ((enabled & (AVX | AVX512)) == (AVX | AVX512))
			state->forbidden[NV_UNIT_AVX512] = state->forbidden[NV_UNIT_AVX];
	}
	state->components = enabled & state->supported;
	state->have_vectors = 1;
	return 0;
}

/* What x87 keeps of its last instruction is the translated one's; processors that keep them only for pending
 * exceptions (AMD) have 0 there. */
static void mend_x87_pointers(struct nv_completion_state *state)
{
	uint64_t pointer;

	if (!state->x87_pointers)
		return;
	memcpy(&pointer, state->area + AREA_FIP, 8);
	if (pointer) {
		memcpy(state->area + AREA_FOP, &state->x87_opcode, 2);
		memcpy(state->area + AREA_FIP, &state->x87_instruction, 8);
		memcpy(state->area + AREA_FDP, &state->x87_operand, 8);
	}
}

/* A run that began behind STI or MOV SS is no longer there. */
static int end_shadow(struct nv_completion *c)
{
	struct nv_completion_state *state = c->state;
	struct kvm_vcpu_events events;
	int result;

	if (state->shared && c->fresh && !state->run->s.regs.events.interrupt.shadow)
		return 0;
	result = kvm(c, KVM_GET_VCPU_EVENTS, &events);

	if (result || !events.interrupt.shadow)
		return result;
	events.interrupt.shadow = 0;
	events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
	return kvm(c, KVM_SET_VCPU_EVENTS, &events);
}

/* Single step: the trap behind a completed instruction. */
static int trap_step(struct nv_completion *c)
{
	struct kvm_debugregs registers;
	int result = kvm(c, KVM_GET_DEBUGREGS, &registers);

	if (result)
		return result;
	registers.dr6 |= DR6_BS;
	result = kvm(c, KVM_SET_DEBUGREGS, &registers);
	if (result)
		return result;
	c->vector = DB;
	c->has_error = 0;
	return NV_COMPLETION_FAULT;
}

/* Level n's state after a run: `status`, or what became of it. */
static int end(struct nv_completion *c, int status)
{
	struct nv_completion_state *state = c->state;
	int result = 0;

	if (status == NV_COMPLETION_FAULT && !c->count && c->vector == NV_PF) {
		state->sregs.cr2 = c->cr2;
		result = kvm(c, KVM_SET_SREGS, &state->sregs);
	}
	if (!result && state->vectors_changed) {
		mend_x87_pointers(state);
		result = kvm(c, KVM_SET_XSAVE, state->area);
	}
	if (c->count)
		c->regs.rflags &= ~RFLAGS_RF;
	if (!result && c->count)
		result = end_shadow(c);
	if (!result)
		result = give_registers(c);
	if (result)
		return result;
	c->total += c->count;
	if (c->count && c->regs.rflags & RFLAGS_TF)
		return trap_step(c);
	/* what stopped a run behind its first instruction stops the next one, or KVM, at its first */
	return c->count ? NV_COMPLETION_DONE : status;
}

int nv_completion_run(struct nv_completion *c)
{
	struct nv_completion_state *state = c->state;
	uint32_t limit = c->limit;
	int status;

	if (!state->resumed) {
		status = begin(c);
		if (status)
			return status;
	}
	state->resumed = 0;
	if (c->regs.rflags & RFLAGS_TF)
		c->limit = 1;
	current = c;
	while ((status = nv_completion_loop(c)) == NV_WANT_VECTORS) {
		status = fetch_vectors(c);
		if (status)
			break;
	}
	current = NULL;
	c->limit = limit;
	if (status < 0)
		return status;
	if (status == NV_COMPLETION_DECODE) {
		state->resumed = 1;
		return status;
	}
	return end(c, status);
}
