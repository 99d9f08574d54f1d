#include "nested_vmx_internal.h"

#include <errno.h>
#include <string.h>

/* What is read of the processor's state at an entry. */
enum { NOW_EFER, NOW_CR0, NOW_CR4 };

#define EVENT_FIELDS 0xfffull  /* of interruption information: what is an event, without its valid bit */

/* The memory of a block in use is gone. A machine or Python level below may give it back: then the active machine comes to its exit, or
 * entry, again. An exit that the table has counted is the last one of the machine whose block it is, else. */
static int lose(struct nv_nested *nested, const struct nv_machine *of, const struct nv_nested_place *place, int heard)
{
	int result = nv_nested_vmx_refused(nested, place, heard);

	if (!result) {
		nested->lost = 1;
		nested->reflected[of->depth] += heard;
	}
	return result < 0 ? result : 0;
}

/* The machine goes on behind its guest's exit (28.5, 28.6): a VMX-abort indicator, 0: it does; a negative errno. */
static int come_back(struct nv_nested *nested, struct nv_machine *to, uint64_t efer, int nmi_masked, const uint64_t *real)
{
	const struct nv_virtual_vmcs *block = &to->vmx.block;
	int indicator = nv_nested_vmx_load_host(nested, to, efer, nmi_masked, real);
	int64_t failed;

	nv_nested_vmx_activate(nested, to, field_of(block, NV_VMCS_HOST_CR0), field_of(block, NV_VMCS_HOST_CR4));
	failed = nv_nested_vmx_load_msrs(nested, to, field_of(block, NV_VMCS_EXIT_MSR_LOADS), field_of(block, NV_VMCS_EXIT_MSR_LOAD_COUNT));
	if (failed < 0)
		return failed;
	return indicator ? indicator : failed ? ABORT_LOADING : 0;
}

/* A VMX abort (28.7) is the end of the machine. What the region has there without one is anything's. */
static int ended(struct nv_nested *nested, struct nv_virtual_vmcs *page, int indicator)
{
	if (indicator) {
		page->abort = indicator;
		nested->vmx->synthetic = NV_REASON_SHUTDOWN;
	}
	return 0;
}

/* An entry that failed when the guest's state was to be loaded, and is an exit (27.8). */
static int fail_late(struct nv_nested *nested, struct nv_machine *parent, const struct nv_vmx_field *now, uint64_t reason, uint64_t qualification)
{
	const uint64_t real[] = {now[NOW_CR0].value, now[NOW_CR4].value};
	struct nv_nested_place place;
	struct nv_virtual_vmcs *page = (struct nv_virtual_vmcs *)nv_nested_page(nested, parent, parent->vmx.current, 1, &place);
	int indicator;

	if (!page)
		return lose(nested, parent, &place, 0);
	set_field(page, NV_VMCS_EXIT_REASON, reason | ENTRY_FAILED);
	set_field(page, NV_VMCS_EXIT_QUALIFICATION, qualification);
	indicator = come_back(nested, parent, now[NOW_EFER].value, parent->vmx.nmi_masked, real);
	return indicator < 0 ? indicator : ended(nested, page, indicator);
}

/* The event that the parent injects, at the machine that it runs. */
static void inject(struct nv_vmx *vmx, const struct nv_virtual_vmcs *block)
{
	uint64_t event = field_of(block, NV_VMCS_ENTRY_INTERRUPTION);

	if (!(event & EVENT_VALID))
		return;
	vmx->injection = event & (EVENT_VALID | EVENT_FIELDS);
	vmx->injection_error = field_of(block, NV_VMCS_ENTRY_ERROR_CODE);
	vmx->injection_length = field_of(block, NV_VMCS_ENTRY_LENGTH);
}

/* An event for a machine that runs a guest: its block may want it. */
static int inject_below(struct nv_nested *nested, struct nv_machine *machine, const struct nv_virtual_vmcs *block)
{
	uint64_t event = field_of(block, NV_VMCS_ENTRY_INTERRUPTION), error = field_of(block, NV_VMCS_ENTRY_ERROR_CODE);

	if (!(event & EVENT_VALID))
		return 0;
	if (EVENT_KIND_OF(event) == NV_EVENT_INTERRUPT || EVENT_KIND_OF(event) == NV_EVENT_NMI) {
		machine->held = event;
		return 0;
	}
	for (struct nv_machine *owner = nested->active->parent; owner && owner->depth >= machine->depth; owner = owner->parent)
		if (EVENT_KIND_OF(event) == NV_EVENT_EXCEPTION && nv_nested_vmx_wants_exception(owner, EVENT_VECTOR(event), error))
			return nv_nested_vmx_reflect(nested, owner,
						     &(struct nv_nested_vmx_exit){.reason = BASIC_EXCEPTION, .interruption = event,
										  .error_code = error});
	inject(nested->vmx, block);
	return 0;
}

