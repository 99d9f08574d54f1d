#include "nest.h"
#include "memory.h"
#include "minivisor.h"
#include "msr.h"
#include "nest_paging.h"
#include "nest_tables.h"
#include "offer.h"
#include "vendor.h"

#define EFER_KNOWN 0x5d01ull /* FFXSR, SVME, NXE, LMA, LME, SCE */
#define EFER_LME (1ull << 8)
#define CR0_PE (1ull << 0)
#define CR0_PG (1ull << 31)
#define DR7_OFF 0x400
#define PAGE 4096

/* How much of the maps says something. */
#define IO_MAP_USED 0x2008
#define MSR_MAP_USED 0x1800

static struct vmcb merged __attribute__((aligned(4096)));
static uint8_t io_map[IO_MAP_SIZE] __attribute__((aligned(4096)));
static uint8_t msr_map[MSR_MAP_SIZE] __attribute__((aligned(4096)));

/* The guest's processor. */
static bool has_svm;             /* EFER.SVME */
static uint64_t host_save;       /* VM_HSAVE_PA, which nothing uses */
static struct vmcb *asked;       /* its block that runs */
static uint32_t intercepts[6];   /* of that, when it was entered */
static const uint8_t *asked_io, *asked_msr;

static bool in_map(const uint8_t *map, unsigned int bit)
{
	return map[bit / 8] >> bit % 8 & 1;
}

/* Where an MSR's bits are: for reads, and for writes behind it; -1: the map has none (15.11). */
static int msr_bit(uint32_t index)
{
	static const uint32_t first[] = {0, 0xc0000000, 0xc0010000};

	for (int i = 0; i < 3; i++)
		if (index - first[i] < 0x2000)
			return i * 0x4000 + 2 * (int)(index - first[i]);
	return -1;
}

void nest_intercept_msrs(uint8_t *map)
{
	static const uint32_t own[] = {MSR_EFER, MSR_VM_CR, MSR_VM_HSAVE_PA};

	for (unsigned int i = 0; i < sizeof own / sizeof own[0]; i++)
		map[msr_bit(own[i]) / 8] |= (uint8_t)(3 << msr_bit(own[i]) % 8);
}

/* 8 bytes at once, as many times as it takes. */
static void copy(void *to, const void *from, uint64_t size)
{
	uint64_t count = size / 8;

	asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) :: "memory");
}

/* The state that VMRUN loads and #VMEXIT stores, but for RAX, which guest_registers have. */
static void copy_state(struct vmcb *to, const struct vmcb *from)
{
	to->es = from->es;
	to->cs = from->cs;
	to->ss = from->ss;
	to->ds = from->ds;
	to->gdtr = from->gdtr;
	to->idtr = from->idtr;
	to->cpl = from->cpl;
	to->efer = from->efer;
	to->cr4 = from->cr4;
	to->cr3 = from->cr3;
	to->cr0 = from->cr0;
	to->dr7 = from->dr7;
	to->dr6 = from->dr6;
	to->rflags = from->rflags;
	to->rip = from->rip;
	to->rsp = from->rsp;
	to->cr2 = from->cr2;
	to->guest_pat = from->guest_pat;
}

/* Interrupts wait while the guest's GIF is clear: minivisor has RFLAGS.IF clear itself. */
static void set_gif(bool on)
{
	block.virtual_interrupt = on ? 0 : V_INTR_MASKING;
}

static bool intercepted(const uint32_t *vectors, uint64_t code)
{
	return code < 6 * 32 && vectors[code / 32] >> code % 32 & 1;
}

/* What VMRUN checks of a block that the processor does not see in ours (15.5.1). */
static bool acceptable(const struct vmcb *from)
{
	return intercepted(from->intercept, CODE_VMRUN) && from->asid && memory_at(from->iopm & -PAGE, IO_MAP_SIZE) &&
	       memory_at(from->msrpm & -PAGE, MSR_MAP_SIZE);
}

static void merge_controls(const struct vmcb *from)
{
	asked_io = memory_at(from->iopm & -PAGE, IO_MAP_SIZE);
	asked_msr = memory_at(from->msrpm & -PAGE, MSR_MAP_SIZE);
	for (int i = 0; i < 6; i++) {
		intercepts[i] = from->intercept[i];
		merged.intercept[i] = from->intercept[i] | block.intercept[i];
	}
	copy(io_map, intercepted(intercepts, CODE_IO) ? asked_io : (const uint8_t *)block.iopm, IO_MAP_USED);
	copy(msr_map, intercepted(intercepts, CODE_MSR) ? asked_msr : (const uint8_t *)block.msrpm, MSR_MAP_USED);
	io_map[OWN_PORT(level) / 8] |= (uint8_t)(1 << OWN_PORT(level) % 8);
	nest_intercept_msrs(msr_map);
	merged.iopm = (uintptr_t)io_map;
	merged.msrpm = (uintptr_t)msr_map;
	merged.tsc_offset = block.tsc_offset + from->tsc_offset;
	merged.virtual_interrupt = from->virtual_interrupt;
	merged.interrupt_shadow = from->interrupt_shadow;
	merged.event_injection = from->event_injection;
	merged.next_rip = from->next_rip;
	merged.nested_paging = 1;
}

static void enter(uint64_t address)
{
	struct vmcb *from = memory_at(address, PAGE);

	if (!from || address % PAGE) {
		block.event_injection = INJECT_PROTECTION;
		return;
	}
	vendor_skip();
	if (!acceptable(from)) {
		from->exit_code = CODE_INVALID;
		from->exit_info_1 = from->exit_info_2 = from->exit_interrupt_info = 0;
		set_gif(false);
		return;
	}
	asked = from;
	merge_controls(from);
	copy_state(&merged, from);
	if (!(from->nested_paging & 1))
		merged.guest_pat = block.guest_pat;
	nest_paging_use(from, &merged);
	block.rax = guest_registers.rax;
	guest_registers.rax = from->rax;
	set_gif(true);
	running = &merged;
}

