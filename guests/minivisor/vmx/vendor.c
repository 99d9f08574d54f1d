/* VMX: Intel SDM vol. 3, chapters 24 to 30. MSRs, EFER and PAT among them, are not switched: minivisor needs none of its own but for
 * extras.c's.
 * The guest's own VMX is nest.c's. */
#include "extras.h"
#include "host.h"
#include "memory.h"
#include "minivisor.h"
#include "msr.h"
#include "nest.h"
#include "nest_msrs.h"
#include "offer.h"
#include "option.h"
#include "vendor.h"
#include "vmcs.h"

#define BASIC_TRUE_CONTROLS (1ull << 55)
/* walks of four levels, write-back, 2 MiB pages */
#define EPT_NEEDED (1 << 6 | 1 << 14 | 1 << 16)

/* Instructions that the guest would lack otherwise, and modes: RDTSCP, unrestricted guest, INVPCID, XSAVES. */
#define SECONDARY_WANTED (1u << 3 | SECONDARY_UNRESTRICTED | 1u << 12 | 1u << 20)

const char vendor_name[] = "VMX";
const uint64_t vendor_table = 7; /* read, write, execute */
const uint64_t vendor_page = 7 | 6 << 3 | 1 << 7; /* the same, write-back, 2 MiB */

struct registers guest_registers;
struct vmcs block;
struct vmcs *running = &block;
static uint8_t io_map[IO_MAPS_SIZE] __attribute__((aligned(4096)));
static uint8_t msr_map[MSR_MAP_SIZE] __attribute__((aligned(4096)));

int world_run(int launched);

/* What must be 1, what is needed, and of what is wanted all that may be 1 (appendix A.3 to A.5). */
static void set_controls(uint64_t field, uint32_t msr, uint32_t needed, uint32_t wanted)
{
	uint64_t allowed = rdmsr(msr);
	uint32_t may = (uint32_t)(allowed >> 32);

	if (needed & ~may)
		stop(STATUS_USAGE, "this processor's VMX lacks controls 0x%x of MSR 0x%x", needed & ~may, msr);
	vmwrite(field, (uint32_t)allowed | needed | (wanted & may));
}

static void fill_controls(void)
{
	bool extras = extras_wanted();

	if (!(rdmsr(MSR_VMX_BASIC) & BASIC_TRUE_CONTROLS))
		stop(STATUS_USAGE, "this processor's VMX lets no guest use CR3");
	set_controls(VMCS_PIN_CONTROLS, MSR_VMX_TRUE_PIN, extras ? PIN_TIMER : 0, 0);
	set_controls(VMCS_PRIMARY_CONTROLS, MSR_VMX_TRUE_PRIMARY, PRIMARY_IO_MAPS | PRIMARY_MSR_MAPS | PRIMARY_SECONDARY, 0);
	set_controls(VMCS_SECONDARY_CONTROLS, MSR_VMX_SECONDARY, SECONDARY_EPT | (extras ? SECONDARY_VPID : 0), SECONDARY_WANTED);
	set_controls(VMCS_EXIT_CONTROLS, MSR_VMX_TRUE_EXIT, EXIT_TO_64_BIT | EXIT_SAVES_DEBUG | (extras ? EXIT_SAVES_TIMER : 0), 0);
	set_controls(VMCS_ENTRY_CONTROLS, MSR_VMX_TRUE_ENTRY, ENTRY_TO_64_BIT | ENTRY_LOADS_DEBUG, 0);
	if ((rdmsr(MSR_VMX_EPT) & EPT_NEEDED) != EPT_NEEDED)
		stop(STATUS_USAGE, "this processor's EPT has no 2 MiB pages");
	io_map[OWN_PORT(level) / 8] |= (uint8_t)(1 << OWN_PORT(level) % 8);
	if (!extras) /* its guest has them of the processor's own VMX, for nobody nests that */
		nest_intercept_msrs(msr_map);
	vmwrite(VMCS_IO_MAP_A, (uintptr_t)io_map);
	vmwrite(VMCS_IO_MAP_B, (uintptr_t)io_map + 4096);
	vmwrite(VMCS_MSR_MAP, (uintptr_t)msr_map);
	vmwrite(VMCS_EPT_POINTER, memory_root() | EPT_WRITE_BACK_4_LEVELS);
	vmwrite(VMCS_EXCEPTIONS, option_word("traps") ? 1 << VECTOR_DEBUG : 0);
	vmwrite(VMCS_CR3_TARGETS, 0);
	vmwrite(VMCS_ENTRY_EVENT, 0);
	/* all bits are the guest's: it sees CR4.VMXE set, which VMX operation wants */
	vmwrite(VMCS_CR0_MASK, 0);
	vmwrite(VMCS_CR4_MASK, 0);
}

