#include "vmx.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <string.h>

#include "direct.h"
#include "vmx_event.h"
#include "vmx_exits.h"
#include "vmx_pass.h"

_Static_assert(offsetof(struct nv_vmx_block, started) == NV_VMX_STARTED, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, launched) == NV_VMX_LAUNCHED, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, error) == NV_VMX_ERROR, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, reason) == NV_VMX_REASON, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, writes) == NV_VMX_WRITE_COUNT, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, reads) == NV_VMX_READ_COUNT, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, vmxon) == NV_VMX_VMXON, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, vmcs) == NV_VMX_VMCS, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, depth) == NV_VMX_DEPTH, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, exit) == NV_VMX_EXIT_READ, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, write) == NV_VMX_WRITE, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, read) == NV_VMX_READ, "the assembler's offsets");
_Static_assert(sizeof(struct nv_vmx_block) <= NV_SWITCHER_IDT - NV_SWITCHER_BLOCK, "two pages");
_Static_assert(sizeof(((struct nv_vmx_block *)0)->depth) == NV_VMX_BASIC_REASONS, "one for each basic reason");
_Static_assert(sizeof(((struct nv_vmx_block *)0)->exit) == NV_VMX_EXIT_READS * sizeof(struct nv_vmx_field), "the counts");
_Static_assert(sizeof(((struct nv_vmx_block *)0)->write) == NV_VMX_WRITES * sizeof(struct nv_vmx_field), "the counts");
_Static_assert(sizeof(((struct nv_vmx_block *)0)->read) == NV_VMX_READS * sizeof(struct nv_vmx_field), "the counts");

/* In the order of NV_VMX_RIP to NV_VMX_INSTRUCTION. */
static const uint16_t exit_fields[] = {
	NV_VMCS_GUEST_RIP,
	NV_VMCS_GUEST_RSP,
	NV_VMCS_GUEST_RFLAGS,
	NV_VMCS_EXIT_LENGTH,
	NV_VMCS_GUEST_INTERRUPTIBILITY,
	NV_VMCS_EXIT_QUALIFICATION,
	NV_VMCS_IDT_VECTORING,
	NV_VMCS_IDT_VECTORING_ERROR_CODE,
	NV_VMCS_EXIT_INTERRUPTION,
	NV_VMCS_EXIT_ERROR_CODE,
	NV_VMCS_GUEST_PHYSICAL_ADDRESS,
	NV_VMCS_EXIT_INSTRUCTION,
};

/* Bits of an EPT violation's exit qualification (SDM vol. 3, table 28-7). */
enum { VIOLATION_WRITE = 1 << 1, VIOLATION_FETCH = 1 << 2 };

void nv_vmx_put(struct nv_vmx *vmx, uint64_t encoding, uint64_t value)
{
	struct nv_vmx_block *block = vmx->block;
	uint64_t i;

	for (i = 0; i < block->writes && block->write[i].encoding != encoding; i++)
		;
	/* fewer fields exist here than there is room for */
	if (i == NV_VMX_WRITES)
		return;
	block->write[i].encoding = encoding;
	block->write[i].value = value;
	if (i == block->writes)
		block->writes = i + 1;
}

int nv_vmx_exchange(struct nv_vcpu *vcpu, struct nv_vmx_field *fields, uint32_t count)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_vmx_block *block = vmx->block;
	int result;

	if (count > NV_VMX_READS)
		return -EINVAL;
	memcpy(block->read, fields, count * sizeof *fields);
	block->reads = count;
	block->command = NV_VMX_EXCHANGE;
	/* a kick must not end it; it is found again afterwards, for it also sets the flag */
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	do {
		result = nv_direct_enter(vcpu);
	} while (result == -EINTR || result == -EAGAIN);
	block->command = NV_VMX_ENTER;
	if (result)
		return result;
	if (!nv_switched_rang(vcpu) || vmx->switched.mailbox->state != NV_SWITCHER_EXIT)
		return -EIO;
	block->writes = 0;
	memcpy(fields, block->read, count * sizeof *fields);
	return 0;
}

/* One of the registers that VM entry takes from the VMCS, unless it is there already. */
static void load(struct nv_vmx *vmx, int which, uint64_t value)
{
	struct nv_vmx_field *field = &vmx->block->exit[which];

	if (field->value == value)
		return;
	field->value = value;
	nv_vmx_put(vmx, field->encoding, value);
}

