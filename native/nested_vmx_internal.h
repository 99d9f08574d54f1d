/* What the files of the vmx front-end share. */
#ifndef NV_NESTED_VMX_INTERNAL_H
#define NV_NESTED_VMX_INTERNAL_H

#include "nested_machines.h"
#include "vmx_internal.h"

#define NO_VMCS (~0ull)
#define NO_TABLE (~0ull)
#define PAGE 4096ull

/* Where the capability MSRs lie behind IA32_VMX_BASIC (appendix A). */
enum {
	VMX_MISC = 5,
	VMX_CR0_FIXED0 = 6,
	VMX_CR0_FIXED1 = 7,
	VMX_CR4_FIXED0 = 8,
	VMX_CR4_FIXED1 = 9,
	VMX_SECONDARY = 11,
	VMX_TRUE_PIN = 13,
	VMX_TRUE_PRIMARY = 14,
	VMX_TRUE_EXIT = 15,
	VMX_TRUE_ENTRY = 16,
};

/* Controls that vmx_internal.h does not have (25.6 to 25.8). */
#define PIN_NMI (1ull << 3)
#define PIN_VIRTUAL_NMI (1ull << 5)
#define PRIMARY_TSC_OFFSET (1ull << 3)
#define PRIMARY_HLT (1ull << 7)
#define PRIMARY_CR3_LOAD (1ull << 15)
#define PRIMARY_CR8_LOAD (1ull << 19)
#define PRIMARY_CR8_STORE (1ull << 20)
#define PRIMARY_TPR_SHADOW (1ull << 21)
#define PRIMARY_ALL_PORTS (1ull << 24)
#define PRIMARY_PORT_MAPS (1ull << 25)
#define PRIMARY_MSR_MAP (1ull << 28)
#define PRIMARY_SECONDARY (1ull << 31)
#define SECONDARY_EPT (1ull << 1)
#define SECONDARY_VPID (1ull << 5)
#define SECONDARY_UNRESTRICTED (1ull << 7)
#define SECONDARY_XSAVES (1ull << 20)
#define EXIT_SAVES_DEBUG (1ull << 2)
#define EXIT_HOST_64 (1ull << 9)
#define EXIT_SAVES_PAT (1ull << 18)
#define EXIT_LOADS_PAT (1ull << 19)
#define EXIT_SAVES_EFER (1ull << 20)
#define EXIT_LOADS_EFER (1ull << 21)
#define ENTRY_LOADS_DEBUG (1ull << 2)
#define ENTRY_LONG_MODE (1ull << 9)
#define ENTRY_LOADS_PAT (1ull << 14)
#define ENTRY_LOADS_EFER (1ull << 15)

#define DEBUGCTL_RESERVED (~0xffc3ull)

/* Basic exit reasons that vmx_internal.h does not have, and VM-instruction errors (31.4). */
enum {
	BASIC_VMLAUNCH = 20,
	BASIC_VMPTRLD = 21,
	BASIC_VMPTRST = 22,
	BASIC_VMREAD = 23,
	BASIC_VMRESUME = 24,
	BASIC_VMWRITE = 25,
	BASIC_VMXOFF = 26,
	BASIC_GUEST_STATE = 33,
	BASIC_MSR_LOADING = 34,
	BASIC_EPT_MISCONFIGURATION = 49,
};

/* VMX-abort indicators (28.7). */
enum { ABORT_STORING = 1, ABORT_POINTERS = 2, ABORT_LOADING = 4 };

enum {
	FAIL_INVALID = -1,         /* there is no current VMCS to hold a number */
	FAIL_VMCALL = 1,
	FAIL_VMCLEAR_ADDRESS = 2,
	FAIL_VMCLEAR_VMXON = 3,
	FAIL_VMLAUNCH_LAUNCHED = 4,
	FAIL_VMRESUME_CLEAR = 5,
	FAIL_CONTROLS = 7,
	FAIL_HOST_STATE = 8,
	FAIL_VMPTRLD_ADDRESS = 9,
	FAIL_VMPTRLD_VMXON = 10,
	FAIL_VMPTRLD_REVISION = 11,
	FAIL_FIELD = 12,
	FAIL_READ_ONLY = 13,
	FAIL_VMXON_ROOT = 15,
	FAIL_MOV_SS = 26,
	FAIL_INVALIDATION = 28,
};

