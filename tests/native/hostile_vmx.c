/* Levels that do what they like with software VMX: random VMCSs, maps, lists, page tables, instructions and exits, on a processor that is
 * made up here behind KVM_RUN. At each entry what L0 prepared is checked: no table leads anywhere but to the level's own memory, or where
 * the levels' tables do not, nothing that L0 wants to hear of is missing, and no field is another one than L0 may write.
 *
 * usage: hostile_vmx SEED BLOCKS */
#include <errno.h>
#include <stdarg.h>

#include "hostile_instructions.h"
#include "remap.h"

#define FEATURE_CONTROL 0x3a

static uint64_t deepest, exits_run, exits_taken, untold;
static uint64_t moved, lists_ended;         /* MSRs of the list that is gone through; lists of which as many as L0 reads were moved */
static int summoned, refuses;
static uint64_t steps, flags_checked;       /* instructions behind which levels were told; looks at the trap flag */

/* Often one that the processor has had before. */
static uint64_t fault_address(void)
{
	for (int tries = 0; tries < 16; tries++) {
		uint64_t one = below(KNOWN);

		if (known[one].pointer == (field(NV_VMCS_EPT_POINTER) & ~(PAGE - 1)))
			return known[one].address;
	}
	return address() + below(PAGE);
}

static void stop_for_event(uint32_t basic)
{
	static const uint32_t indices[] = {FEATURE_CONTROL, FEATURE_CONTROL, 0x480, 0x486, 0x491, 0xc0000080, 0x10, 0x4e570000};
	uint64_t numbers[] = {0, 0, 3, 4, 4, 8};

	put(NV_VMCS_EXIT_LENGTH, 1 + below(15));
	put(NV_VMCS_EXIT_INSTRUCTION, any());
	put(NV_VMCS_EXIT_QUALIFICATION, any());
	put(NV_VMCS_GUEST_PHYSICAL_ADDRESS, fault_address());
	put(NV_VMCS_GUEST_LINEAR_ADDRESS, any());
	put(NV_VMCS_EXIT_INTERRUPTION, EVENT_VALID | (any() & 0x1fff));
	put(NV_VMCS_EXIT_ERROR_CODE, any() & 0x1f);
	put(NV_VMCS_IDT_VECTORING, once_in(4) ? EVENT_VALID | below(7) << EVENT_KIND | below(256) : 0);
	put(NV_VMCS_IDT_VECTORING_ERROR_CODE, any() & 0xffff);
	if (basic == BASIC_EPT_VIOLATION)
		put(NV_VMCS_EXIT_QUALIFICATION, 1ull << below(3) | (once_in(2) ? 0x180 : 0));
	if (basic == BASIC_CR)
		put(NV_VMCS_EXIT_QUALIFICATION, numbers[below(6)] | below(4) << 4 | below(16) << 8 | below(16) << 16);
	if (basic == BASIC_RDMSR || basic == BASIC_WRMSR) {
		mailbox.regs[NV_REG_RCX] = once_in(4) ? any() : indices[below(sizeof indices / sizeof indices[0])];
		mailbox.regs[NV_REG_RAX] = once_in(4) ? any() : 5;
		mailbox.regs[NV_REG_RDX] = once_in(4) ? any() : 0;
	}
	if (basic == BASIC_EXCEPTION)
		put(NV_VMCS_EXIT_INTERRUPTION, EVENT_VALID | (once_in(4) ? NV_EVENT_NMI << EVENT_KIND | 2 : 3 << EVENT_KIND | below(32)));
	if (basic == BASIC_INTERRUPT && !(field(NV_VMCS_EXIT_CONTROLS) & EXIT_ACKNOWLEDGES))
		put(NV_VMCS_EXIT_INTERRUPTION, 0);
	stop_with(basic);
}