static void load_block(struct nv_vmx *vmx)
{
	const uint64_t *regs = vmx->switched.mailbox->regs;

	load(vmx, NV_VMX_RIP, regs[NV_REG_RIP]);
	load(vmx, NV_VMX_RSP, regs[NV_REG_RSP]);
	load(vmx, NV_VMX_RFLAGS, regs[NV_REG_RFLAGS]);
	nv_vmx_deliver(vmx);
}

static void save_block(struct nv_vmx *vmx)
{
	uint64_t *regs = vmx->switched.mailbox->regs;

	regs[NV_REG_RIP] = nv_vmx_got(vmx, NV_VMX_RIP);
	regs[NV_REG_RSP] = nv_vmx_got(vmx, NV_VMX_RSP);
	regs[NV_REG_RFLAGS] = nv_vmx_got(vmx, NV_VMX_RFLAGS);
	vmx->interruptibility = nv_vmx_got(vmx, NV_VMX_INTERRUPTIBILITY);
	vmx->injected = 0;
	vmx->block->writes = 0;
	nv_vmx_redeliver(vmx);
}

/* What an EPT violation's access needs. */
static uint32_t access_of(uint64_t qualification)
{
	if (qualification & VIOLATION_FETCH)
		return NV_RIGHT_EXECUTE;
	return qualification & VIOLATION_WRITE ? NV_RIGHT_WRITE : NV_RIGHT_READ;
}

static int vmx_enter(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	int result;

	if (vmx->switched.mailbox->state != NV_SWITCHER_RUNNING)
		load_block(vmx);
	result = nv_switched_enter(vcpu);
	if (result || !nv_switched_rang(vcpu) || vmx->switched.mailbox->state != NV_SWITCHER_EXIT)
		return result;
	save_block(vmx);
	if (vmx->switched.recalling && nv_vmx_is_nmi(vmx)) {
		vmx->switched.recalling = 0;
		return 0;
	}
	if (nv_vmx_basic(vmx) == NV_VMX_EPT_VIOLATION &&
	    nv_switched_fill(&vmx->switched, nv_vmx_got(vmx, NV_VMX_PHYSICAL), access_of(nv_vmx_got(vmx, NV_VMX_QUALIFICATION))))
		return -EAGAIN;
	result = nv_vmx_end_step(vcpu);
	if (!result)
		result = nv_vmx_hide_fixed(vcpu);
	if (!result)
		result = nv_vmx_is_own_window(vmx);
	return result > 0 ? -EAGAIN : result;
}

static uint64_t qualifier_of(const struct nv_vmx *vmx, const struct nv_exit_row *row, uint64_t basic)
{
	const uint64_t *regs = vmx->switched.mailbox->regs;
	uint64_t information = nv_vmx_got(vmx, NV_VMX_QUALIFICATION);

	switch (row->source) {
	case NV_FROM_CODE:
		return basic;
	case NV_FROM_RAX:
		return regs[NV_REG_RAX];
	case NV_FROM_EAX:
		return (uint32_t)regs[NV_REG_RAX];
	case NV_FROM_ECX:
		return (uint32_t)regs[NV_REG_RCX];
	case NV_FROM_INFORMATION:
		return information;
	case NV_FROM_PORT:
		return information >> 16 & 0xffff;
	case NV_FROM_SELECTOR:
		return information & 0xffff;
	case NV_FROM_OFFSET:
		return information & 0xfff;
	case NV_FROM_VECTOR:
		return (basic == NV_VMX_EXCEPTION ? nv_vmx_got(vmx, NV_VMX_INTERRUPTION) : information) & 0xff;
	case NV_FROM_REGISTER:
		return information & 15;
	case NV_FROM_TABLE:
		return row->value + (nv_vmx_got(vmx, NV_VMX_INSTRUCTION) >> 28 & 1);
	case NV_FROM_PHYSICAL:
		return nv_vmx_got(vmx, NV_VMX_PHYSICAL);
	default:
		/* acknowledged by the exit */
		return basic == NV_VMX_EXTERNAL_INTERRUPT ? nv_vmx_got(vmx, NV_VMX_INTERRUPTION) & 0xff : 0;
	}
}

/* The second reason of a row that has two. */
static int is_other(const struct nv_vmx *vmx, uint64_t basic)
{
	uint64_t information = nv_vmx_got(vmx, NV_VMX_QUALIFICATION);

	switch (basic) {
	case NV_VMX_EXCEPTION:
		return nv_vmx_is_nmi(vmx);
	case NV_VMX_CR:
		/* of MOV to, MOV from, CLTS, LMSW one reads */
		return (information >> 4 & 3) != 1;
	case NV_VMX_DR:
		return !(information >> 4 & 1);
	default:
		return 0;
	}
}