/* Where a processor starts after a reset (table 9-1). */
static int is_at_reset(const struct nv_virtual_vmcs *block)
{
	return field_of(block, NV_VMCS_GUEST_RIP) == 0xfff0 && field_of(block, NV_VMCS_GUEST_CS) == 0xf000 &&
	       !(field_of(block, NV_VMCS_GUEST_CR0) & CR0_PE);
}

/* Whether the hypervisor has begun anew with the block, not gone on with the guest that it was told of. Then VMWRITE has set what none has to
 * set who goes on; unless that one always does, or has done a task switch. */
static int is_another(const struct nv_machine *machine, const struct nv_virtual_vmcs *block)
{
	if (block->written != NV_WRITTEN_ALL || machine->seen_rip == field_of(block, NV_VMCS_GUEST_RIP))
		return 0;
	if (is_at_reset(block))
		return 1;
	return machine->seen_code != BASIC_TASK_SWITCH && machine->seen_rsp != field_of(block, NV_VMCS_GUEST_RSP) &&
	       machine->seen_cr3 != field_of(block, NV_VMCS_GUEST_CR3);
}

/* Whether the hypervisor has done the instruction that its guest's exit was of. What came from outside, or was behind an instruction already,
 * was none; and none is behind its guest that takes the interrupt or exception which it is for. */
static int did_instruction(const struct nv_machine *machine, const struct nv_virtual_vmcs *block)
{
	uint64_t event = field_of(block, NV_VMCS_ENTRY_INTERRUPTION);

	if (!machine->used || machine->seen_rip == field_of(block, NV_VMCS_GUEST_RIP))
		return 0;
	switch (machine->seen_code) {
	case BASIC_EXCEPTION:
		if (EVENT_KIND_OF(field_of(block, NV_VMCS_EXIT_INTERRUPTION)) == NV_EVENT_NMI)
			return 0;
		break;
	case BASIC_INTERRUPT:
	case BASIC_TRIPLE_FAULT:
	case BASIC_INIT:
	case BASIC_INTERRUPT_WINDOW:
	case BASIC_NMI_WINDOW:
	case BASIC_PREEMPTION_TIMER:
	case BASIC_TPR_THRESHOLD:
		return 0;
	default:
		break;
	}
	return !(event & EVENT_VALID && EVENT_KIND_OF(event) >= NV_EVENT_SOFTWARE_INTERRUPT);
}

/* Of a guest that runs one the parent was told another RFLAGS.IF: it changes only if the parent changed that. */
static void load_flag(struct nv_nested *nested, const struct nv_machine *machine)
{
	uint64_t *rflags = register_of(nested->vmx, NV_REG_RFLAGS);

	if (machine->child && !!(*rflags & RFLAGS_IF) == machine->shown_flag)
		*rflags = (*rflags & ~RFLAGS_IF) | (machine->true_flag ? RFLAGS_IF : 0);
}

static void load_kept(struct nv_machine *machine, struct nv_virtual_vmcs *block)
{
	struct nv_nested_vmx_kept kept = machine->vmx.kept;

	machine->vmx.kept.bits = 0;
	if (machine->child && kept.bits)
		set_field(block, kept.field, (field_of(block, kept.field) & ~kept.bits) | (kept.value & kept.bits));
}

/* The preemption timer (27.7.4): by the time that the processor's would have run. */
static void start_timer(struct nv_nested *nested, struct nv_machine *parent)
{
	const struct nv_virtual_vmcs *block = &parent->vmx.block;
	int rate = nested->vmx_limits.msr[VMX_MISC] & 31;

	parent->vmx.deadline = 0;
	if (field_of(block, NV_VMCS_PIN_CONTROLS) & PIN_TIMER)
		parent->vmx.deadline = (nv_ticks() + (field_of(block, NV_VMCS_PREEMPTION_TIMER) << rate)) | 1;
}