/* nested_vmx_fields.c: where a field is, by its encoding; -1: there is none. */
#define FIELD_SLOT(encoding) ((((encoding) >> 11 & 12) | ((encoding) >> 10 & 3)) * 26 + ((encoding) >> 1 & 31))
int nv_virtual_vmcs_slot(uint64_t encoding);

/* What VMREAD gives and VMWRITE leaves of it. */
uint64_t nv_virtual_vmcs_read(const struct nv_virtual_vmcs *block, uint64_t encoding);
void nv_virtual_vmcs_write(struct nv_virtual_vmcs *block, uint64_t encoding, uint64_t value);

/* Takes it from a level's memory: no field is wider than its encoding says, whatever the level wrote there. */
void nv_virtual_vmcs_copy(struct nv_virtual_vmcs *to, const struct nv_virtual_vmcs *from);

static inline uint64_t field_of(const struct nv_virtual_vmcs *block, uint32_t encoding)
{
	return block->field[FIELD_SLOT(encoding)];
}

static inline void set_field(struct nv_virtual_vmcs *block, uint32_t encoding, uint64_t value)
{
	block->field[FIELD_SLOT(encoding)] = value;
}

static inline uint64_t secondary_of(const struct nv_virtual_vmcs *block)
{
	return field_of(block, NV_VMCS_PRIMARY_CONTROLS) & PRIMARY_SECONDARY ? field_of(block, NV_VMCS_SECONDARY_CONTROLS) : 0;
}

/* nested_vmx_cr.c: what the active machine sees in CR0 and CR4, of bits that machines below may hide; real: what is there; shadow: CR0's read
 * shadow, which has machine 0's NE. activate: makes the machine active, which its parent, or its own last guest's exit, gave these. load: what
 * the processor has when `by` loads these, at an entry or an exit; real: CR0 and CR4 as they were before. leave: before the guest's state is
 * saved for an exit to `to`, with `told`, what its block has of them then; written: the number of the register whose write the exit is of,
 * else -1. tell: behind that, with what was there. resume: what the parent's guest sees, or its last one when the chain goes on. */
uint64_t nv_nested_vmx_seen_cr0(const struct nv_nested *nested, uint64_t real, uint64_t shadow);
uint64_t nv_nested_vmx_seen_cr4(const struct nv_nested *nested, uint64_t real);

void nv_nested_vmx_activate(struct nv_nested *nested, struct nv_machine *machine, uint64_t cr0, uint64_t cr4);
void nv_nested_vmx_load_cr(struct nv_nested *nested, const struct nv_machine *by, uint64_t cr0, uint64_t cr4, const uint64_t *real);
void nv_nested_vmx_leave_cr(struct nv_nested *nested, const struct nv_machine *to, int written, uint64_t *told);
void nv_nested_vmx_tell_cr(struct nv_machine *to, const uint64_t *told, uint64_t *real);
void nv_nested_vmx_resume_cr(const struct nv_machine *parent, const struct nv_machine *last, uint64_t *view);

/* nested_vmx_ept.c */
extern const struct nv_nested_ops nv_nested_vmx_ops;
int nv_nested_vmx_valid_eptp(const struct nv_nested_vmx_limits *limits, uint64_t pointer);

/* nested_vmx_controls.c, nested_vmx_guest.c: the checks of an entry. Of the first a VM-instruction error, 0: all are kept. Of the second
 * whether the state is refused, with the exit qualification. */
int nv_nested_vmx_check_block(const struct nv_nested *nested, const struct nv_virtual_vmcs *block, int long_mode);
int nv_nested_vmx_check_guest(struct nv_nested *nested, const struct nv_virtual_vmcs *block, uint64_t *qualification);