/* Where the machine's tables have changed. */
static void stop_for_remap(void)
{
	static const struct remap_format format = {&ept_format, PLAIN, UNWRITABLE, UNEXECUTABLE};
	uint32_t access;
	uint64_t address = remap(&format, &access);

	stop_for_event(BASIC_EPT_VIOLATION);
	if (address == ~0ull)
		return;
	put(NV_VMCS_GUEST_PHYSICAL_ADDRESS, address);
	put(NV_VMCS_EXIT_QUALIFICATION, access | 0x180);
	stop_with(BASIC_EPT_VIOLATION);
}

/* What the trap flag is, as the level's code has it, when it stops; -1: it has done with it what the model does not know. */
static struct {
	const struct nv_machine *of;
	uint64_t moves;                     /* entries and exits of machines until then */
	int own;
} trap_flag;

static int is_stepping(void)
{
	return vmx.step.active && vmx.step.traps;
}

static uint64_t moves(void)
{
	uint64_t sum = 0;

	for (int depth = 0; depth < NV_NESTED_DEPTH; depth++)
		sum += nested.reflected[depth] + nested.entered[depth];
	return sum;
}

/* An instruction that a level steps through runs under a trap flag that is L0's: no one sees that. */
static void check_trap_flag(uint64_t rflags)
{
	if (trap_flag.of != nested.active || trap_flag.moves != moves() || trap_flag.own < 0)
		return;
	flags_checked++;
	CHECK(!!(rflags & RFLAGS_TF) == trap_flag.own);
}

static void note_trap_flag(uint64_t rflags)
{
	trap_flag.of = nested.active;
	trap_flag.moves = moves();
	trap_flag.own = !is_stepping() ? !!(rflags & RFLAGS_TF) : vmx.step.trap.kind >= NV_TRAPPED_LOADS ? -1 : vmx.step.trap.own;
}

/* L0's own function. */
typedef int reflect_exit(struct nv_nested *of, struct nv_machine *to, const struct nv_nested_vmx_exit *exit);

reflect_exit __real_nv_nested_vmx_reflect, __wrap_nv_nested_vmx_reflect;

int __wrap_nv_nested_vmx_reflect(struct nv_nested *of, struct nv_machine *to, const struct nv_nested_vmx_exit *exit)
{
	CHECK(!is_stepping());
	check_trap_flag(mailbox.regs[NV_REG_RFLAGS]);
	return __real_nv_nested_vmx_reflect(of, to, exit);
}

/* The trap behind an instruction that a level steps through. */
static void stop_for_trap(void)
{
	put(NV_VMCS_EXIT_INTERRUPTION, EVENT_VALID | NV_EVENT_EXCEPTION << EVENT_KIND | DB);
	put(NV_VMCS_EXIT_QUALIFICATION, DR6_BS);
	put(NV_VMCS_IDT_VECTORING, 0);
	stop_with(BASIC_EXCEPTION);
	steps++;
}

static void change_state(void)
{
	static const uint64_t blocking[] = {0, 0, 0, 2, NMI_MASKED, NMI_MASKED | 2};

	put(NV_VMCS_GUEST_RIP, (once_in(2) ? field(NV_VMCS_GUEST_RIP) + below(16) : address()) & 0x7fffffffffff);
	put(NV_VMCS_GUEST_RFLAGS, (any() & (once_in(8) ? 0x300 : RFLAGS_IF)) | 2 | (is_stepping() ? RFLAGS_TF : 0));
	note_trap_flag(field(NV_VMCS_GUEST_RFLAGS));
	put(NV_VMCS_GUEST_INTERRUPTIBILITY, once_in(32) ? below(16) : blocking[below(6)]);
	put(NV_VMCS_GUEST_ACTIVITY, 0);
	put(NV_VMCS_GUEST_PENDING_DEBUG, once_in(64) ? any() : field(NV_VMCS_GUEST_RFLAGS) & RFLAGS_TF ? DR6_BS : 0);
	put(NV_VMCS_ENTRY_INTERRUPTION, field(NV_VMCS_ENTRY_INTERRUPTION) & ~EVENT_VALID);
	put(NV_VMCS_GUEST_CR0, CR0_PLAIN ^ (once_in(64) ? 1ull << below(32) : once_in(4) ? CR0_TS | CR0_WP : 0));
	put(NV_VMCS_GUEST_CR3, once_in(32) ? address() : PAGE_TABLES * PAGE);
	put(NV_VMCS_GUEST_CR4, once_in(64) ? any() : CR4_PLAIN);
	put(NV_VMCS_GUEST_CS_RIGHTS, once_in(64) ? any() : 0xa09b);
	put(NV_VMCS_GUEST_SS_RIGHTS, once_in(64) ? any() : 0xc093);
	for (int i = 0; i < 16; i++)
		if (once_in(8))
			mailbox.regs[i] = address();
}