/* #VMEXIT: the guest goes on behind its VMRUN (15.6). */
static void leave(void)
{
	copy_state(asked, &merged);
	asked->rax = guest_registers.rax;
	asked->exit_code = merged.exit_code;
	asked->exit_info_1 = merged.exit_info_1;
	asked->exit_info_2 = merged.exit_info_2;
	asked->exit_interrupt_info = merged.exit_interrupt_info;
	asked->virtual_interrupt = merged.virtual_interrupt;
	asked->interrupt_shadow = merged.interrupt_shadow;
	asked->event_injection &= ~EVENT_VALID;
	asked->next_rip = merged.next_rip;
	guest_registers.rax = block.rax;
	block.cr0 |= CR0_PE;
	block.cr2 = merged.cr2;
	block.dr6 = merged.dr6;
	block.dr7 = DR7_OFF;
	block.cpl = 0;
	set_gif(false);
	running = &block;
}

static bool wants_port(uint64_t info)
{
	unsigned int port = IO_PORT(info);

	for (unsigned int i = 0; i < IO_SIZE(info); i++)
		if (in_map(asked_io, port + i))
			return true;
	return false;
}

static bool wants_msr(uint64_t write)
{
	int bit = msr_bit((uint32_t)guest_registers.rcx);

	return bit < 0 || in_map(asked_msr, (unsigned int)bit + (unsigned int)write);
}

/* Whether the exit of the guest's guest is the guest's. */
static bool wants(void)
{
	if (merged.exit_code == CODE_INVALID)
		return true;
	if (!intercepted(intercepts, merged.exit_code))
		return false;
	if (merged.exit_code == CODE_IO)
		return wants_port(merged.exit_info_1);
	return merged.exit_code != CODE_MSR || wants_msr(merged.exit_info_1);
}

/* Its nested page tables may say more than ours have of them. */
static bool page_fault(void)
{
	switch (nest_paging_fill(&merged.exit_info_2, &merged.exit_info_1)) {
	case NEST_FILLED:
		/* what was being delivered meanwhile comes again */
		if (merged.exit_interrupt_info & EVENT_VALID)
			merged.event_injection = merged.exit_interrupt_info;
		return true;
	case NEST_REFUSED:
		leave();
		return true;
	default:
		return false;
	}
}

static bool write_efer(uint64_t value)
{
	if (value & ~EFER_KNOWN || ((value ^ running->efer) & EFER_LME && running->cr0 & CR0_PG))
		return false;
	if (running == &block)
		has_svm = value & EFER_SVME;
	running->efer = (value & ~EFER_LMA) | (running->efer & EFER_LMA) | EFER_SVME;
	return true;
}

/* An access to an MSR that the guest's processor has and ours keeps from it; false: #GP. */
static bool access_msr(bool write, uint64_t *value)
{
	switch ((uint32_t)guest_registers.rcx) {
	case MSR_EFER:
		if (write)
			return write_efer(*value);
		*value = running == &block && !has_svm ? running->efer & ~EFER_SVME : running->efer;
		return true;
	case MSR_VM_HSAVE_PA:
		if (write && *value % PAGE)
			return false;
		if (write)
			host_save = *value;
		*value = host_save;
		return true;
	case MSR_VM_CR:
		if (write)
			return !*value;
		*value = 0;
		return true;
	default:
		return false; /* beyond what the map has bits for */
	}
}

static void serve_msr(void)
{
	bool write = running->exit_info_1 & 1;
	uint64_t value = guest_registers.rdx << 32 | (uint32_t)guest_registers.rax;

	if (!access_msr(write, &value)) {
		running->event_injection = INJECT_PROTECTION;
		return;
	}
	if (!write) {
		guest_registers.rax = (uint32_t)value;
		guest_registers.rdx = value >> 32;
	}
	vendor_skip();
}

/* VMLOAD and VMSAVE work on registers that are the guest's all the time. */
static void move_live_state(bool load)
{
	void *at = memory_at(guest_registers.rax, PAGE);

	if (!at || guest_registers.rax % PAGE) {
		running->event_injection = INJECT_PROTECTION;
		return;
	}
	if (load)
		asm volatile("vmload %0" :: "a"(at) : "memory");
	else
		asm volatile("vmsave %0" :: "a"(at) : "memory");
	vendor_skip();
}

/* SVM's instructions but VMMCALL; false: the exit is none. */
static bool serve_instruction(void)
{
	uint64_t code = running->exit_code;

	if ((code < CODE_VMRUN || code > CODE_SKINIT || code == CODE_VMMCALL) && code != CODE_INVLPGA)
		return false;
	if ((running == &block && !has_svm) || code == CODE_SKINIT) {
		vendor_undefined();
		return true;
	}
	if (code == CODE_VMRUN) {
		enter(guest_registers.rax);
		return true;
	}
	if (code == CODE_VMLOAD || code == CODE_VMSAVE) {
		move_live_state(code == CODE_VMLOAD);
		return true;
	}
	if (code == CODE_INVLPGA)
		nest_tables_forget();
	else
		set_gif(code == CODE_STGI);
	vendor_skip();
	return true;
}

bool nest_exit(void)
{
	if (running == &merged) {
		if (merged.exit_code == CODE_NESTED_PAGE_FAULT)
			return page_fault();
		if (wants()) {
			leave();
			return true;
		}
	}
	if (running->exit_code == CODE_MSR) {
		serve_msr();
		return true;
	}
	return serve_instruction();
}
