/* SVM: AMD APM vol. 2, chapter 15. The registers that VMLOAD loads are the guest's from the start, as minivisor uses none. The guest's
 * own SVM is nest.c's. */
#include "memory.h"
#include "minivisor.h"
#include "msr.h"
#include "nest.h"
#include "offer.h"
#include "option.h"
#include "vendor.h"
#include "vmcb.h"

#define VM_CR_SVMDIS (1 << 4)
#define NO_EXECUTE (1 << 20) /* of CPUID 80000001, EDX */

/* Attributes of a segment: the descriptor's bits 40 to 47, and 52 to 55 behind them. */
enum { CODE_64 = 0xa9b, DATA = 0xc93, BUSY_TSS = 0x8b };

const char vendor_name[] = "SVM";
const uint64_t vendor_table = 7; /* user, writable, present: nested accesses are a user's */
const uint64_t vendor_page = 0x87;

struct registers guest_registers;
struct vmcb block __attribute__((aligned(4096)));
struct vmcb *running = &block;
static uint8_t host_save[4096] __attribute__((aligned(4096)));
static uint8_t io_map[IO_MAP_SIZE] __attribute__((aligned(4096)));
static uint8_t msr_map[MSR_MAP_SIZE] __attribute__((aligned(4096)));
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
	if (edx & NO_EXECUTE)
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE); /* its guest's nested page tables may use it, and so ours for it */
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
	block.intercept[code / 32] |= 1u << code % 32;
}

static void fill_controls(void)
{
	static const uint8_t intercepted[] = {
		CODE_CPUID, CODE_INVLPGA, CODE_IO, CODE_MSR, CODE_SHUTDOWN, CODE_VMRUN, CODE_VMMCALL, CODE_VMLOAD, CODE_VMSAVE,
		CODE_STGI, CODE_CLGI, CODE_SKINIT,
	};

	for (unsigned int i = 0; i < sizeof intercepted; i++)
		intercept(intercepted[i]);
	if (option_word("traps"))
		intercept(CODE_DEBUG);
	io_map[OWN_PORT(level) / 8] |= (uint8_t)(1 << OWN_PORT(level) % 8);
	nest_intercept_msrs(msr_map);
	block.iopm = (uintptr_t)io_map;
	block.msrpm = (uintptr_t)msr_map;
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
	uint64_t info = running->exit_info_1;

	switch (running->exit_code) {
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
		exit->address = 0;
		break;
	case CODE_DEBUG:
		exit->reason = EXIT_TRAP;
		break;
	case CODE_NESTED_PAGE_FAULT:
		exit->reason = EXIT_OUTSIDE;
		exit->address = running->exit_info_2;
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

/* The guest, or the guest that it runs itself. */
static void run_once(void)
{
	running->rax = guest_registers.rax;
	world_run();
	guest_registers.rax = running->rax;
	running->tlb_control = 0;
	running->event_injection = 0;
}

void vendor_run(struct exit *exit)
{
	do
		run_once();
	while (nest_exit());
	exit->code = running->exit_code;
	exit->rip = running->rip;
	decode(exit);
}

/* Where the instruction ends that the guest stopped at. */
static uint64_t behind(void)
{
	uint64_t info = running->exit_info_1;

	if (has_next_rip)
		return running->next_rip;
	if (running->exit_code == CODE_CPUID || running->exit_code == CODE_MSR)
		return running->rip + 2;
	if (running->exit_code != CODE_IO)
		return running->rip + 3;
	if (running->exit_info_2 != running->rip)
		return running->exit_info_2;
	/* QEMU's TCG leaves RIP itself there. The port is in DX, as it is above 255; 16 bits take a prefix. */
	return running->rip + (IO_SIZE(info) == 2 ? 2 : 1);
}

void vendor_skip(void)
{
	running->rip = behind();
	running->interrupt_shadow &= ~(uint64_t)INTERRUPT_SHADOW;
}

void vendor_undefined(void)
{
	running->event_injection = INJECT_UNDEFINED;
}

void vendor_inject(uint64_t event)
{
	running->event_injection = EVENT_VALID | event;
}

void vendor_trap(void)
{
	running->event_injection = INJECT_DEBUG; /* DR6 is set already */
}

uint64_t vendor_flags(void)
{
	return running->rflags;
}

uint64_t vendor_hypercall(uint64_t number, uint64_t wanted, uint64_t value)
{
	asm volatile("vmmcall" : "+a"(number) : "b"(wanted), "c"(value) : "memory");
	return number;
}