static void fill_state(const struct guest_start *start)
{
	for (unsigned int i = SEGMENT_ES; i <= SEGMENT_GS; i++)
		vmwrite_segment(i, i == SEGMENT_CS ? GUEST_CS : GUEST_DS, 0, 0xffffffff,
				i == SEGMENT_CS ? RIGHTS_CODE_64 : RIGHTS_DATA);
	vmwrite_segment(SEGMENT_LDTR, 0, 0, 0, RIGHTS_UNUSABLE);
	vmwrite_segment(SEGMENT_TR, 0, 0, 0xffff, RIGHTS_BUSY_TSS);
	vmwrite(VMCS_GDTR_BASE, start->gdt_base);
	vmwrite(VMCS_GDTR_LIMIT, start->gdt_limit);
	vmwrite(VMCS_IDTR_BASE, 0);
	vmwrite(VMCS_IDTR_LIMIT, 0);
	vmwrite(VMCS_CR0, host_fixed(GUEST_CR0, MSR_CR0_FIXED0));
	vmwrite(VMCS_CR3, start->cr3);
	vmwrite(VMCS_CR4, host_fixed(GUEST_CR4, MSR_CR4_FIXED0));
	vmwrite(VMCS_DR7, GUEST_DR7);
	vmwrite(VMCS_RSP, start->rsp);
	vmwrite(VMCS_RIP, start->rip);
	vmwrite(VMCS_RFLAGS, GUEST_RFLAGS);
	vmwrite(VMCS_LINK, ~0ull);
	vmwrite(VMCS_DEBUGCTL, 0);
	vmwrite(VMCS_INTERRUPTIBILITY, 0);
	vmwrite(VMCS_ACTIVITY, 0);
	vmwrite(VMCS_PENDING_DEBUG, 0);
	vmwrite(VMCS_SYSENTER_CS, 0);
	vmwrite(VMCS_SYSENTER_ESP, 0);
	vmwrite(VMCS_SYSENTER_EIP, 0);
	guest_registers.rdi = start->rdi;
	guest_registers.rsi = start->rsi;
}

void vendor_init(const struct guest_start *start)
{
	host_enable();
	host_clear(&block);
	host_fill();
	fill_controls();
	fill_state(start);
	extras_init();
}

static void decode_port(struct exit *exit)
{
	uint64_t qualification = vmread(VMCS_QUALIFICATION);

	exit->reason = EXIT_PORT;
	exit->port = IO_PORT(qualification);
	exit->size = IO_SIZE(qualification);
	exit->in = qualification & IO_IN;
	exit->string = qualification & IO_STRING;
	exit->address = vmread(VMCS_LINEAR_ADDRESS);
}

static void decode(struct exit *exit)
{
	switch (exit->code) {
	case CODE_CPUID:
		exit->reason = EXIT_CPUID;
		break;
	case CODE_VMCALL:
		exit->reason = EXIT_HYPERCALL;
		break;
	case CODE_IO:
		decode_port(exit);
		break;
	case CODE_EXCEPTION:
		exit->reason = EXIT_TRAP;
		break;
	case CODE_EPT_VIOLATION:
		exit->reason = EXIT_OUTSIDE;
		break;
	case CODE_TRIPLE_FAULT:
		exit->reason = EXIT_SHUTDOWN;
		break;
	default:
		exit->reason = exit->code & CODE_ENTRY_FAILED ? EXIT_REFUSED : EXIT_OTHER;
	}
}

/* The guest, or the guest that it runs itself. */
static void run_once(struct exit *exit)
{
	int refused = world_run(running->launched);

	exit->reason = refused ? EXIT_REFUSED : EXIT_OTHER;
	exit->code = vmread(refused ? VMCS_INSTRUCTION_ERROR : VMCS_EXIT_REASON);
	if (refused)
		return;
	if (!(exit->code & CODE_ENTRY_FAILED))
		running->launched = 1;
	if (exit->code == CODE_EPT_VIOLATION)
		exit->address = vmread(VMCS_PHYSICAL_ADDRESS);
}

void vendor_run(struct exit *exit)
{
	do
		run_once(exit);
	while (nest_exit(exit) || (exit->reason != EXIT_REFUSED && extras_exit(exit->code)));
	exit->rip = vmread(VMCS_RIP);
	if (exit->reason != EXIT_REFUSED)
		decode(exit);
}

void vendor_skip(void)
{
	uint64_t interruptibility = vmread(VMCS_INTERRUPTIBILITY);

	vmwrite(VMCS_RIP, vmread(VMCS_RIP) + vmread(VMCS_INSTRUCTION_LENGTH));
	if (interruptibility & INTERRUPT_SHADOW)
		vmwrite(VMCS_INTERRUPTIBILITY, interruptibility & ~INTERRUPT_SHADOW);
}

void vendor_undefined(void)
{
	vmwrite(VMCS_ENTRY_EVENT, INJECT_UNDEFINED);
}

void vendor_inject(uint64_t event)
{
	vmwrite(VMCS_ENTRY_EVENT, EVENT_VALID | event);
}

/* The exit leaves DR6 alone (26.2). */
void vendor_trap(void)
{
	uint64_t status;

	asm volatile("mov %%dr6, %0" : "=r"(status));
	asm volatile("mov %0, %%dr6" :: "r"((status & ~DR6_CAUSES) | vmread(VMCS_QUALIFICATION)));
	vmwrite(VMCS_ENTRY_EVENT, INJECT_DEBUG);
}

uint64_t vendor_flags(void)
{
	return vmread(VMCS_RFLAGS);
}

uint64_t vendor_hypercall(uint64_t number, uint64_t wanted, uint64_t value)
{
	asm volatile("vmcall" : "+a"(number) : "b"(wanted), "c"(value) : "memory");
	return number;
}