/* nested_vmx_pointers.c: PAE's page-directory-pointer entries. guest_table, host_table: where those of a block's guest, unless it has EPT, and of its
 * host lie in the host's memory; NO_TABLE: it uses none. bad_pointers: one has a bit that it must not have. */
#define NV_VMX_POINTERS 4

uint64_t nv_nested_vmx_guest_table(const struct nv_virtual_vmcs *block);
uint64_t nv_nested_vmx_host_table(const struct nv_virtual_vmcs *block);
void nv_nested_vmx_read_pointers(struct nv_nested *nested, struct nv_machine *machine, uint64_t table, uint64_t *pointers);
int nv_nested_vmx_bad_pointers(const struct nv_nested_vmx_limits *limits, const uint64_t *pointers);

/* nested_vmx_msrs.c: the lists of MSRs that entries and exits go through: 0, or the number of the first entry that cannot be done, from 1
 * on; a negative errno. */
struct nv_nested_vmx_listed {
	uint32_t index, reserved;
	uint64_t value;
};

/* What is behind the elements that any processor recommends at most (appendix A.6) is not looked at. */
#define NV_VMX_LIST_MAX 4096

int64_t nv_nested_vmx_load_msrs(struct nv_nested *nested, struct nv_machine *machine, uint64_t list, uint64_t count);
int64_t nv_nested_vmx_store_msrs(struct nv_nested *nested, struct nv_machine *machine, uint64_t list, uint64_t count);
int nv_nested_vmx_get_msr(struct nv_nested *nested, uint32_t index, uint64_t *value);
int nv_nested_vmx_set_msr(struct nv_nested *nested, uint32_t index, uint64_t value);

/* nested_vmx_refused.c: who is below does not give the memory that an entry of the machine's needs, or an exit to it, and hears of that: 1, or a
 * negative errno. heard: the table has that exit. */
int nv_nested_vmx_entry_refused(struct nv_nested *nested, struct nv_machine *parent);
int nv_nested_vmx_exit_refused(struct nv_nested *nested, struct nv_machine *to, int heard);

/* nested_vmx_operand.c: the memory operand of the VMX instruction that the active machine stopped at. 0; 1: it took a fault, or a machine
 * below stopped it, and the instruction happens again; a negative errno. */
int nv_nested_vmx_locate(struct nv_nested *nested, uint32_t size, int write, uint64_t *address);
int nv_nested_vmx_load(struct nv_nested *nested, uint64_t address, void *to, uint32_t size);
int nv_nested_vmx_store(struct nv_nested *nested, uint64_t address, const void *from, uint32_t size);
int nv_nested_vmx_fault(struct nv_nested *nested, int vector, uint32_t error_code);

/* The active machine's own single step, #DB: whether another machine wants it, and gives it to that: 1, or a negative errno. */
int nv_nested_vmx_wants_trap(const struct nv_nested *nested);
int nv_nested_vmx_trap(struct nv_nested *nested);

/* nested_vmx_run.c. enter: of the current VMCS, which is at `page`; 0: it has happened, or an exit says that it failed; else a
 * VM-instruction error, or a negative errno. reflect: the active machine stops for an exit of `to`'s guest. */
struct nv_nested_vmx_exit {
	uint64_t reason, qualification, physical;
	uint64_t interruption, error_code;
	uint64_t length;             /* of the instruction, unless `told` */
	uint64_t linear, instruction; /* of a string access to a port, likewise */
	uint8_t string;
	uint8_t heard;               /* the table has it as its event */
	uint8_t told;                /* the processor's own exit tells the rest */
};

int nv_nested_vmx_enter(struct nv_nested *nested, struct nv_virtual_vmcs *page);
int nv_nested_vmx_reflect(struct nv_nested *nested, struct nv_machine *to, const struct nv_nested_vmx_exit *exit);

/* nested_vmx_state.c: the guest's and the host's state between a block and what the processor runs. told: the exit was the processor's,
 * and what it tells is the guest's hypervisor's to know. efer, real: as they are now. load_host: gives a VMX-abort indicator, 0: it has none. */
