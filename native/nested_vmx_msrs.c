#include "nested_vmx_internal.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

/* Those that the VMCS has while level n is outside. */
enum { SYSENTER_CS = 0x174, SYSENTER_ESP = 0x175, SYSENTER_EIP = 0x176, DEBUGCTL = 0x1d9, EFER = 0xc0000080 };

/* Those that KVM keeps for level n's processor, and that name none of its memory. */
static const uint32_t live[] = {
	0x10,       /* TSC */
	0x48,       /* SPEC_CTRL */
	0x1a0,      /* MISC_ENABLE */
	0x277,      /* PAT */
	0x38f,      /* PERF_GLOBAL_CTRL */
	0xda0,      /* XSS */
	0xc0000081, /* STAR */
	0xc0000082, /* LSTAR */
	0xc0000083, /* CSTAR */
	0xc0000084, /* FMASK */
	0xc0000102, /* KERNEL_GS_BASE */
	0xc0000103, /* TSC_AUX */
};

static uint32_t in_block(uint32_t index)
{
	switch (index) {
	case SYSENTER_CS:
		return NV_VMCS_GUEST_SYSENTER_CS;
	case SYSENTER_ESP:
		return NV_VMCS_GUEST_SYSENTER_ESP;
	case SYSENTER_EIP:
		return NV_VMCS_GUEST_SYSENTER_EIP;
	case DEBUGCTL:
		return NV_VMCS_GUEST_DEBUGCTL;
	case EFER:
		return NV_VMCS_GUEST_EFER;
	default:
		return 0;
	}
}

static int is_live(uint32_t index)
{
	for (unsigned int i = 0; i < sizeof live / sizeof live[0]; i++)
		if (live[i] == index)
			return 1;
	return 0;
}

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

int nv_nested_vmx_get_msr(struct nv_nested *nested, uint32_t index, uint64_t *value)
{
	struct one_msr msr = {.head = {.nmsrs = 1}, .entry = {.index = index}};
	struct nv_vmx_field field = {in_block(index), 0};
	int result;

	if (field.encoding) {
		result = nv_vmx_exchange(nested->vcpu, &field, 1);
		*value = field.value;
		return result;
	}
	if (!is_live(index) || ioctl(nested->vcpu->fd, KVM_GET_MSRS, &msr) != 1)
		return -ENOENT;
	*value = msr.entry.data;
	return 0;
}

static int set_efer(struct nv_nested *nested, uint64_t value)
{
	uint64_t now;
	int result = nv_nested_vmx_get_msr(nested, EFER, &now);

	if (result)
		return result;
	/* the mode is the entry's */
	if (value & ~(nested->vmx_limits.efer_allowed | EFER_LMA) || (value ^ now) & EFER_LME)
		return -ENOENT;
	nv_vmx_put(nested->vmx, NV_VMCS_GUEST_EFER, (value & ~EFER_LMA) | (now & EFER_LMA));
	return 0;
}

/* Whether WRMSR would take it, of those in the block but EFER. */
static int takes(uint32_t index, uint64_t value)
{
	switch (index) {
	case SYSENTER_ESP:
	case SYSENTER_EIP:
		return is_canonical(value);
	case DEBUGCTL:
		return !(value & DEBUGCTL_RESERVED);
	default:
		return 1;
	}
}

int nv_nested_vmx_set_msr(struct nv_nested *nested, uint32_t index, uint64_t value)
{
	struct one_msr msr = {.head = {.nmsrs = 1}, .entry = {.index = index, .data = value}};

	if (index == EFER)
		return set_efer(nested, value);
	if (in_block(index)) {
		if (!takes(index, value))
			return -ENOENT;
		nv_vmx_put(nested->vmx, in_block(index), value);
		return 0;
	}
	return is_live(index) && ioctl(nested->vcpu->fd, KVM_SET_MSRS, &msr) == 1 ? 0 : -ENOENT;
}

static struct nv_nested_vmx_listed *entry_at(struct nv_nested *nested, struct nv_machine *machine, uint64_t list, uint64_t i, int write)
{
	struct nv_nested_place place;

	return (struct nv_nested_vmx_listed *)nv_nested_page(nested, machine, list + i * sizeof(struct nv_nested_vmx_listed), write, &place);
}

int64_t nv_nested_vmx_load_msrs(struct nv_nested *nested, struct nv_machine *machine, uint64_t list, uint64_t count)
{
	for (uint64_t i = 0; i < count && i < NV_VMX_LIST_MAX; i++) {
		const struct nv_nested_vmx_listed *at = entry_at(nested, machine, list, i, 0);
		struct nv_nested_vmx_listed entry;
		int result;

		if (!at)
			return i + 1;
		entry = *at;
		result = entry.reserved ? -ENOENT : nv_nested_vmx_set_msr(nested, entry.index, entry.value);
		if (result == -ENOENT)
			return i + 1;
		if (result)
			return result;
	}
	return 0;
}

int64_t nv_nested_vmx_store_msrs(struct nv_nested *nested, struct nv_machine *machine, uint64_t list, uint64_t count)
{
	for (uint64_t i = 0; i < count && i < NV_VMX_LIST_MAX; i++) {
		struct nv_nested_vmx_listed *at = entry_at(nested, machine, list, i, 1);
		uint64_t value;
		int result;

		if (!at || at->reserved)
			return i + 1;
		result = nv_nested_vmx_get_msr(nested, at->index, &value);
		if (result == -ENOENT)
			return i + 1;
		if (result)
			return result;
		at->value = value;
	}
	return 0;
}
