#include "nested_svm_internal.h"
#include "svm_rules.h"

#include <stddef.h>
#include <string.h>

#define DR7_OFF 0x400
#define RFLAGS_RESERVED 2ull
#define POINTER_RESERVED 0xfff00000000001e6ull /* AMD APM vol. 2, figure 5-10 */
#define CLEAN_STATE (1u << 5 | 1u << 7 | 1u << 8) /* of the clean bits: control registers, descriptor tables, segments */

/* The state that VMRUN loads of a block and #VMEXIT stores in it. RAX, RSP, RIP and RFLAGS are in the mailbox meanwhile. */
static void copy_state(struct nv_vmcb *to, const struct nv_vmcb *from)
{
	to->es = from->es;
	to->cs = from->cs;
	to->ss = from->ss;
	to->ds = from->ds;
	to->gdtr = from->gdtr;
	to->idtr = from->idtr;
	to->cpl = from->cpl;
	to->efer = from->efer;
	to->cr4 = from->cr4;
	to->cr3 = from->cr3;
	to->cr0 = from->cr0;
	to->dr7 = from->dr7;
	to->dr6 = from->dr6;
	to->cr2 = from->cr2;
}

static void save_host(struct nv_nested *nested, struct nv_machine *machine, uint64_t next_rip)
{
	const struct nv_vmcb *block = nested->svm->block;

	machine->host = (struct nv_nested_host){
		.es = block->es, .cs = block->cs, .ss = block->ss, .ds = block->ds, .gdtr = block->gdtr, .idtr = block->idtr,
		.efer = block->efer, .cr0 = block->cr0, .cr3 = block->cr3, .cr4 = block->cr4, .pat = block->guest_pat,
		.rflags = *register_of(nested->svm, NV_REG_RFLAGS) & ~RFLAGS_RF, /* as behind each instruction */
		.rip = next_rip,
		.rsp = *register_of(nested->svm, NV_REG_RSP),
		.rax = *register_of(nested->svm, NV_REG_RAX),
	};
}

/* AMD APM vol. 2, 15.6. */
static void load_host(struct nv_nested *nested, const struct nv_machine *machine)
{
	const struct nv_nested_host *host = &machine->host;
	struct nv_vmcb *block = nested->svm->block;

	block->es = host->es;
	block->cs = host->cs;
	block->ss = host->ss;
	block->ds = host->ds;
	block->gdtr = host->gdtr;
	block->idtr = host->idtr;
	block->efer = host->efer;
	block->cr0 = host->cr0 | CR0_PE;
	block->cr3 = host->cr3;
	block->cr4 = host->cr4;
	block->dr7 = DR7_OFF;
	block->cpl = 0;
	block->interrupt_shadow = 0;
	*register_of(nested->svm, NV_REG_RFLAGS) = host->rflags | RFLAGS_RESERVED;
	*register_of(nested->svm, NV_REG_RIP) = host->rip;
	*register_of(nested->svm, NV_REG_RSP) = host->rsp;
	*register_of(nested->svm, NV_REG_RAX) = host->rax;
}

void nv_nested_activate(struct nv_nested *nested, struct nv_machine *machine)
{
	uint64_t *task_priority = &nested->svm->block->virtual_interrupt;
	const struct nv_machine *has;

	nested->active = machine;
	nested->vcpu->level = nested->levels[machine->depth];
	has = nv_nested_prioritizes(nested);
	if (!has)
		has = machine->parent;
	*task_priority = has ? has->guest.virtual_interrupt & V_TPR : 0;
}

static void set_priority(struct nv_machine *machine, uint64_t priority)
{
	machine->guest.virtual_interrupt = (machine->guest.virtual_interrupt & ~V_TPR) | priority;
}

/* The active machine stops for an exit of `to`'s guest: what it has done to CR8. A write is one to its own V_TPR, too (15.21.2). */
static void keep_priority(struct nv_nested *nested, struct nv_machine *to)
{
	struct nv_machine *has = nv_nested_prioritizes(nested);
	uint64_t priority = nested->svm->block->virtual_interrupt & V_TPR;
	int written = !has || priority != (has->guest.virtual_interrupt & V_TPR);

	if (has)
		set_priority(has, priority);
	if (nested->active->parent == to && written)
		set_priority(to, priority);
}

/* Where a processor starts after a reset (AMD APM vol. 2, table 14-1). */
static int is_at_reset(const struct nv_vmcb *block)
{
	return block->rip == 0xfff0 && block->cs.selector == 0xf000 && !(block->cr0 & CR0_PE) && !block->cr4 && block->efer == EFER_SVME;
}

/* Whether the hypervisor has begun anew with the block, not gone on with the guest that it was told of. It says itself what it has left alone:
 * nothing of registers and segments, if it uses clean bits (15.15.3). That, and that it has done no task switch, which changes as much,
 * leaves such that have. */
