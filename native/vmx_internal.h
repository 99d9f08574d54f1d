/* What the files of the vmx engine share. */
#ifndef NV_VMX_INTERNAL_H
#define NV_VMX_INTERNAL_H

#include "registers.h"
#include "vmx.h"

/* Basic exit reasons (Intel SDM vol. 3, appendix C). */
enum {
	BASIC_EXCEPTION = 0,
	BASIC_INTERRUPT = 1,
	BASIC_TRIPLE_FAULT = 2,
	BASIC_INIT = 3,
	BASIC_INTERRUPT_WINDOW = 7,
	BASIC_NMI_WINDOW = 8,
	BASIC_TASK_SWITCH = 9,
	BASIC_CPUID = 10,
	BASIC_HLT = 12,
	BASIC_INVD = 13,
	BASIC_INVLPG = 14,
	BASIC_RDPMC = 15,
	BASIC_RDTSC = 16,
	BASIC_VMCALL = 18,
	BASIC_VMCLEAR = 19,
	BASIC_VMXON = 27,
	BASIC_CR = 28,
	BASIC_DR = 29,
	BASIC_IO = 30,
	BASIC_RDMSR = 31,
	BASIC_WRMSR = 32,
	BASIC_MWAIT = 36,
	BASIC_MONITOR_TRAP = 37,
	BASIC_MONITOR = 39,
	BASIC_PAUSE = 40,
	BASIC_TPR_THRESHOLD = 43,
	BASIC_TABLE = 46,
	BASIC_TASK_TABLE = 47,
	BASIC_EPT_VIOLATION = 48,
	BASIC_INVEPT = 50,
	BASIC_RDTSCP = 51,
	BASIC_PREEMPTION_TIMER = 52,
	BASIC_INVVPID = 53,
	BASIC_WBINVD = 54,
	BASIC_XSETBV = 55,
	BASIC_RDRAND = 57,
	BASIC_INVPCID = 58,
	BASIC_ENCLS = 60,
	BASIC_RDSEED = 61,
	BASIC_XSAVES = 63,
	BASIC_XRSTORS = 64,
	BASIC_UMWAIT = 67,
	BASIC_TPAUSE = 68,
};

/* What is read after an exit, as far as its reason needs it: indices into the block's `exit`. */
enum {
	GOT_RIP,
	GOT_RSP,
	GOT_RFLAGS,
	GOT_LENGTH,
	GOT_INTERRUPTIBILITY,
	GOT_QUALIFICATION,
	GOT_CS_RIGHTS,
	GOT_VECTORING,
	GOT_VECTORING_ERROR,
	GOT_INTERRUPTION,
	GOT_INTERRUPTION_ERROR,
	GOT_PHYSICAL,
	GOT_INSTRUCTION,
	GOT_SS_RIGHTS,
};

#define CS_LONG (1ull << 13)
#define CS_BIG (1ull << 14)

/* CR0.NE and CR4.VMXE, which VMX keeps set; level n's own are in the read shadows. */
#define CR0_FIXED CR0_NE
#define CR4_FIXED CR4_VMXE

/* Controls (25.6.1, 25.6.2). */
#define PIN_INTERRUPTS (1ull << 0)
#define PIN_TIMER (1ull << 6)
#define PRIMARY_INTERRUPT_WINDOW (1ull << 2)
#define PRIMARY_NMI_WINDOW (1ull << 22)
#define PRIMARY_DEBUG_REGISTERS (1ull << 23)
#define EXIT_ACKNOWLEDGES (1ull << 15)
#define EXIT_SAVES_TIMER (1ull << 22)

/* In the exit reason: the entry failed. */
#define ENTRY_FAILED (1ull << 31)

/* Of interruption information (25.9.2): the exit came out of an IRET that had unblocked NMIs. */
#define EVENT_UNBLOCKED (1ull << 12)

/* Interruptibility (25.4.2): STI and MOV SS shadow an instruction. */
#define SHADOWED 3ull
#define SHADOWED_BY_STI 1ull
#define NMI_MASKED 8ull

/* Bits of an EPT violation's exit qualification (table 28-7). */
#define VIOLATION_WRITE 2
#define VIOLATION_FETCH 4
#define VIOLATION_RIGHTS 3         /* the page's rights, as the access wants them, in bits 5:3 */

/* What a task switch comes of, in bits 31:30 of the exit qualification (table 28-2): CALL, IRET, JMP, a gate of the IDT. */
#define TASK_SWITCH_SOURCE 30
#define TASK_SWITCH_GATE 3

/* How a control-register access reads in the exit qualification (table 28-3). */
enum { CR_MOV_TO, CR_MOV_FROM, CR_CLTS, CR_LMSW };

static inline uint64_t got(const struct nv_vmx *vmx, int which)
{
	return vmx->block->exit[which].value;
}

static inline uint32_t basic_of(const struct nv_vmx *vmx)
{
	return vmx->block->reason & 0xffff;
}

/* How much of `exit` was read after this exit. */
static inline uint8_t depth_of(const struct nv_vmx *vmx)
{
	return vmx->block->depth[basic_of(vmx) % NV_VMX_BASIC_REASONS];
}

static inline uint64_t *register_of(struct nv_vmx *vmx, int number)
{
	return &vmx->switched.mailbox->regs[number];
}

static inline int takes_interrupts(struct nv_vmx *vmx)
{
	return *register_of(vmx, NV_REG_RFLAGS) & RFLAGS_IF && !(vmx->interruptibility & SHADOWED);
}