/* What the switcher does for L0 without entering level n: 1. */
static int exchange(void)
{
	if (refuses && block->command == NV_VMX_STORE && block->vmcs == NV_SWITCHER_BASE + NV_SWITCHER_PROBE) {
		ring(NV_SWITCHER_REFUSED);
		return 1;
	}
	if (!block->loaded)
		load_fields();
	CHECK(block->writes <= NV_VMX_WRITES && block->reads <= NV_VMX_READS);
	for (uint64_t i = 0; i < block->writes; i++) {
		CHECK(nv_virtual_vmcs_slot(block->write[i].encoding) >= 0 && is_open(block->write[i].encoding));
		put(block->write[i].encoding, block->write[i].value);
	}
	if (block->command == NV_VMX_ENTER)
		return 0;
	for (uint64_t i = 0; i < block->reads; i++)
		block->read[i].value = nv_virtual_vmcs_read(&vmcs, block->read[i].encoding);
	if (block->command == NV_VMX_STORE)
		store_fields();
	ring(NV_SWITCHER_RINGING);
	return 1;
}

/* The processor: enters level n, which writes its memory and stops for something. */
static int run_kvm(void)
{
	static const uint32_t often[] = {0, 0, 1, 7, 8, 10, 12, 14, 16, 28, 28, 28, 29, 30, 30, 31, 32, 32, 37, 40, 43, 46, 48, 48, 52, 54, 55, 58};
	int enters = mailbox.state == NV_SWITCHER_OUTSIDE;
	const struct nv_machine *active = nested.active;

	if (enters && once_in(64)) {
		mailbox.nmi = 1;
		ring(NV_SWITCHER_AGAIN);
		return 0;
	}
	if (enters && exchange())
		return 0;
	if (enters && !is_stepping())
		check_trap_flag(field(NV_VMCS_GUEST_RFLAGS));
	check_entry(once_in(2) ? address() : field(NV_VMCS_GUEST_PHYSICAL_ADDRESS));
	note_invalidation();
	model_check(&ept_format);
	if (active->depth > deepest)
		deepest = active->depth;
	if (!(++exits_run % 64))
		vcpu.kicked = 1;
	change_memory();
	if (enters && once_in(256)) {
		block->error = 7;
		ring(NV_SWITCHER_REFUSED);
		return 0;
	}
	if (enters && once_in(64)) {
		put(NV_VMCS_EXIT_QUALIFICATION, any());
		stop_with(BASIC_GUEST_STATE | ENTRY_FAILED);
		return 0;
	}
	change_state();
	if (summoned) {
		summoned = 0;
		put(NV_VMCS_EXIT_INTERRUPTION, EVENT_VALID | NV_EVENT_NMI << EVENT_KIND | 2);
		put(NV_VMCS_IDT_VECTORING, 0);
		stop_with(BASIC_EXCEPTION);
	} else if (is_stepping() && once_in(2)) {
		stop_for_trap();
	} else if (once_in(50)) {
		stop_directly();
	} else if (!active->vmx.feature_control && !once_in(4)) {
		stop_for_event(BASIC_WRMSR);
		mailbox.regs[NV_REG_RCX] = FEATURE_CONTROL;
	} else if (active->depth && once_in(8)) {
		stop_for_remap();
	} else if (active->depth && once_in(4)) {
		stop_for_event(BASIC_EPT_VIOLATION);
	} else if (!once_in(climbs ? 12 : 3)) {
		stop_for_vmx();
	} else {
		stop_for_event(once_in(16) ? below(70) : often[below(sizeof often / sizeof often[0])]);
	}
	return 0;
}