static uint8_t direction_of(const struct nv_vmx *vmx, const struct nv_exit_row *row, uint64_t basic)
{
	uint64_t information = nv_vmx_got(vmx, NV_VMX_QUALIFICATION);

	switch (basic) {
	case NV_VMX_EPT_VIOLATION:
		return information & VIOLATION_FETCH ? NV_EXECUTE : information & VIOLATION_WRITE ? NV_WRITE : NV_READ;
	case NV_VMX_IO:
		return information & 8 ? NV_READ : NV_WRITE;
	case NV_VMX_DESCRIPTOR_TABLE:
	case NV_VMX_TASK_REGISTER:
		return nv_vmx_got(vmx, NV_VMX_INSTRUCTION) >> 29 & 1 ? NV_WRITE : NV_READ;
	default:
		return row->direction;
	}
}

static void decode_exit(const struct nv_vmx *vmx, struct nv_event *event)
{
	uint64_t basic = nv_vmx_basic(vmx);
	const struct nv_exit_row *row = nv_vmx_exit_row(basic);

	int other = row->other && is_other(vmx, basic);

	event->raw = basic;
	event->reason = other ? row->other : row->reason;
	event->direction = other && row->direction == NV_READ ? NV_WRITE : direction_of(vmx, row, basic);
	event->qualifier = qualifier_of(vmx, row, basic);
	event->value = 0;
	event->info = vmx->block->depth[basic & (NV_VMX_BASIC_REASONS - 1)] > NV_VMX_QUALIFICATION ?
			      nv_vmx_got(vmx, NV_VMX_QUALIFICATION) : 0;
	event->data = NULL;
	event->count = 1;
	event->size = 0;
	event->instruction_length = 0;
	event->advance = row->length ? nv_vmx_got(vmx, NV_VMX_LENGTH) : 0;
}

static void decode_refusal(const struct nv_vmx *vmx, struct nv_event *event)
{
	memset(event, 0, sizeof *event);
	event->raw = event->info = event->qualifier = vmx->block->error;
	event->reason = NV_REASON_ENTRY_FAILURE;
	event->direction = NV_EXECUTE;
	event->count = 1;
}

static void vmx_decode(struct nv_vcpu *vcpu, struct nv_event *event)
{
	struct nv_vmx *vmx = vcpu->engine;

	vmx->switched.rung = nv_switched_rang(vcpu);
	if (!vmx->switched.rung)
		nv_direct_decode(vcpu, event);
	else if (vmx->switched.mailbox->state == NV_SWITCHER_REFUSED)
		decode_refusal(vmx, event);
	else
		decode_exit(vmx, event);
}

static void vmx_complete(struct nv_vcpu *vcpu, struct nv_event *event)
{
	struct nv_vmx *vmx = vcpu->engine;

	if (!vmx->switched.rung) {
		nv_direct_complete(vcpu, event);
		return;
	}
	if (event->advance) {
		vmx->switched.mailbox->regs[NV_REG_RIP] += event->advance;
		nv_vmx_end_shadow(vmx);
	}
}

static const struct nv_engine_ops vmx_ops = {
	.enter = vmx_enter,
	.decode = vmx_decode,
	.complete = vmx_complete,
};

/* How much of an exit's information its reason has. */
static uint8_t depth_of(const struct nv_exit_row *row)
{
	if (!row->length)
		return NV_VMX_PHYSICAL + 1;
	switch (row->source) {
	case NV_FROM_NOTHING:
	case NV_FROM_CODE:
	case NV_FROM_RAX:
	case NV_FROM_EAX:
	case NV_FROM_ECX:
		return NV_VMX_INTERRUPTIBILITY + 1;
	case NV_FROM_TABLE:
		return NV_VMX_INSTRUCTION + 1;
	default:
		return NV_VMX_QUALIFICATION + 1;
	}
}

void nv_vmx_init(struct nv_vcpu *vcpu, struct nv_vmx *vmx, int fd, struct kvm_run *run, uint8_t level)
{
	struct nv_vmx_block *block = vmx->block;

	for (size_t i = 0; i < sizeof exit_fields / sizeof exit_fields[0]; i++)
		block->exit[i].encoding = exit_fields[i];
	for (size_t basic = 0; basic < NV_VMX_BASIC_REASONS; basic++)
		block->depth[basic] = depth_of(nv_vmx_exit_row(basic));
	block->depth[NV_VMX_INVLPG] = NV_VMX_QUALIFICATION + 1;
	nv_vcpu_init(vcpu, &vmx_ops, level);
	vcpu->engine = vmx;
	vcpu->fd = fd;
	vcpu->run = run;
}
