#include "nested_vmx_internal.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

/* A level's entry or exit moves some hundred fields, and each VMREAD or VMWRITE of the switcher's is an exit to KVM. VMCLEAR moves them all
 * at once: it puts the VMCS into its memory, and VMPTRLD takes it from there. In which form is the processor's own business (Intel SDM
 * vol. 3, 25.2), here KVM's, so it is found out: each field gets a value that no other one has, and is then looked for. */

enum { WIDTH_16, WIDTH_64, WIDTH_32, WIDTH_NATURAL };

#define WIDTH(encoding) ((encoding) >> 13 & 3)

/* First and last encoding of runs of fields that L0 moves. */
static const uint16_t runs[][2] = {
	{NV_VMCS_GUEST_ES, NV_VMCS_GUEST_TR},
	{NV_VMCS_IO_BITMAP_A, NV_VMCS_MSR_BITMAP},
	{NV_VMCS_TSC_OFFSET, NV_VMCS_TSC_OFFSET},
	{NV_VMCS_EPT_POINTER, NV_VMCS_EPT_POINTER},
	{NV_VMCS_GUEST_DEBUGCTL, NV_VMCS_GUEST_DEBUGCTL},
	{NV_VMCS_GUEST_EFER, NV_VMCS_GUEST_EFER},
	{NV_VMCS_GUEST_PDPTE0, NV_VMCS_GUEST_PDPTE0 + 6},
	{NV_VMCS_PIN_CONTROLS, NV_VMCS_EXCEPTION_BITMAP},
	{NV_VMCS_EXIT_CONTROLS, NV_VMCS_EXIT_CONTROLS},
	{NV_VMCS_ENTRY_CONTROLS, NV_VMCS_ENTRY_CONTROLS},
	{NV_VMCS_ENTRY_INTERRUPTION, NV_VMCS_ENTRY_LENGTH},
	{NV_VMCS_SECONDARY_CONTROLS, NV_VMCS_SECONDARY_CONTROLS},
	{NV_VMCS_GUEST_ES_LIMIT, NV_VMCS_GUEST_ACTIVITY},
	{NV_VMCS_GUEST_SYSENTER_CS, NV_VMCS_GUEST_SYSENTER_CS},
	{NV_VMCS_CR0_MASK, NV_VMCS_CR4_SHADOW},
	{NV_VMCS_GUEST_CR0, NV_VMCS_GUEST_SYSENTER_EIP},
};

/* Of access rights only some bits are kept. */
static uint64_t mark(uint32_t encoding)
{
	switch (WIDTH(encoding)) {
	case WIDTH_16:
		return 0xb000 | (encoding & 0xfff);
	case WIDTH_32:
		if (encoding >= NV_VMCS_GUEST_ES_RIGHTS && encoding < NV_VMCS_GUEST_ES_RIGHTS + 16)
			return 0x1a0c0 | (encoding - NV_VMCS_GUEST_ES_RIGHTS) / 2;
		return 0x4e560000 | encoding;
	default:
		return 0x4e574e5800000000 | 0x4e590000 | encoding;
	}
}

static uint32_t size_of(uint32_t encoding)
{
	return WIDTH(encoding) == WIDTH_16 ? 2 : WIDTH(encoding) == WIDTH_32 ? 4 : 8;
}

static uint64_t load(const uint8_t *at, uint32_t size)
{
	uint64_t value = 0;

	memcpy(&value, at, size);
	return value;
}

/* The only place where the field's mark is; 0: there is none, or more than one. */
static uint32_t find(const uint8_t *memory, uint32_t encoding)
{
	uint32_t size = size_of(encoding), found = 0;

	for (uint32_t at = size; at < PAGE; at += size) {
		if (load(memory + at, size) != mark(encoding))
			continue;
		if (found)
			return 0;
		found = at;
	}
	return found;
}

/* Another VMCS gets all marks, and is put into memory. 1: the processor does not take them. */
static int put_marks(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_vmx_block *block = vmx->block;
	uint64_t own = block->vmcs;
	int result;

	for (unsigned int i = 0; i < sizeof runs / sizeof runs[0]; i++)
		for (uint32_t encoding = runs[i][0]; encoding <= runs[i][1]; encoding += 2)
			block->write[block->writes++] = (struct nv_vmx_field){encoding, mark(encoding)};
	block->vmcs = NV_SWITCHER_BASE + NV_SWITCHER_PROBE;
	result = nv_vmx_command(vcpu, NV_VMX_STORE, NULL, 0);
	block->vmcs = own;
	if (!result || vmx->switched.mailbox->state != NV_SWITCHER_REFUSED)
		return result;
	vmx->switched.mailbox->state = NV_SWITCHER_OUTSIDE;
	block->writes = block->loaded = 0;
	return 1;
}

static int look(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	int result = put_marks(vcpu);

	if (result)
		return result < 0 ? result : 0;
	vmx->placed = 1;
	for (unsigned int i = 0; i < sizeof runs / sizeof runs[0]; i++)
		for (uint32_t encoding = runs[i][0]; encoding <= runs[i][1]; encoding += 2) {
			vmx->places[FIELD_SLOT(encoding)] = find(vmx->probe, encoding);
			if (!vmx->places[FIELD_SLOT(encoding)])
				vmx->placed = 0;
		}
	return 0;
}

static int in_memory(const struct nv_vmx *vmx)
{
	return vmx->placed && !vmx->block->loaded;
}

int nv_vmx_store(struct nv_vcpu *vcpu, struct nv_vmx_field *fields, uint32_t count)
{
	struct nv_vmx *vmx = vcpu->engine;
	int result;

	if (in_memory(vmx) || (vmx->probed && !vmx->placed))
		return nv_vmx_exchange(vcpu, fields, count);
	result = nv_vmx_command(vcpu, NV_VMX_STORE, fields, count);
	if (result || vmx->probed)
		return result;
	vmx->probed = 1;
	return look(vcpu);
}

int nv_vmx_put_in_memory(struct nv_vmx *vmx, uint64_t encoding, uint64_t value)
{
	uint32_t place = vmx->places[FIELD_SLOT(encoding)];

	if (!in_memory(vmx) || !place)
		return 0;
	memcpy(vmx->memory + place, &value, size_of(encoding));
	return 1;
}

int nv_vmx_get_from_memory(const struct nv_vmx *vmx, struct nv_vmx_field *fields, uint32_t count)
{
	if (!in_memory(vmx))
		return 0;
	for (uint32_t i = 0; i < count; i++)
		if (!vmx->places[FIELD_SLOT(fields[i].encoding)])
			return 0;
	for (uint32_t i = 0; i < count; i++)
		fields[i].value = load(vmx->memory + vmx->places[FIELD_SLOT(fields[i].encoding)], size_of(fields[i].encoding));
	return 1;
}