static int is_another(const struct nv_machine *machine, const struct nv_vmcb *block)
{
	if (block->clean & CLEAN_STATE || machine->seen_rip == block->rip)
		return 0;
	if (is_at_reset(block))
		return 1;
	return machine->seen_code != EXIT_TASK_SWITCH && machine->seen_rsp != block->rsp && machine->seen_cr3 != block->cr3;
}

/* Whether the hypervisor has done the instruction that its guest's exit was of. What came from outside was none, and none is behind its guest
 * that takes the interrupt or exception which it is for. */
static int did_instruction(const struct nv_machine *machine, const struct nv_vmcb *block)
{
	uint64_t event = block->event_injection;
	int none = (machine->seen_code >= EXIT_INTR && machine->seen_code <= EXIT_VINTR) || machine->seen_code == EXIT_SHUTDOWN ||
		   machine->seen_code == EXIT_INVALID;

	return machine->used && machine->seen_rip != block->rip && !none && !(event & EVENT_VALID && is_soft(event));
}

static void load_guest(struct nv_nested *nested, const struct nv_machine *parent, const struct nv_machine *machine)
{
	const struct nv_vmcb *from = &parent->guest;
	struct nv_vmcb *block = nested->svm->block;
	uint64_t rflags = from->rflags | RFLAGS_RESERVED;

	/* of a guest that runs one the parent was told another RFLAGS.IF: it changes only if the parent changed that */
	if (machine->child && !!(rflags & RFLAGS_IF) == machine->shown_flag)
		rflags = (rflags & ~RFLAGS_IF) | (machine->true_flag ? RFLAGS_IF : 0);
	copy_state(block, from);
	/* real mode and virtual 8086 mode have their own (15.5.1); the field is a byte, the processor's CPL two bits */
	block->cpl = !(block->cr0 & CR0_PE) ? 0 : rflags & RFLAGS_VM ? 3 : from->cpl & 3;
	if (from->nested_paging & NESTED_PAGING)
		block->guest_pat = from->guest_pat;
	block->interrupt_shadow = from->interrupt_shadow & SHADOWED;
	*register_of(nested->svm, NV_REG_RFLAGS) = rflags;
	*register_of(nested->svm, NV_REG_RIP) = from->rip;
	*register_of(nested->svm, NV_REG_RSP) = from->rsp;
	*register_of(nested->svm, NV_REG_RAX) = from->rax;
}

/* The event that the parent injects, at the machine that it runs. A software interrupt returns to the saved next RIP, which is offered
 * whether the processor has it or not. */
static void inject(struct nv_nested *nested, struct nv_machine *machine, uint64_t event, uint64_t next_rip)
{
	struct nv_svm *svm = nested->svm;

	machine->soft_next = 0;
	if (!(event & EVENT_VALID) || nv_nested_tell(nested, machine, event))
		return;
	svm->injection = event;
	svm->blocks_no_nmi = EVENT_KIND_OF(event) == NV_EVENT_NMI;
	svm->soft_injected = is_soft(event);
	svm->soft_rip = *register_of(svm, NV_REG_RIP);
	if (!is_soft(event) || !next_rip)
		return;
	if (svm->saves_next_rip) {
		svm->block->next_rip = next_rip;
		return;
	}
	machine->soft_next = next_rip;
	*register_of(svm, NV_REG_RIP) = next_rip;
}

/* An event for a machine that runs a guest: its block may want it. */
static void inject_below(struct nv_nested *nested, struct nv_machine *machine, uint64_t event)
{
	struct nv_svm *svm = nested->svm;
	uint64_t code = EXIT_EXCEPTION + EVENT_VECTOR(event);
	struct nv_machine *owner;

	if (!(event & EVENT_VALID))
		return;
	if (EVENT_KIND_OF(event) == NV_EVENT_INTERRUPT || EVENT_KIND_OF(event) == NV_EVENT_NMI) {
		machine->held = event;
		return;
	}
	owner = EVENT_KIND_OF(event) == NV_EVENT_EXCEPTION ? nv_nested_owner(nested, code, 0) : NULL;
	if (owner && owner->depth >= machine->depth)
		nv_nested_owe(nested, owner, &(struct nv_nested_exit){code, event >> 32, svm->block->cr2, 0});
	else
		svm->injection = event;
}

/* All that the machine's guests need, when the chain goes on above it. */
static void resume_chain(struct nv_nested *nested, struct nv_machine *machine)
{
	struct nv_nested_place place;

	for (; machine->child; machine = machine->child) {
		nv_nested_compose_maps(nested, machine, &place);
		nv_nested_use_tables(nested, machine->child, 0);
	}
	nv_nested_activate(nested, machine);
	nested->svm->interrupted = machine->resumed;
	machine->resumed = 0;
}