static void stop_timer(struct nv_nested *nested, struct nv_machine *parent)
{
	int rate = nested->vmx_limits.msr[VMX_MISC] & 31;
	uint64_t now = nv_ticks(), left = parent->vmx.deadline > now ? (parent->vmx.deadline - now) >> rate : 0;

	if (parent->vmx.deadline && field_of(&parent->vmx.block, NV_VMCS_EXIT_CONTROLS) & EXIT_SAVES_TIMER)
		set_field(&parent->vmx.block, NV_VMCS_PREEMPTION_TIMER, left < 0xffffffff ? left : 0xffffffff);
	parent->vmx.deadline = 0;
}

/* All that the machine's guests need, when the chain goes on above it. */
static struct nv_machine *last_of(struct nv_nested *nested, struct nv_machine *machine)
{
	for (; machine->child; machine = machine->child) {
		nv_nested_vmx_compose_maps(nested, machine);
		nv_nested_use_tables(nested, machine->child, 0);
	}
	return machine;
}

static void resume(struct nv_vmx *vmx, struct nv_machine *machine)
{
	vmx->interrupted = machine->resumed;
	vmx->interrupted_error = machine->vmx.resumed_error;
	vmx->interrupted_length = machine->vmx.resumed_length;
	machine->resumed = 0;
}

/* Of a guest with PAE paging that has no EPT; one that runs a guest itself goes on with what that had. */
static void load_pointers(struct nv_nested *nested, struct nv_machine *parent)
{
	struct nv_virtual_vmcs *block = &parent->vmx.block;
	uint64_t table = nv_nested_vmx_guest_table(block), pointers[NV_VMX_POINTERS];
	const struct nv_machine *machine;

	if (table == NO_TABLE || secondary_of(block) & SECONDARY_EPT)
		return;
	machine = nv_nested_find_guest(nested, parent, parent->vmx.current);
	if (machine && machine->child)
		return;
	nv_nested_vmx_read_pointers(nested, parent, table, pointers);
	for (int i = 0; i < NV_VMX_POINTERS; i++)
		set_field(block, NV_VMCS_GUEST_PDPTE0 + 2 * i, pointers[i]);
}

int nv_nested_vmx_enter(struct nv_nested *nested, struct nv_virtual_vmcs *page)
{
	struct nv_vmx *vmx = nested->vmx;
	struct nv_machine *parent = nested->active, *machine, *last;
	struct nv_virtual_vmcs *block = &parent->vmx.block;
	struct nv_vmx_field now[] = {{NV_VMCS_GUEST_EFER, 0}, {NV_VMCS_GUEST_CR0, 0}, {NV_VMCS_GUEST_CR4, 0}};
	uint64_t qualification, address = parent->vmx.current, real[2], view[2];
	int64_t failed;
	int result = nv_vmx_store(nested->vcpu, NULL, 0), another, behind;

	if (!result)
		result = nv_vmx_exchange(nested->vcpu, now, sizeof now / sizeof now[0]);
	if (result)
		return result;
	nv_virtual_vmcs_copy(block, page);
	real[0] = now[NOW_CR0].value;
	real[1] = now[NOW_CR4].value;
	result = nv_nested_vmx_check_block(nested, block, now[NOW_EFER].value & EFER_LMA && got(vmx, GOT_CS_RIGHTS) & CS_LONG);
	if (result)
		return result;
	result = nv_nested_vmx_entry_refused(nested, parent);
	if (result)
		return result < 0 ? result : 0;
	result = nv_nested_vmx_check_tpr(nested, parent);
	if (result)
		return result;
	nested->entered[parent->depth]++;
	parent->vmx.nmi_masked = !!(vmx->interruptibility & NMI_MASKED);
	load_pointers(nested, parent);
	if (nv_nested_vmx_check_guest(nested, block, &qualification))
		return fail_late(nested, parent, now, BASIC_GUEST_STATE, qualification);
	machine = parent->depth + 1 < NV_NESTED_DEPTH ? nv_nested_take_guest(nested, parent, address) : NULL;
	if (!machine) {
		nested->too_deep = 1;
		return -EIO;
	}
	another = is_another(machine, block);
	if (another && (machine->child || is_at_reset(block)))
		nv_nested_restart(machine);
	behind = !another && did_instruction(machine, block);
	block->written = 0;
	load_kept(machine, block);
	nv_nested_vmx_load_guest(nested, parent, now[NOW_EFER].value, real);
	load_flag(nested, machine);
	failed = nv_nested_vmx_load_msrs(nested, parent, field_of(block, NV_VMCS_ENTRY_MSR_LOADS),
					 field_of(block, NV_VMCS_ENTRY_MSR_LOAD_COUNT));
	if (failed < 0)
		return failed;
	if (failed)
		return fail_late(nested, parent, now, BASIC_MSR_LOADING, failed);
	page->launched = block->launched = 1;
	machine->used = ++nested->clock;
	parent->child = machine;
	nv_nested_vmx_compose_maps(nested, parent);
	nv_nested_use_tables(nested, machine, 1);
	start_timer(nested, parent);
	last = last_of(nested, machine);
	nv_nested_vmx_resume_cr(parent, last, view);
	nv_nested_vmx_activate(nested, last, view[0], view[1]);
	resume(vmx, last);
	/* levels below the hypervisor see what it does itself */
	vmx->switched.stepped = behind && nv_vmx_steps(vmx, nested->levels[parent->depth]);
	if (last != machine)
		return inject_below(nested, machine, block);
	if (!nv_nested_vmx_tell(nested, machine, field_of(block, NV_VMCS_ENTRY_INTERRUPTION)))
		inject(vmx, block);
	return 0;
}