int nv_nested_vmx_save_guest(struct nv_nested *nested, struct nv_virtual_vmcs *block, int told, uint64_t *efer);
void nv_nested_vmx_load_guest(struct nv_nested *nested, const struct nv_machine *parent, uint64_t efer, const uint64_t *real);
int nv_nested_vmx_load_host(struct nv_nested *nested, struct nv_machine *to, uint64_t efer, int nmi_masked, const uint64_t *real);

/* nested_vmx_exit.c. exit: 1 when the exit of the active machine went to another one; a negative errno. fault: 1 when the EPT violation
 * did or is filled, 0 when it is for the levels below. refused: a machine below does not let L0 reach the active one's memory, or a Python
 * level withholds it, whose fault is due then; 0 when it is neither. heard: the table has the exit that this comes of. decode_due: as an
 * event. */
int nv_nested_vmx_exit(struct nv_nested *nested);
int nv_nested_vmx_violation(struct nv_nested *nested);
void nv_nested_vmx_decode_due(struct nv_nested *nested, struct nv_event *event);
int nv_nested_vmx_refused(struct nv_nested *nested, const struct nv_nested_place *place, int heard);

/* L0 does what a machine asks that it knows to have VMX. hand_to: the exit as the processor told it, of which the table has heard or will; 1, or a
 * negative errno. */
int nv_nested_vmx_is_l0s(const struct nv_nested *nested);
int nv_nested_vmx_hand_to(struct nv_nested *nested, struct nv_machine *owner, int heard);

/* nested_vmx_take.c. routes: the exit goes to machines by the table, Python levels among them. first: a machine takes it before any Python
 * level. remember: of a port access that KVM is to do, what undo needs when levels above a machine that wants it decline it. a negative errno.
 * undo: 1 when it is undone and an exit to that machine, 0 when there is none; a negative errno. */
int nv_nested_vmx_routes(const struct nv_vmx *vmx);
int nv_nested_vmx_first(struct nv_nested *nested);
int nv_nested_vmx_remember(struct nv_nested *nested);
int nv_nested_vmx_undo(struct nv_nested *nested);

/* nested_vmx_gone.c: the table hears of exits that have gone to a machine without it, for the counters and the trace. gives: whether it gives such
 * an event to that machine. note: before the machine takes the exit. waits: there is one to tell. decode: 1 when that is the pending event
 * now; told: 1 when it was, and is done. */
int nv_nested_vmx_gives(const struct nv_nested *nested, const struct nv_machine *machine, const struct nv_event *event);
void nv_nested_vmx_note(struct nv_nested *nested, const struct nv_machine *to, const struct nv_nested_vmx_exit *exit);
int nv_nested_vmx_waits(const struct nv_nested *nested);
int nv_nested_vmx_decode_gone(struct nv_nested *nested, struct nv_event *event);
int nv_nested_vmx_told_gone(struct nv_nested *nested);
int nv_nested_vmx_take_gone(const struct nv_nested_claim *claim, struct nv_event *event);

/* RIP at the pending event, whichever it is. */
uint64_t nv_nested_vmx_rip(const struct nv_vcpu *vcpu);

/* Likewise: the instruction of an event for the trace, which would look for it where the machine that is active then executes. */
void nv_nested_vmx_keep_instruction(struct nv_nested *nested, struct nv_event *event);

/* nested_vmx_owner.c: the machine whose guest's exit this is; NULL: L0's, or a Python level's. wants: whether it is this machine's. */
struct nv_machine *nv_nested_vmx_owner(struct nv_nested *nested);
int nv_nested_vmx_wants(struct nv_nested *nested, struct nv_machine *machine);
int nv_nested_vmx_wants_exception(const struct nv_machine *machine, int vector, uint32_t error_code);