/* What the hypervisor's answer to a write to EFER was: an exception, or none. */
static void conclude_efer(struct nv_machine *machine, const struct nv_vmcb *block)
{
	if (!machine->asked)
		return;
	machine->asked = 0;
	if (!(block->event_injection & EVENT_VALID && EVENT_KIND_OF(block->event_injection) == NV_EVENT_EXCEPTION))
		machine->svme = machine->asked_svme;
}

/* As the block says it is, or else as the machine has left it: one that has no SVM of L0's cannot have cleared it. */
static void set_gif(const struct nv_nested *nested, struct nv_machine *machine, uint64_t field)
{
	if (machine->child)
		return;
	if (field & V_GIF_ENABLE)
		machine->gif = !!(field & V_GIF);
	else if (!machine->svme || nests_by_itself(nested, machine))
		machine->gif = 1;
}

static void refuse(struct nv_nested *nested, struct nv_vmcb *block, uint64_t next_rip)
{
	block->exit_code = EXIT_INVALID;
	block->exit_info_1 = block->exit_info_2 = block->exit_interrupt_info = 0;
	nested->active->gif = 0;
	nested->svm->block->dr7 = DR7_OFF;
	nested->svm->block->interrupt_shadow &= ~SHADOWED;
	*register_of(nested->svm, NV_REG_RFLAGS) &= ~RFLAGS_RF;
	*register_of(nested->svm, NV_REG_RIP) = next_rip;
	nv_svm_trap(nested->svm);
}

/* Nested paging is for hypervisors that have paging themselves (15.25.3). */
static int is_nested_unpaged(const struct nv_nested *nested, const struct nv_machine *machine)
{
	return machine->guest.nested_paging & NESTED_PAGING && !(nested->svm->block->cr0 & CR0_PG);
}

/* The page-directory pointers of PAE, which VMRUN reads where there is no nested paging (15.5.1): whether one of them has reserved bits.
 * Where they cannot be read `place` says why; what is in no memory are ones. */
static int has_bad_pointers(struct nv_nested *nested, struct nv_machine *machine, struct nv_nested_place *place)
{
	const struct nv_vmcb *guest = &machine->guest;
	uint64_t reserved = POINTER_RESERVED | nested->svm->limits.physical_reserved;
	const uint8_t *page;

	if (guest->nested_paging & NESTED_PAGING || !(guest->cr0 & CR0_PG) || !(guest->cr4 & CR4_PAE) || guest->efer & EFER_LME)
		return 0;
	*place = (struct nv_nested_place){0};
	page = nv_nested_page(nested, machine, guest->cr3 & 0xffffffe0, 0, place);
	for (int i = 0; page && i < 4; i++) {
		uint64_t pointer;

		memcpy(&pointer, page + 8 * i, sizeof pointer);
		if (pointer & 1 && pointer & reserved)
			return 1;
	}
	return !page;
}

void nv_nested_run(struct nv_nested *nested, struct nv_vmcb *block, uint64_t address, uint64_t next_rip)
{
	struct nv_machine *parent = nested->active, *machine;
	struct nv_nested_place place;
	int another, behind;

	memcpy(&parent->guest, block, sizeof parent->guest);
	if (!nv_svm_valid(&nested->svm->limits, &parent->guest) || is_nested_unpaged(nested, parent)) {
		nested->entered[parent->depth]++;
		refuse(nested, block, next_rip);
		return;
	}
	if (has_bad_pointers(nested, parent, &place)) {
		if (nv_nested_refused(nested, &place, NPF_FINAL))
			return; /* and VMRUN happens again */
		nested->entered[parent->depth]++;
		refuse(nested, block, next_rip);
		return;
	}
	/* a machine below that does not let the parent reach a permissions map of its block hears of it, and VMRUN happens again */
	if (nv_nested_compose_maps(nested, parent, &place) && nv_nested_refused(nested, &place, NPF_FINAL))
		return;
	machine = parent->depth + 1 < NV_NESTED_DEPTH ? nv_nested_take_guest(nested, parent, address) : NULL;
	if (!machine) {
		nested->too_deep = 1;
		return;
	}
	nested->entered[parent->depth]++;
	another = is_another(machine, &parent->guest);
	if (another && (machine->child || is_at_reset(&parent->guest)))
		nv_nested_restart(machine);
	behind = !another && did_instruction(machine, &parent->guest);
	machine->used = ++nested->clock;
	conclude_efer(machine, &parent->guest);
	set_gif(nested, machine, parent->guest.virtual_interrupt);
	parent->pauses = parent->guest.pause_filter_count;
	if (nests_by_itself(nested, machine))
		machine->svme = 1; /* as the block's EFER says */
	save_host(nested, parent, next_rip);
	parent->child = machine;
	parent->gif = 1;
	nv_nested_use_tables(nested, machine, 1);
	load_guest(nested, parent, machine);
	resume_chain(nested, machine);
	if (nested->active != machine)
		inject_below(nested, machine, parent->guest.event_injection);
	else
		inject(nested, machine, parent->guest.event_injection, parent->guest.next_rip);
	/* levels below the hypervisor see what it does itself */
	nested->svm->switched.stepped = behind && nv_svm_steps(nested->svm, nested->levels[parent->depth]);
}

