#include "cpuid_server.h"

#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

#include "registers.h"
#include "switcher/mailbox.h"
#include "table.h"

enum { EAX, EBX, ECX, EDX };

#define LEAF_1_OSXSAVE (1u << 27)
#define LEAF_7_OSPKE (1u << 4)
#define LEAF_D1_XSAVEC (1u << 1)
#define LEAF_D1_XSAVES (1u << 3)

#define MSR_XSS 0xda0
#define XSAVE_LEGACY 576       /* x87, SSE, and the header */
#define COMPONENT_ALIGNED 2    /* ECX of a component's sub-leaf: at a multiple of 64 in the compacted format */

static const struct kvm_cpuid_entry2 *find(const struct nv_cpuid *cpuid, uint32_t leaf, uint32_t subleaf)
{
	for (uint32_t i = 0; i < cpuid->count; i++) {
		const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		if (entry->function == leaf && (!(entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || entry->index == subleaf))
			return entry;
	}
	return NULL;
}

/* "GenuineIntel", in the order of EBX, EDX, ECX. */
static int is_intel(const struct kvm_cpuid_entry2 *basic)
{
	return basic->ebx == 0x756e6547 && basic->edx == 0x49656e69 && basic->ecx == 0x6c65746e;
}

/* Intel's processors give the last basic leaf for what is beyond the last leaf of its class (hypervisors' leaves are a class). */
static const struct kvm_cpuid_entry2 *beyond(const struct nv_cpuid *cpuid, uint32_t leaf, uint32_t subleaf)
{
	const struct kvm_cpuid_entry2 *basic = find(cpuid, 0, 0), *first;

	if (!basic || !is_intel(basic))
		return NULL;
	first = leaf >> 28 == 4 ? find(cpuid, leaf & 0xffffff00, 0) : find(cpuid, leaf & 0x80000000, 0);
	if (first && leaf <= first->eax)
		return NULL;
	return find(cpuid, basic->eax, subleaf);
}

static uint64_t xcr0_of(const struct nv_cpuid *cpuid)
{
	struct kvm_xcrs xcrs = {0};

	if (ioctl(cpuid->fd, KVM_GET_XCRS, &xcrs))
		return 1;
	for (uint32_t i = 0; i < xcrs.nr_xcrs && i < KVM_MAX_XCRS; i++)
		if (!xcrs.xcrs[i].xcr)
			return xcrs.xcrs[i].value;
	return 1;
}

static uint64_t xss_of(const struct nv_cpuid *cpuid)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = {.head.nmsrs = 1, .entry.index = MSR_XSS};

	return ioctl(cpuid->fd, KVM_GET_MSRS, &one) == 1 ? one.entry.data : 0;
}

/* Bytes of an XSAVE area with these components. */
static uint32_t area_size(const struct nv_cpuid *cpuid, uint64_t components, int compacted)
{
	uint32_t size = XSAVE_LEGACY;

	for (uint32_t number = 2; number < 63; number++) {
		const struct kvm_cpuid_entry2 *entry = components >> number & 1 ? find(cpuid, 0xd, number) : NULL;
		uint32_t offset;

		if (!entry)
			continue;
		offset = compacted ? (entry->ecx & COMPONENT_ALIGNED ? (size + 63) & ~63u : size) : entry->ebx;
		if (offset + entry->eax > size)
			size = offset + entry->eax;
	}
	return size;
}

static void set_bit(uint32_t *word, uint32_t bit, int on)
{
	*word = on ? *word | bit : *word & ~bit;
}

void nv_cpuid_leaf(const struct nv_cpuid *cpuid, uint32_t leaf, uint32_t subleaf, uint32_t answer[4])
{
	const struct kvm_cpuid_entry2 *entry = find(cpuid, leaf, subleaf);

	memset(answer, 0, 4 * sizeof answer[0]);
	if (!entry && (leaf == 0xb || leaf == 0x1f) && find(cpuid, leaf, 0)) {
		/* beyond the last level of the topology the number of the level and the APIC id remain */
		answer[ECX] = subleaf & 0xff;
		answer[EDX] = find(cpuid, leaf, 0)->edx;
		return;
	}
	if (!entry)
		entry = beyond(cpuid, leaf, subleaf);
	if (!entry)
		return;
	answer[EAX] = entry->eax;
	answer[EBX] = entry->ebx;
	answer[ECX] = entry->ecx;
	answer[EDX] = entry->edx;
	if (entry->function == 1) {
		set_bit(&answer[ECX], LEAF_1_OSXSAVE, !!(*cpuid->cr4 & CR4_OSXSAVE));
	} else if (entry->function == 7 && !entry->index) {
		set_bit(&answer[ECX], LEAF_7_OSPKE, !!(*cpuid->cr4 & CR4_PKE));
	} else if (entry->function == 0xd && entry->index == 0) {
		answer[EBX] = area_size(cpuid, xcr0_of(cpuid), 0);
	} else if (entry->function == 0xd && entry->index == 1 && entry->eax & (LEAF_D1_XSAVEC | LEAF_D1_XSAVES)) {
		answer[EBX] = area_size(cpuid, xcr0_of(cpuid) | xss_of(cpuid), 1);
	}
}

int nv_cpuid_serve(void *device, uint64_t offset, struct nv_event *event)
{
	struct nv_cpuid *cpuid = device;
	uint32_t answer[4];

	(void)offset;
	(void)event;
	nv_cpuid_leaf(cpuid, cpuid->regs[NV_REG_RAX], cpuid->regs[NV_REG_RCX], answer);
	cpuid->regs[NV_REG_RAX] = answer[EAX];
	cpuid->regs[NV_REG_RBX] = answer[EBX];
	cpuid->regs[NV_REG_RCX] = answer[ECX];
	cpuid->regs[NV_REG_RDX] = answer[EDX];
	return NV_HANDLED;
}