/* What its parent is told of the state of a machine that runs a guest: that guest's, but whether the machine takes interrupts. */
static void show_flag(struct nv_nested *nested, struct nv_machine *machine)
{
	uint64_t *rflags = register_of(nested->vmx, NV_REG_RFLAGS);
	struct nv_nested_vmx_route route = nv_nested_vmx_route(nested, machine, 0);

	machine->true_flag = !!(*rflags & RFLAGS_IF);
	machine->shown_flag = route.turn == NV_VMX_TURN_EXITS ? 1 : machine->true_flag;
	*rflags = (*rflags & ~RFLAGS_IF) | (machine->shown_flag ? RFLAGS_IF : 0);
}

/* What the exit tells of an event that was being delivered, and of the instruction (28.2.4, 28.2.5). */
static void tell(struct nv_nested *nested, struct nv_virtual_vmcs *block, const struct nv_nested_vmx_exit *exit, int direct)
{
	const struct nv_vmx *vmx = nested->vmx;
	int vectoring = exit->told && direct && nv_vmx_depth(basic_of(vmx)) > GOT_VECTORING_ERROR;

	set_field(block, NV_VMCS_EXIT_REASON, exit->reason);
	if (!exit->told)
		set_field(block, NV_VMCS_EXIT_QUALIFICATION, exit->qualification);
	if (exit->string) {
		set_field(block, NV_VMCS_GUEST_LINEAR_ADDRESS, exit->linear);
		set_field(block, NV_VMCS_EXIT_INSTRUCTION, exit->instruction);
	}
	if (exit->reason == BASIC_EPT_VIOLATION || exit->reason == BASIC_EPT_MISCONFIGURATION) {
		set_field(block, NV_VMCS_EXIT_QUALIFICATION, exit->qualification);
		set_field(block, NV_VMCS_GUEST_PHYSICAL_ADDRESS, exit->physical);
	}
	set_field(block, NV_VMCS_EXIT_LENGTH, exit->told ? got(vmx, GOT_LENGTH) : exit->length);
	set_field(block, NV_VMCS_EXIT_INTERRUPTION, exit->interruption);
	set_field(block, NV_VMCS_EXIT_ERROR_CODE, exit->error_code);
	set_field(block, NV_VMCS_IDT_VECTORING, vectoring ? got(vmx, GOT_VECTORING) & ~EVENT_UNBLOCKED : 0);
	set_field(block, NV_VMCS_IDT_VECTORING_ERROR_CODE, vectoring ? got(vmx, GOT_VECTORING_ERROR) : 0);
	set_field(block, NV_VMCS_ENTRY_INTERRUPTION, field_of(block, NV_VMCS_ENTRY_INTERRUPTION) & ~EVENT_VALID);
}

