/* SVM: AMD APM vol. 2, chapter 15. The registers that VMLOAD loads are the guest's from the start, as minivisor uses none. */
#include "memory.h"
#include "minivisor.h"
#include "msr.h"
#include "offer.h"
#include "vendor.h"
#include "vmcb.h"

#define MSR_VM_CR 0xc0010114
#define VM_CR_SVMDIS (1 << 4)
#define MSR_VM_HSAVE_PA 0xc0010117
#define EFER_SVME (1 << 12)

/* Exit codes (appendix C); from 0x60 on they number the bits of the intercept vectors, too. */
enum {
	CODE_CPUID = 0x72,
	CODE_IO = 0x7b,
	CODE_SHUTDOWN = 0x7f,
	CODE_VMRUN = 0x80,
	CODE_VMMCALL = 0x81,
	CODE_NESTED_PAGE_FAULT = 0x400,
};
#define CODE_INVALID (~0ull)

#define IO_IN (1 << 0)
#define IO_STRING (1 << 2)
#define IO_SIZE(info) ((uint8_t)((info) >> 4 & 7))
#define IO_PORT(info) ((uint16_t)((info) >> 16))

#define INTERRUPT_SHADOW 1
#define INJECT_UNDEFINED (1ull << 31 | 3 << 8 | 6)
#define TLB_FLUSH_ALL 1

/* Attributes of a segment: the descriptor's bits 40 to 47, and 52 to 55 behind them. */
enum { CODE_64 = 0xa9b, DATA = 0xc93, BUSY_TSS = 0x8b };

const char vendor_name[] = "SVM";
const uint64_t vendor_table = 7; /* user, writable, present: nested accesses are a user's */
const uint64_t vendor_page = 0x87;

struct registers guest_registers;
extern struct vmcb block;
struct vmcb block __attribute__((aligned(4096)));
static uint8_t host_save[4096] __attribute__((aligned(4096)));
static uint8_t io_map[3 * 4096] __attribute__((aligned(4096)));
static bool has_next_rip;

void world_run(void);

static void cpuid(uint32_t leaf, uint32_t *ecx, uint32_t *edx)
{
	uint32_t eax = leaf, ebx;

	*ecx = 0;
	asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(*ecx), "=d"(*edx));
}

static void enable(void)
{
	uint32_t ecx, edx;

	cpuid(0x80000001, &ecx, &edx);
	if (!(ecx & 1 << 2))
		stop(STATUS_USAGE, "this processor has no SVM");
	cpuid(0x8000000a, &ecx, &edx);
	if (!(edx & 1 << 0))
		stop(STATUS_USAGE, "this processor's SVM has no nested paging");
	has_next_rip = edx & 1 << 3;
	if (rdmsr(MSR_VM_CR) & VM_CR_SVMDIS)
		stop(STATUS_USAGE, "the firmware disabled SVM");
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
	wrmsr(MSR_VM_HSAVE_PA, (uintptr_t)host_save);
}

static void intercept(unsigned int code)
{
	block.intercept[(code - 0x60) / 32] |= 1u << (code - 0x60) % 32;
}

static void fill_controls(void)
{
	io_map[OWN_PORT(level) / 8] |= (uint8_t)(1 << OWN_PORT(level) % 8);
	intercept(CODE_CPUID);
	intercept(CODE_IO);
	intercept(CODE_SHUTDOWN);
	intercept(CODE_VMRUN); /* or VMRUN refuses the block */
	intercept(CODE_VMMCALL);
	block.iopm = (uintptr_t)io_map;
	block.asid = 1;
	block.tlb_control = TLB_FLUSH_ALL; /* who knows what used it before */
	block.nested_paging = 1;
	block.nested_cr3 = memory_root();
}

static void fill_state(const struct guest_start *start)
{
	const struct vmcb_segment data = {GUEST_DS, DATA, 0xffffffff, 0};

	block.cs = (struct vmcb_segment){GUEST_CS, CODE_64, 0xffffffff, 0};
	block.es = block.ss = block.ds = block.fs = block.gs = data;
	block.gdtr.base = start->gdt_base;
	block.gdtr.limit = start->gdt_limit;
	block.tr = (struct vmcb_segment){0, BUSY_TSS, 0xffff, 0};
	block.efer = GUEST_EFER | EFER_SVME;
	block.cr4 = GUEST_CR4;
	block.cr3 = start->cr3;
	block.cr0 = GUEST_CR0;
	block.dr7 = GUEST_DR7;
	block.dr6 = 0xffff0ff0;
	block.rflags = GUEST_RFLAGS;
	block.rip = start->rip;
	block.rsp = start->rsp;
	block.guest_pat = rdmsr(MSR_PAT);
	guest_registers.rdi = start->rdi;
	guest_registers.rsi = start->rsi;
}

void vendor_init(const struct guest_start *start)
{
	enable();
	fill_controls();
	fill_state(start);
	asm volatile("vmload %0" :: "a"(&block) : "memory");
}

static void decode(struct exit *exit)
{
	uint64_t info = block.exit_info_1;

	switch (block.exit_code) {
	case CODE_CPUID:
		exit->reason = EXIT_CPUID;
		break;
	case CODE_VMMCALL:
		exit->reason = EXIT_HYPERCALL;
		break;
	case CODE_IO:
		exit->reason = EXIT_PORT;
		exit->port = IO_PORT(info);
		exit->size = IO_SIZE(info);
		exit->in = info & IO_IN;
		exit->string = info & IO_STRING;
		break;
	case CODE_NESTED_PAGE_FAULT:
		exit->reason = EXIT_OUTSIDE;
		exit->address = block.exit_info_2;
		break;
	case CODE_VMRUN:
		exit->reason = EXIT_NESTING;
		break;
	case CODE_SHUTDOWN:
		exit->reason = EXIT_SHUTDOWN;
		break;
	case CODE_INVALID:
		exit->reason = EXIT_REFUSED;
		break;
	default:
		exit->reason = EXIT_OTHER;
	}
}

void vendor_run(struct exit *exit)
{
	block.rax = guest_registers.rax;
	world_run();
	guest_registers.rax = block.rax;
	block.tlb_control = 0;
	block.event_injection = 0;
	exit->code = block.exit_code;
	exit->rip = block.rip;
	decode(exit);
}

/* Where the instruction ends that the guest stopped at. */
static uint64_t behind(void)
{
	uint64_t info = block.exit_info_1;

	if (has_next_rip)
		return block.next_rip;
	if (block.exit_code == CODE_CPUID)
		return block.rip + 2;
	if (block.exit_code == CODE_VMMCALL)
		return block.rip + 3;
	if (block.exit_info_2 != block.rip)
		return block.exit_info_2;
	/* QEMU's TCG leaves RIP itself there. The port is in DX, as it is above 255; 16 bits take a prefix. */
	return block.rip + (IO_SIZE(info) == 2 ? 2 : 1);
}

void vendor_skip(void)
{
	block.rip = behind();
	block.interrupt_shadow &= ~(uint64_t)INTERRUPT_SHADOW;
}

void vendor_undefined(void)
{
	block.event_injection = INJECT_UNDEFINED;
}

uint64_t vendor_hypercall(uint64_t number, uint64_t wanted, uint64_t value)
{
	asm volatile("vmmcall" : "+a"(number) : "b"(wanted), "c"(value) : "memory");
	return number;
}
