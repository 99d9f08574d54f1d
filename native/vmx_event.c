#include "vmx_event.h"

enum { RFLAGS_IF = 1 << 9, CR0_PE = 1 };
enum { PRIMARY_INTERRUPT_WINDOW = 1 << 2, PRIMARY_NMI_WINDOW = 1 << 22 };
/* #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP */
static const uint32_t with_error_code = 1u << 8 | 0x1fu << 10 | 1u << 17 | 1u << 21;

static void set_interruptibility(struct nv_vmx *vmx, uint64_t value)
{
	if (value == vmx->interruptibility)
		return;
	vmx->interruptibility = value;
	nv_vmx_put(vmx, NV_VMCS_GUEST_INTERRUPTIBILITY, value);
}

void nv_vmx_end_shadow(struct nv_vmx *vmx)
{
	set_interruptibility(vmx, vmx->interruptibility & ~(uint64_t)NV_VMX_SHADOW);
}

void nv_vmx_inject_as(struct nv_vmx *vmx, uint64_t information, uint64_t error_code, uint64_t length)
{
	vmx->injected = 1;
	nv_vmx_put(vmx, NV_VMCS_ENTRY_INTERRUPTION, information);
	if (information & NV_VMX_EVENT_ERROR_CODE)
		nv_vmx_put(vmx, NV_VMCS_ENTRY_ERROR_CODE, error_code);
	if (nv_vmx_event_kind(information) >= NV_EVENT_SOFTWARE_INTERRUPT)
		nv_vmx_put(vmx, NV_VMCS_ENTRY_LENGTH, length);
	/* an NMI that is injected must not be blocked: it was its own delivery that blocked it */
	if (nv_vmx_event_kind(information) == NV_EVENT_NMI)
		set_interruptibility(vmx, vmx->interruptibility & ~(uint64_t)NV_VMX_NMI_BLOCKED);
}

int nv_vmx_inject(struct nv_vcpu *vcpu, int kind, uint8_t vector, uint32_t error_code)
{
	struct nv_vmx_field cr0 = {NV_VMCS_GUEST_CR0, 0};
	struct nv_vmx *vmx = vcpu->engine;
	uint64_t information = NV_VMX_EVENT_VALID | (uint32_t)kind << NV_VMX_EVENT_KIND | vector;
	int result;

	if (kind == NV_EVENT_INTERRUPT) {
		vmx->waiting[vector / 64] |= 1ull << vector % 64;
		return 0;
	}
	if (kind == NV_EVENT_NMI) {
		vmx->nmi_waiting = 1;
		return 0;
	}
	if (kind == NV_EVENT_EXCEPTION && with_error_code >> vector & 1) {
		/* an entry checks that an error code is there if it must be: not in real mode (SDM vol. 3, 27.2.1.3) */
		result = nv_vmx_exchange(vcpu, &cr0, 1);
		if (result)
			return result;
		if (cr0.value & CR0_PE)
			information |= NV_VMX_EVENT_ERROR_CODE;
	}
	nv_vmx_inject_as(vmx, information, error_code, 0);
	return 0;
}

void nv_vmx_redeliver(struct nv_vmx *vmx)
{
	uint64_t vectoring = nv_vmx_got(vmx, NV_VMX_VECTORING);
	uint64_t unblocked;

	if (vmx->block->depth[nv_vmx_basic(vmx) & (NV_VMX_BASIC_REASONS - 1)] <= NV_VMX_INTERRUPTION_ERROR)
		return;
	if (vectoring & NV_VMX_EVENT_VALID) {
		/* a task switch is the delivery, if it came of one */
		if (nv_vmx_basic(vmx) != NV_VMX_TASK_SWITCH)
			nv_vmx_inject_as(vmx, vectoring & ~(uint64_t)NV_VMX_EVENT_UNBLOCKED, nv_vmx_got(vmx, NV_VMX_VECTORING_ERROR),
			       nv_vmx_got(vmx, NV_VMX_LENGTH));
		return;
	}
	/* IRET had ended the blocking by NMI before it was stopped: it will again (SDM vol. 3, 28.2.3) */
	if (nv_vmx_basic(vmx) == NV_VMX_EXCEPTION)
		unblocked = nv_vmx_is_nmi(vmx) ? 0 : nv_vmx_got(vmx, NV_VMX_INTERRUPTION) & NV_VMX_EVENT_UNBLOCKED;
	else
		unblocked = nv_vmx_basic(vmx) == NV_VMX_EPT_VIOLATION && nv_vmx_got(vmx, NV_VMX_QUALIFICATION) & NV_VMX_EVENT_UNBLOCKED;
	if (unblocked)
		set_interruptibility(vmx, vmx->interruptibility | NV_VMX_NMI_BLOCKED);
}

/* The highest vector that waits; -1: none. */
static int highest(const struct nv_vmx *vmx)
{
	for (int word = 3; word >= 0; word--)
		if (vmx->waiting[word])
			return 64 * word + 63 - __builtin_clzll(vmx->waiting[word]);
	return -1;
}

void nv_vmx_deliver(struct nv_vmx *vmx)
{
	uint64_t blocked = vmx->interruptibility, windows = 0;
	uint64_t rflags = vmx->switched.mailbox->regs[NV_REG_RFLAGS];
	int vector = highest(vmx);

	if (!vmx->windows && !vmx->nmi_waiting && vector < 0)
		return;
	if (!vmx->injected) {
		if (vmx->nmi_waiting && !(blocked & (NV_VMX_SHADOW | NV_VMX_NMI_BLOCKED))) {
			vmx->nmi_waiting = 0;
			nv_vmx_inject_as(vmx, NV_VMX_EVENT_VALID | NV_EVENT_NMI << NV_VMX_EVENT_KIND | 2, 0, 0);
		} else if (vector >= 0 && rflags & RFLAGS_IF && !(blocked & NV_VMX_SHADOW)) {
			vmx->waiting[vector / 64] &= ~(1ull << vector % 64);
			nv_vmx_inject_as(vmx, NV_VMX_EVENT_VALID | NV_EVENT_INTERRUPT << NV_VMX_EVENT_KIND | (uint32_t)vector, 0, 0);
		}
	}
	if (vmx->nmi_waiting)
		windows |= PRIMARY_NMI_WINDOW;
	if (highest(vmx) >= 0)
		windows |= PRIMARY_INTERRUPT_WINDOW;
	vmx->windows = !!windows;
	if (!vmx->stepping)
		nv_vmx_put(vmx, NV_VMCS_PRIMARY_CONTROLS, vmx->primary | windows);
}

int nv_vmx_is_own_window(const struct nv_vmx *vmx)
{
	uint32_t basic = nv_vmx_basic(vmx);

	if (basic == NV_VMX_NMI_WINDOW)
		return !(vmx->primary & PRIMARY_NMI_WINDOW);
	return basic == NV_VMX_INTERRUPT_WINDOW && !(vmx->primary & PRIMARY_INTERRUPT_WINDOW);
}
