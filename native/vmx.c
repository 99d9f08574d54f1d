#include "vmx.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <string.h>

#include "direct.h"
#include "vmx_exits.h"

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

/* In the order of NV_VMX_RIP to NV_VMX_LINEAR. */
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
	NV_VMCS_GUEST_LINEAR_ADDRESS,
};

enum { BASIC_NMI = 0, BASIC_MONITOR_TRAP = 37, BASIC_MASK = 0xffff };
#define ENTRY_FAILED (1ull << 31)
/* interruption information (SDM vol. 3, 25.9.2) */
#define EVENT_VALID (1ull << 31)
#define EVENT_ERROR_CODE (1ull << 11)
#define EVENT_KIND 8
#define EVENT_KINDS 7
/* interruptibility (SDM vol. 3, 25.4.2) */
#define BLOCKED_BY_STI_OR_MOV_SS 3ull
#define BLOCKED_BY_NMI 8ull

static uint64_t got(const struct nv_vmx *vmx, int which)
{
	return vmx->block->exit[which].value;
}

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

void nv_vmx_inject(struct nv_vmx *vmx, int kind, uint8_t vector, int has_error_code, uint32_t error_code)
{
	uint64_t event = EVENT_VALID | (uint64_t)kind << EVENT_KIND | vector;

	if (has_error_code) {
		event |= EVENT_ERROR_CODE;
		nv_vmx_put(vmx, NV_VMCS_ENTRY_ERROR_CODE, error_code);
	}
	nv_vmx_put(vmx, NV_VMCS_ENTRY_INTERRUPTION, event);
}

/* The registers that VM entry takes from the VMCS, as far as they are not there already. */
static void load_block(struct nv_vmx *vmx)
{
	const uint64_t *regs = vmx->switched.mailbox->regs;

	if (regs[NV_REG_RIP] != got(vmx, NV_VMX_RIP))
		nv_vmx_put(vmx, NV_VMCS_GUEST_RIP, regs[NV_REG_RIP]);
	if (regs[NV_REG_RSP] != got(vmx, NV_VMX_RSP))
		nv_vmx_put(vmx, NV_VMCS_GUEST_RSP, regs[NV_REG_RSP]);
	if (regs[NV_REG_RFLAGS] != got(vmx, NV_VMX_RFLAGS))
		nv_vmx_put(vmx, NV_VMCS_GUEST_RFLAGS, regs[NV_REG_RFLAGS]);
}

static void save_block(struct nv_vmx *vmx)
{
	uint64_t *regs = vmx->switched.mailbox->regs;

	regs[NV_REG_RIP] = got(vmx, NV_VMX_RIP);
	regs[NV_REG_RSP] = got(vmx, NV_VMX_RSP);
	regs[NV_REG_RFLAGS] = got(vmx, NV_VMX_RFLAGS);
	vmx->block->writes = 0;
}

static int is_nmi(const struct nv_vmx *vmx)
{
	return (vmx->block->reason & BASIC_MASK) == BASIC_NMI &&
	       (got(vmx, NV_VMX_INTERRUPTION) >> EVENT_KIND & EVENT_KINDS) == NV_EVENT_NMI;
}

static int vmx_enter(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	uint64_t state = vmx->switched.mailbox->state;
	int result;

	if (state != NV_SWITCHER_RUNNING)
		load_block(vmx);
	result = nv_direct_enter(vcpu);
	if (result || !nv_switched_rang(vcpu))
		return result;
	if (vmx->switched.mailbox->state != NV_SWITCHER_EXIT)
		return 0;
	save_block(vmx);
	if (vmx->switched.recalling && is_nmi(vmx)) {
		vmx->switched.recalling = 0;
		return 0;
	}
	return 0;
}

static uint64_t qualifier_of(const struct nv_vmx *vmx, const struct nv_exit_row *row, uint64_t basic)
{
	const uint64_t *regs = vmx->switched.mailbox->regs;
	uint64_t information = got(vmx, NV_VMX_QUALIFICATION);

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
		return (basic == BASIC_NMI ? got(vmx, NV_VMX_INTERRUPTION) : information) & 0xff;
	case NV_FROM_REGISTER:
		return information & 15;
	case NV_FROM_TABLE:
		return row->value + (got(vmx, NV_VMX_INSTRUCTION) >> 28 & 1);
	case NV_FROM_PHYSICAL:
		return got(vmx, NV_VMX_PHYSICAL);
	default:
		return 0;
	}
}

static void decode_exit(const struct nv_vmx *vmx, struct nv_event *event)
{
	uint64_t basic = vmx->block->reason & BASIC_MASK;
	const struct nv_exit_row *row = nv_vmx_exit_row(basic);

	event->raw = basic;
	event->reason = row->reason;
	event->direction = row->direction;
	event->qualifier = qualifier_of(vmx, row, basic);
	event->value = 0;
	event->info = vmx->block->depth[basic & (NV_VMX_BASIC_REASONS - 1)] > NV_VMX_QUALIFICATION ? got(vmx, NV_VMX_QUALIFICATION) : 0;
	event->data = NULL;
	event->count = 1;
	event->size = 0;
	event->instruction_length = 0;
	event->advance = row->length ? got(vmx, NV_VMX_LENGTH) : 0;
	if (is_nmi(vmx))
		event->reason = row->other;
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
		if (got(vmx, NV_VMX_INTERRUPTIBILITY) & BLOCKED_BY_STI_OR_MOV_SS)
			nv_vmx_put(vmx, NV_VMCS_GUEST_INTERRUPTIBILITY, got(vmx, NV_VMX_INTERRUPTIBILITY) & BLOCKED_BY_NMI);
	}
}

static const struct nv_engine_ops vmx_ops = {
	.enter = vmx_enter,
	.decode = vmx_decode,
	.complete = vmx_complete,
};

void nv_vmx_init(struct nv_vcpu *vcpu, struct nv_vmx *vmx, int fd, struct kvm_run *run, uint8_t level)
{
	struct nv_vmx_block *block = vmx->block;

	for (size_t i = 0; i < sizeof exit_fields / sizeof exit_fields[0]; i++)
		block->exit[i].encoding = exit_fields[i];
	memset(block->depth, NV_VMX_LINEAR + 1, sizeof block->depth);
	nv_vcpu_init(vcpu, &vmx_ops, level);
	vcpu->engine = vmx;
	vcpu->fd = fd;
	vcpu->run = run;
}