/* No list of a level's may name an MSR by which KVM writes memory, or one that is L0's. */
static int move_msrs(const struct kvm_msrs *msrs)
{
	CHECK(msrs->nmsrs == 1);
	CHECK(msrs->entries[0].index - 0x4b564d00 > 0xff && msrs->entries[0].index != 0x11 && msrs->entries[0].index != 0x12);
	CHECK(msrs->entries[0].index != FEATURE_CONTROL && msrs->entries[0].index != 0x1b);
	moved++;
	if (msrs->entries[0].index == LISTED || !once_in(8))
		return 1;
	errno = EINVAL;
	return once_in(2) ? 0 : -1;
}

/* Or go on for ever. L0's own two functions that go through a list; count: its elements. */
typedef int64_t move_list(struct nv_nested *of, struct nv_machine *machine, uint64_t list, uint64_t count);

move_list __real_nv_nested_vmx_load_msrs, __real_nv_nested_vmx_store_msrs, __wrap_nv_nested_vmx_load_msrs, __wrap_nv_nested_vmx_store_msrs;

static int64_t watch(move_list *move, struct nv_nested *of, struct nv_machine *machine, uint64_t list, uint64_t count)
{
	int64_t result;

	moved = 0;
	result = move(of, machine, list, count);
	CHECK(moved <= count && moved <= LIST_READ && result <= (int64_t)LIST_READ);
	lists_ended += !result && moved == LIST_READ;
	return result;
}

int64_t __wrap_nv_nested_vmx_load_msrs(struct nv_nested *of, struct nv_machine *machine, uint64_t list, uint64_t count)
{
	return watch(__real_nv_nested_vmx_load_msrs, of, machine, list, count);
}

int64_t __wrap_nv_nested_vmx_store_msrs(struct nv_nested *of, struct nv_machine *machine, uint64_t list, uint64_t count)
{
	return watch(__real_nv_nested_vmx_store_msrs, of, machine, list, count);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list words;
	void *argument;

	(void)fd;
	va_start(words, request);
	argument = va_arg(words, void *);
	va_end(words);
	switch (request) {
	case KVM_NMI:
		summoned = 1;
		return 0;
	case KVM_SET_USER_MEMORY_REGION:
		memset(known, 0, sizeof known); /* KVM starts afresh */
		model_forget();
		return 0;
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return move_msrs(argument);
	case KVM_GET_SREGS:
		memset(argument, 0, sizeof(struct kvm_sregs));
		return 0;
	case KVM_GET_DEBUGREGS:
		memset(argument, 0, sizeof(struct kvm_debugregs));
		return 0;
	case KVM_RUN:
		return run_kvm();
	default:
		return 0;
	}
}

/* The counter of exits that a machine took. */
enum { TAKEN = NV_REASONS };

static struct nv_table *make_table(void)
{
	/* L0's two, an image's alone, before each of those, and before a Python level's below it, which has steps */
	static const struct nv_claim claims[] = {{0}, {0, 1, 1, 0, 1}, {0, 2, 2, 0, 1}, {0, TAKEN, 3, 2, 0}, {1, TAKEN, 3, 2, 0},
						{2, TAKEN, 3, 2, 0}, {7, TAKEN, 3, 2, 0}, {0, 3, 0, 1, 0}};
	static struct nv_nested_claim image = {&nested, 0, 1};
	static struct nv_server servers[] = {
		{0}, {nv_nested_vmx_serve, &vmx, 0}, {nv_vmx_serve_msr, &vmx, 0}, {nv_nested_vmx_take, &image, 0},
	};
	static const struct nv_range all = {0, ~0ull, 3, 0}, instructions = {0, ~0ull, 4, 0}, debug = {0, ~0ull, 6, 0};
	static const struct nv_range msrs[] = {{0, FEATURE_CONTROL - 1, 3, 0}, {FEATURE_CONTROL, FEATURE_CONTROL, 5, 0},
					       {FEATURE_CONTROL + 1, 0x47f, 3, 0}, {0x480, 0x493, 5, 0}, {0x494, ~0ull, 3, 0}};
	static uint16_t ports[NV_PORTS];
	static struct nv_table table = {claims, servers, {ports, ports}, {{{0}}}};