/* A write of CR0 or CR4 by the guest of a machine whose parent hears of it. */
static void keep_masked(const struct nv_vmx *vmx, struct nv_machine *machine, const struct nv_virtual_vmcs *block)
{
	struct nv_nested_vmx_kept *kept = &machine->vmx.kept;
	uint32_t mask = cr_number(vmx) ? NV_VMCS_CR4_MASK : NV_VMCS_CR0_MASK;

	*kept = (struct nv_nested_vmx_kept){.field = cr_number(vmx) ? NV_VMCS_GUEST_CR4 : NV_VMCS_GUEST_CR0};
	if (cr_number(vmx) && cr_number(vmx) != 4)
		return;
	kept->value = field_of(block, kept->field);
	for (; machine->child; machine = machine->child)
		kept->bits |= field_of(&machine->vmx.block, mask);
}

/* The machine that stops keeps the event whose delivery the exit interrupted, when it is not its own parent that hears of it. */
static void keep_interrupted(struct nv_vmx *vmx, struct nv_machine *active)
{
	active->resumed = vmx->interrupted;
	active->vmx.resumed_error = vmx->interrupted_error;
	active->vmx.resumed_length = vmx->interrupted_length;
}

/* What the guest did to NMIs is virtual, or it is what the processor does (28.2.3). An NMI that is the exit masks them. */
static int nmi_masked(const struct nv_machine *machine)
{
	const struct nv_virtual_vmcs *block = &machine->vmx.block;

	if (field_of(block, NV_VMCS_EXIT_REASON) == BASIC_EXCEPTION &&
	    EVENT_KIND_OF(field_of(block, NV_VMCS_EXIT_INTERRUPTION)) == NV_EVENT_NMI)
		return 1;
	if (field_of(block, NV_VMCS_PIN_CONTROLS) & PIN_VIRTUAL_NMI)
		return machine->vmx.nmi_masked;
	return !!(field_of(block, NV_VMCS_GUEST_INTERRUPTIBILITY) & NMI_MASKED);
}

static int finish(struct nv_nested *nested, struct nv_machine *to, struct nv_virtual_vmcs *page, uint64_t efer, const uint64_t *real)
{
	struct nv_virtual_vmcs *block = &to->vmx.block;
	int64_t failed = nv_nested_vmx_store_msrs(nested, to, field_of(block, NV_VMCS_EXIT_MSR_STORES),
						  field_of(block, NV_VMCS_EXIT_MSR_STORE_COUNT));
	int indicator;

	if (failed < 0)
		return failed;
	memcpy(page, block, sizeof *page);
	indicator = come_back(nested, to, efer, nmi_masked(to), real);
	return indicator < 0 ? indicator : ended(nested, page, failed ? ABORT_STORING : indicator);
}

int nv_nested_vmx_reflect(struct nv_nested *nested, struct nv_machine *to, const struct nv_nested_vmx_exit *exit)
{
	struct nv_vmx *vmx = nested->vmx;
	struct nv_machine *machine = to->child, *active = nested->active;
	struct nv_nested_place place;
	struct nv_virtual_vmcs *block = &to->vmx.block, *page;
	uint64_t efer, told[2], real[2];
	int result;

	page = (struct nv_virtual_vmcs *)nv_nested_page(nested, to, machine->address, 1, &place);
	if (!page)
		return lose(nested, to, &place, exit->heard);
	result = nv_nested_vmx_exit_refused(nested, to, exit->heard);
	if (result)
		return result < 0 ? result : 0;
	if (!exit->heard)
		nv_nested_vmx_note(nested, to, exit);
	if (machine != active) {
		keep_interrupted(vmx, active);
		show_flag(nested, machine);
	}
	nv_nested_vmx_leave_cr(nested, to, exit->told && exit->reason == BASIC_CR ? cr_number(vmx) : -1, told);
	result = nv_nested_vmx_save_guest(nested, block, exit->told, &efer);
	if (result)
		return result;
	nv_nested_vmx_tell_cr(to, told, real);
	if (exit->told && exit->reason == BASIC_CR)
		keep_masked(vmx, machine, block);
	machine->seen_code = exit->reason;
	machine->seen_rip = field_of(block, NV_VMCS_GUEST_RIP);
	machine->seen_rsp = field_of(block, NV_VMCS_GUEST_RSP);
	machine->seen_cr3 = field_of(block, NV_VMCS_GUEST_CR3);
	tell(nested, block, exit, machine == active);
	stop_timer(nested, to);
	nv_nested_vmx_hold_timers(nested, to);
	to->child = NULL;
	vmx->injection = vmx->interrupted = vmx->doubled = 0;
	vmx->switched.stepped = vmx->switched.faulted = 0;
	nested->reflected[to->depth]++;
	return finish(nested, to, page, efer, real);
}