/* nested_vmx_deliver.c: what becomes of an interrupt or NMI for a machine. */
enum nv_nested_vmx_turn {
	NV_VMX_TURN_WAITS,           /* until the active machine can take it */
	NV_VMX_TURN_TAKES,           /* the active machine takes it by its IDT */
	NV_VMX_TURN_EXITS,           /* it is an exit to `machine` */
	NV_VMX_TURN_TELLS,           /* it is an event of the Python levels that `told` is the guest of */
};

struct nv_nested_vmx_route {
	enum nv_nested_vmx_turn turn;
	struct nv_machine *machine;
	struct nv_machine *told;     /* also of NV_VMX_TURN_WAITS, if it would be one */
};

/* arrives: it comes from below the machine; else it is the machine's already. */
struct nv_nested_vmx_route nv_nested_vmx_route(struct nv_nested *nested, struct nv_machine *machine, int arrives);
struct nv_nested_vmx_route nv_nested_vmx_route_nmi(struct nv_nested *nested, struct nv_machine *machine, int arrives);

/* 1 when the event, as the interruption information has it, is one that Python levels have as it comes to the machine: it becomes
 * vmx->synthetic. */
int nv_nested_vmx_tell(struct nv_nested *nested, const struct nv_machine *machine, uint64_t event);

/* Before an entry. deliver: interrupts and NMIs become exits, or what the active machine takes. windows: the controls that make it stop
 * when it can take what waits. urgent: something must stop it at once, behind what it takes now. window: one that a Python level above an
 * image waits for is open, or its timer has ended, and becomes vmx->synthetic. stops: while KVM holds level n, it is to come out for what such levels want. */
int nv_nested_vmx_deliver(struct nv_nested *nested);
int nv_nested_vmx_window(struct nv_nested *nested);
int nv_nested_vmx_stops(struct nv_nested *nested);
uint64_t nv_nested_vmx_windows(struct nv_nested *nested);
int nv_nested_vmx_urgent(struct nv_nested *nested);

/* nested_vmx_tpr.c: TPR shadows. tpr_of: whose the active machine's CR8 is, for the moves that this control makes exit; NULL: the processor's.
 * virtual_apic: where the page of the machine's block is for the processor; 0: it has none, or it is not memory. check_tpr: a VM-instruction
 * error for what lies there (27.2.1.1). */
struct nv_machine *nv_nested_vmx_tpr_of(const struct nv_nested *nested, uint64_t exiting);
uint64_t nv_nested_vmx_virtual_apic(struct nv_nested *nested, struct nv_machine *machine);
int nv_nested_vmx_check_tpr(struct nv_nested *nested, struct nv_machine *machine);
void nv_nested_vmx_compose_tpr(struct nv_nested *nested, struct nv_vmx_controls *wanted);

/* nested_vmx_compose.c: the controls of the machines on top of those that L0 wants; maps: once for each entry of a machine's guest. moved: the
 * active machine's tables are others than it was entered with.
 * held_cr0: what the active machine cannot clear. */
uint64_t nv_nested_vmx_held_cr0(const struct nv_nested *nested);
void nv_nested_vmx_compose(struct nv_nested *nested, struct nv_vmx_controls *wanted);
int nv_nested_vmx_moved(const struct nv_nested *nested);
void nv_nested_vmx_compose_maps(struct nv_nested *nested, struct nv_machine *machine);

/* nested_vmx_timer.c: preemption timers. read: before compose, what is left of L0's own; a negative errno. compose: which one the processor's
 * is. asked: a Python level above an image has asked for one that does not run yet. run: those run, and the depth of the first machine whose
 * levels are to be told that theirs has ended; 0: none. hold: those of the machines above `to`, which stop. */
int nv_nested_vmx_read_timer(struct nv_nested *nested);
void nv_nested_vmx_compose_timer(struct nv_nested *nested, struct nv_vmx_controls *wanted);
int nv_nested_vmx_timers_asked(struct nv_nested *nested);
int nv_nested_vmx_run_timers(struct nv_nested *nested);
void nv_nested_vmx_hold_timers(struct nv_nested *nested, const struct nv_machine *to);

#endif