/* What its parent is told of the state of a machine that runs a guest: that guest's, but whether the machine takes interrupts. */
static void show_flag(struct nv_nested *nested, struct nv_machine *machine)
{
	uint64_t *rflags = register_of(nested->svm, NV_REG_RFLAGS);
	struct nv_nested_route route = nv_nested_route(nested, machine, 0);

	machine->true_flag = !!(*rflags & RFLAGS_IF);
	machine->shown_flag = route.masked ? route.turn != NV_TURN_BLOCKED : machine->true_flag;
	*rflags = (*rflags & ~RFLAGS_IF) | (machine->shown_flag ? RFLAGS_IF : 0);
}

static void store_guest(struct nv_nested *nested, const struct nv_machine *to, struct nv_machine *machine, struct nv_vmcb *block,
			uint64_t code)
{
	const struct nv_vmcb *from = nested->svm->block;

	copy_state(block, from);
	if (to->guest.nested_paging & NESTED_PAGING)
		block->guest_pat = from->guest_pat;
	block->rflags = *register_of(nested->svm, NV_REG_RFLAGS);
	block->rip = machine->seen_rip = *register_of(nested->svm, NV_REG_RIP);
	block->rsp = machine->seen_rsp = *register_of(nested->svm, NV_REG_RSP);
	block->rax = *register_of(nested->svm, NV_REG_RAX);
	block->interrupt_shadow = from->interrupt_shadow & SHADOWED;
	machine->seen_cr3 = from->cr3;
	machine->seen_code = code;
}

void nv_nested_reflect(struct nv_nested *nested, struct nv_machine *to, const struct nv_nested_exit *exit)
{
	struct nv_svm *svm = nested->svm;
	struct nv_machine *machine = to->child, *active = nested->active;
	struct nv_nested_place place;
	struct nv_vmcb *block = (struct nv_vmcb *)nv_nested_page(nested, to, machine->address, 1, &place);

	if (!block) {
		/* a machine below gives it back, and the active one comes to the exit again */
		if (!nv_nested_refused(nested, &place, NPF_FINAL))
			nested->lost = 1;
		return;
	}
	block->next_rip = exit->next_rip;
	keep_priority(nested, to);
	if (machine == active) {
		block->exit_interrupt_info = svm->vectoring;
		if (machine->soft_next && svm->soft_injected) {
			/* where it would be on a processor that saves the next RIP */
			*register_of(svm, NV_REG_RIP) = svm->soft_rip;
			block->next_rip = machine->soft_next;
		}
	} else {
		block->exit_interrupt_info = 0;
		active->resumed = svm->interrupted;
		show_flag(nested, machine);
	}
	nv_nested_tell_bytes(nested, machine == active ? exit->code : 0, exit->info_1, block);
	if (to->guest.virtual_interrupt & V_GIF_ENABLE)
		to->guest.virtual_interrupt = (to->guest.virtual_interrupt & ~V_GIF) | (machine->gif ? V_GIF : 0);
	store_guest(nested, to, machine, block, exit->code);
	block->exit_code = exit->code;
	block->exit_info_1 = exit->info_1;
	block->exit_info_2 = exit->info_2;
	block->virtual_interrupt = to->guest.virtual_interrupt;
	block->event_injection = to->guest.event_injection & ~EVENT_VALID;
	if (exit->code == EXIT_SHUTDOWN)
		nv_nested_restart(machine); /* its state is undefined (15.14.3) */
	to->child = NULL;
	to->gif = 0;
	svm->injection = svm->interrupted = svm->vectoring = 0;
	svm->soft_injected = svm->blocks_no_nmi = 0;
	svm->switched.stepped = svm->switched.faulted = 0;
	if (to->guest.nested_paging & NESTED_PAGING || machine != active)
		svm->block->guest_pat = to->host.pat; /* else its guest has had the same one (15.25.8) */
	load_host(nested, to);
	nested->reflected[to->depth]++;
	nested->ahead.armed = 1;
	nv_nested_activate(nested, to);
	nv_svm_trap(svm); /* VMRUN is one instruction (15.5.1) */
}