	for (int i = 0; i < NV_PORTS; i++)
		ports[i] = 3;
	for (int i = 0; i < 2; i++) {
		for (int reason = 0; reason < NV_REASONS; reason++)
			table.ranges[reason][i] = (struct nv_ranges){&all, 1, 0};
		table.ranges[NV_REASON_VMX_INSTRUCTION][i] = table.ranges[NV_REASON_HYPERCALL][i] = (struct nv_ranges){&instructions, 1, 0};
		table.ranges[NV_REASON_DEBUG][i] = (struct nv_ranges){&debug, 1, 0};
		table.ranges[NV_REASON_RDMSR][i] = table.ranges[NV_REASON_WRMSR][i] = (struct nv_ranges){msrs, 5, 0};
	}
	return &table;
}

/* What Python does with an event: lets it happen, raises an exception, or leaves it; and interrupts come. */
static void answer(void)
{
	if (nv_switched_outside(&vmx.switched) && vmx.switched.rung && vcpu.pending) {
		if (once_in(2) && vcpu.event.reason != NV_REASON_ENTRY_FAILURE)
			CHECK(nv_vmx_pass(&vcpu) >= 0);
		else if (once_in(4))
			CHECK(nv_vmx_inject(&vcpu, NV_EVENT_EXCEPTION, below(2) ? 13 : 14, any()) >= 0);
	}
	if (once_in(8))
		nv_pending_interrupt(&vmx.switched.pending, below(256));
	if (once_in(16))
		nv_pending_nmi(&vmx.switched.pending);
	if (once_in(32))
		vmx.switched.pending.windows |= 1 + below(3);
	if (once_in(64))
		vmx.switched.debug ^= NV_DEBUG_STEPS;
	if (once_in(32))
		vmx.timer = 1 + below(1000);
}

int main(int count, char **words)
{
	uint64_t blocks;

	CHECK(count == 3);
	blocks = strtoull(words[2], NULL, 0);
	prepare();
	begin(words[1], write_block, flags, sizeof flags / sizeof flags[0], PLAIN);
	write_list();
	while (blocks_run < blocks) {
		climbs = !climbs;
		refuses = once_in(4);
		disguise = once_in(4) ? 0x5a5a5a5a5a5a5a5a : 0;
		start(once_in(2) ? 1u << UD : 0, once_in(2));
		model_start();
		vmx.halts = below(2);
		vmx.switched.debug = once_in(3) ? NV_DEBUG_STEPS : 0;
		vcpu.level = 2;
		for (int depth = 0; depth < NV_NESTED_DEPTH; depth++)
			nested.levels[depth] = 2 + depth;
		run_with(make_table());
		for (uint64_t end = exits_run + (climbs ? 8000 : 1500); exits_run < end && !nested.too_deep && !nested.lost && !nested.endless;) {
			int result = nv_vcpu_run(&vcpu);

			CHECK(result >= 0 || nested.lost || nested.endless);
			answer();
		}
		for (int depth = 0; depth < NV_NESTED_DEPTH; depth++)
			exits_taken += nested.reflected[depth];
		memset(nested.reflected, 0, sizeof nested.reflected);
		untold += nested.gone_count;
		CHECK(vcpu.counters[TAKEN].count + untold == exits_taken);
	}
	check_canaries();
	/* otherwise the levels did too little */
	model_end(blocks);
	CHECK(deepest > 2 && checked > blocks && 16 * exits_taken > blocks && lists_ended > 10 && contexts > 10);
	CHECK(steps > blocks / 16 && flags_checked > blocks);
	puts("done");
	return 0;
}
