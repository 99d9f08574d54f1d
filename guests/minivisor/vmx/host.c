#include <stdbool.h>

#include "host.h"
#include "minivisor.h"
#include "msr.h"
#include "vendor.h"
#include "vmcs.h"

#define MSR_FEATURE_CONTROL 0x3a
#define FEATURE_LOCKED (1 << 0)
#define FEATURE_VMX (1 << 2)
#define CR4_VMXE (1 << 13)

enum { HOST_CS = 0x08, HOST_DS = 0x10, HOST_TSS = 0x20 };

struct __attribute__((packed)) table_pointer {
	uint16_t limit;
	uint64_t base;
};

static struct vmcs vmxon_region;
static uint32_t tss[26] __attribute__((aligned(16)));
/* That of start64.S, and the TSS that an exit wants, which no exception here uses. */
static uint64_t gdt[] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0, 0};

extern char world_exit[];

#define READ(name) \
	static uint64_t read_##name(void) \
	{ \
		uint64_t value; \
\
		asm volatile("mov %%" #name ", %0" : "=r"(value)); \
		return value; \
	}

READ(cr0)
READ(cr3)
READ(cr4)

uint64_t host_fixed(uint64_t value, uint32_t msr)
{
	return (value | rdmsr(msr)) & rdmsr(msr + 1);
}

static uint32_t revision(void)
{
	return (uint32_t)rdmsr(MSR_VMX_BASIC) & 0x7fffffff;
}

static void load_tss(void)
{
	const struct table_pointer pointer = {sizeof gdt - 1, (uintptr_t)gdt};
	uint64_t base = (uintptr_t)tss;

	gdt[4] = (sizeof tss - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	asm volatile("lgdt %0" :: "m"(pointer));
	asm volatile("ltr %w0" :: "r"(HOST_TSS) : "memory");
}

/* VMXON, VMCLEAR and VMPTRLD: whether the processor took it. */
#define TAKES(instruction, region) \
	({ \
		uint64_t address = (uintptr_t)(region); \
		bool took; \
\
		asm volatile(instruction " %1" : "=@cca"(took) : "m"(address) : "memory"); \
		took; \
	})

void host_enable(void)
{
	uint32_t eax = 1, ebx, ecx = 0, edx;

	asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	if (!(ecx & 1 << 5))
		stop(STATUS_USAGE, "this processor has no VMX");
	if (!(rdmsr(MSR_FEATURE_CONTROL) & FEATURE_LOCKED))
		wrmsr(MSR_FEATURE_CONTROL, FEATURE_LOCKED | FEATURE_VMX);
	if (!(rdmsr(MSR_FEATURE_CONTROL) & FEATURE_VMX))
		stop(STATUS_USAGE, "the firmware disabled VMX");
	load_tss();
	asm volatile("mov %0, %%cr0" :: "r"(host_fixed(read_cr0(), MSR_CR0_FIXED0)));
	asm volatile("mov %0, %%cr4" :: "r"(host_fixed(read_cr4() | CR4_VMXE, MSR_CR4_FIXED0)));
	vmxon_region.region[0] = revision();
	if (!TAKES("vmxon", &vmxon_region))
		stop(STATUS_USAGE, "the processor does not enter VMX operation");
}

void host_use(struct vmcs *vmcs)
{
	if (!TAKES("vmptrld", vmcs))
		stop(STATUS_USAGE, "the processor does not take a VMCS at 0x%lx", (uintptr_t)vmcs);
}

void host_clear(struct vmcs *vmcs)
{
	vmcs->region[0] = revision();
	if (!TAKES("vmclear", vmcs))
		stop(STATUS_USAGE, "the processor does not clear a VMCS at 0x%lx", (uintptr_t)vmcs);
	host_use(vmcs);
}

void host_fill(void)
{
	struct table_pointer idt;

	asm volatile("sidt %0" : "=m"(idt));
	vmwrite(VMCS_HOST_CR0, read_cr0());
	vmwrite(VMCS_HOST_CR3, read_cr3());
	vmwrite(VMCS_HOST_CR4, read_cr4());
	for (unsigned int i = SEGMENT_ES; i <= SEGMENT_GS; i++)
		vmwrite(VMCS_HOST_ES + 2 * i, i == SEGMENT_CS ? HOST_CS : i == SEGMENT_SS ? HOST_DS : 0);
	vmwrite(VMCS_HOST_TR, HOST_TSS);
	vmwrite(VMCS_HOST_FS_BASE, 0);
	vmwrite(VMCS_HOST_GS_BASE, 0);
	vmwrite(VMCS_HOST_TR_BASE, (uintptr_t)tss);
	vmwrite(VMCS_HOST_GDTR_BASE, (uintptr_t)gdt);
	vmwrite(VMCS_HOST_IDTR_BASE, idt.base);
	vmwrite(VMCS_HOST_SYSENTER_CS, 0);
	vmwrite(VMCS_HOST_SYSENTER_ESP, 0);
	vmwrite(VMCS_HOST_SYSENTER_EIP, 0);
	vmwrite(VMCS_HOST_RSP, (uintptr_t)(&guest_registers + 1));
	vmwrite(VMCS_HOST_RIP, (uintptr_t)world_exit);
}