static inline int is_nmi(const struct nv_vmx *vmx)
{
	return basic_of(vmx) == BASIC_EXCEPTION && EVENT_KIND_OF(got(vmx, GOT_INTERRUPTION)) == NV_EVENT_NMI;
}

static inline int cr_number(const struct nv_vmx *vmx)
{
	return got(vmx, GOT_QUALIFICATION) & 15;
}

static inline int cr_access(const struct nv_vmx *vmx)
{
	return got(vmx, GOT_QUALIFICATION) >> 4 & 3;
}

/* vmx.c: the instruction is done, and level n stands behind it; a negative errno. */
int nv_vmx_skip(struct nv_vcpu *vcpu, const struct nv_event *event);

/* vmx.c: what the switcher does besides entering level n, NV_VMX_EXCHANGE or NV_VMX_STORE; as nv_vmx_exchange. */
int nv_vmx_command(struct nv_vcpu *vcpu, uint64_t command, struct nv_vmx_field *fields, uint32_t count);

/* vmx_memory.c. store: reads fields, as nv_vmx_exchange, and makes the VMCS be in memory, where that is known to work. put, get: whether the
 * VMCS is in memory, and has been changed or read there. */
int nv_vmx_store(struct nv_vcpu *vcpu, struct nv_vmx_field *fields, uint32_t count);
int nv_vmx_put_in_memory(struct nv_vmx *vmx, uint64_t encoding, uint64_t value);
int nv_vmx_get_from_memory(const struct nv_vmx *vmx, struct nv_vmx_field *fields, uint32_t count);

/* vmx_decode.c: the exit, or what vmx->synthetic or vmx->refused says, as an event. depth: how much of `exit` a reason has. */
void nv_vmx_decode(struct nv_vmx *vmx, struct nv_event *event);
uint8_t nv_vmx_depth(uint32_t basic);

/* Where level n, outside, executes. A negative errno. */
int nv_vmx_code(struct nv_vcpu *vcpu, struct nv_code *code);

/* #UD, decoded: nv_undefined's part of it. A negative errno. */
int nv_vmx_decode_undefined(struct nv_vcpu *vcpu, struct nv_event *event);

/* vmx_sort.c: whether the table hears of the exit: 0; -EAGAIN: level n goes on; another negative errno. */
int nv_vmx_sort_exit(struct nv_vcpu *vcpu);

/* Level n goes on elsewhere: a step is over, and what it has done may be undone. 0: what stopped it is still so; 1: that comes again,
 * if at all; a negative errno. */
int nv_vmx_interrupt_step(struct nv_vcpu *vcpu);

/* vmx_step.c. end: executed says whether the instruction is behind level n. A negative errno. */
void nv_vmx_step_begin(struct nv_vmx *vmx, const struct nv_vmx_controls *off);
void nv_vmx_step_trap(struct nv_vmx *vmx, const struct nv_trap_flag *trap); /* of an instruction that nothing has stopped */
int nv_vmx_step_end(struct nv_vcpu *vcpu, int executed);

/* vmx_debug_step.c. steps: levels see each instruction of what executes now. debug_step: begins such a step, unless something comes first;
 * -EAGAIN when the instruction is done, another negative errno. steps: of levels above level `above`. told: the event behind an instruction
 * is pending. window: that of an open window is, vmx->synthetic. own_trap: behind the first, level n's own, where a machine wants it: 0; -EAGAIN when
 * that has it now, another negative errno. */
int nv_vmx_steps(const struct nv_vmx *vmx, uint8_t above);
int nv_vmx_debug_own_trap(struct nv_vcpu *vcpu);
int nv_vmx_debug_step(struct nv_vcpu *vcpu);
int nv_vmx_debug_told(struct nv_vmx *vmx);
int nv_vmx_debug_window(struct nv_vmx *vmx);
int nv_vmx_pass_cr(struct nv_vcpu *vcpu);
void nv_vmx_pass_port(struct nv_vmx *vmx);

/* vmx_debug.c. set_fault_registers: an exit by #PF or #DB leaves CR2 and DR6 to whoever reinjects it (28.1). pass_dr: as nv_vmx_pass, of
 * MOV to or from a debug register. trap_own: level n, which has its own trap flag set, is behind an instruction. No step: KVM exits for the instruction itself, and Bochs then ends the step before it. */
int nv_vmx_set_fault_registers(struct nv_vcpu *vcpu, int vector);
int nv_vmx_pass_dr(struct nv_vcpu *vcpu);
int nv_vmx_trap_own(struct nv_vcpu *vcpu);

/* vmx_deliver.c. prepare: what level n takes at its next entry, and what stops it, goes to the VMCS; happens again when a kick comes
 * before level n runs. entered: it ran. interrupted: what the exit says of an event that was being delivered. raise: reinjects the
 * exception that the exit stopped; a negative errno. end_shadow: the instruction behind STI or MOV SS was completed. */
void nv_vmx_prepare(struct nv_vmx *vmx);
void nv_vmx_entered(struct nv_vmx *vmx);
void nv_vmx_interrupted(struct nv_vmx *vmx);
int nv_vmx_raise(struct nv_vcpu *vcpu);
void nv_vmx_end_shadow(struct nv_vmx *vmx);
void nv_vmx_shadow(struct nv_vmx *vmx); /* STI was */

/* next_event: what level n would take at an entry now; 0: nothing. inject_soft: the interrupt or exception of a kind NV_EVENT_* that the
 * instruction at RIP is for, of this length. */
uint64_t nv_vmx_next_event(struct nv_vmx *vmx);
void nv_vmx_inject_soft(struct nv_vmx *vmx, int kind, uint8_t vector, uint8_t length);

#endif
