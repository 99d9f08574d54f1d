/* Levels that do what they like with software SVM: random control blocks, maps, page tables and exits, on a processor that is made up
 * here behind KVM_RUN. After each entry what L0 prepared is checked: no table leads anywhere but to the level's own memory, or where
 * the levels' tables do not.
 *
 * usage: hostile_svm SEED BLOCKS */
#include <stdarg.h>

#include "hostile.h"
#include "remap.h"
#include "tables_model_npt.h"

#define EFER 0xc0000080
#define EXIT_INVLPGA 0x7a
#define PLAIN 7ull                          /* of a page's entry */
#define READ_ONLY 5ull
#define RSI 6                               /* of mailbox.regs */
#define RDI 7
#define ZEROS_END (ZEROS + 4)               /* from there on what write_plain_code writes, and a few pages for the code to use */
#define CODE (ZEROS_END + 3)

static const uint64_t flags[] = {7, 7, 7, 7, 0x87, 0xe7, 5, 1, 0, 0x107, 0x67, 1ull << 63 | 7, 1ull << 52 | 7, 1ull << 51 | 7};
static uint64_t blocks_run, deepest, invalidations, maps_checked;
static int summoned, climbs;
static const struct nv_machine *invalidates; /* this machine's INVLPGA was its last instruction; NULL: it was not */
static uint64_t served;                     /* instructions that L0 did for machines of its depth before */

static void write_fields(struct nv_vmcb *to)
{
	*to = (struct nv_vmcb){
		.intercept = {any() & any(), once_in(2) ? any() & any() : 0, once_in(2) ? any() & any() : 0, 1u << 28 | 1u << 27, 3, 0},
		.iopm = address(), .msrpm = once_in(2) ? address() : ZEROS * PAGE, .tsc_offset = any(), .asid = 1 + below(3),
		.virtual_interrupt = any() & 0xff011f0100ull, .nested_paging = once_in(3) ? 0 : 1, .nested_cr3 = once_in(4) ? address() : BLOCKS * PAGE,
		.tlb_control = once_in(4) ? below(8) : 0,
		.event_injection = once_in(2) ? 0 : EVENT_VALID | below(5) << EVENT_KIND | below(256),
		.interrupt_shadow = below(2),
		.cs = {0x10, 0xa9b, ~0u, 0}, .ss = {0x18, 0xc93, ~0u, 0}, .es = {0x18, 0xc93, ~0u, 0}, .ds = {0x18, 0xc93, ~0u, 0},
		.efer = EFER_SVME | EFER_LME | EFER_LMA | (once_in(2) ? EFER_NXE : 0), .cr0 = 0x80010031, .cr4 = CR4_PAE, .cr3 = once_in(2) ? BLOCKS * PAGE : address(),
		.dr6 = 0xffff0ff0, .dr7 = 0x400, .rflags = 2 | (any() & 0x200), .rip = address(), .rsp = address(), .rax = address(),
		.idtr = {.limit = once_in(4) ? 0 : 0xfff, .base = page_of(0, PAGES)}, .cpl = once_in(4) ? 3 : 0, .guest_pat = 0x0007040600070406,
	};
	if (once_in(8))
		to->efer &= ~(EFER_LME | EFER_LMA);
	if (once_in(16))
		to->cr4 = 0;
}

/* A block that mostly keeps the rules, with a few bytes changed; or one of which nothing is known. */
static void write_block(uint8_t *at)
{
	if (once_in(16)) {
		for (uint64_t i = 0; i < PAGE; i += 8)
			*(uint64_t *)(at + i) = any();
		return;
	}
	write_fields((struct nv_vmcb *)at);
	for (uint64_t count = below(3) ? 0 : below(4); count; count--)
		*(uint64_t *)(at + 8 * below(sizeof(struct nv_vmcb) / 8)) = once_in(2) ? any() : 1ull << below(64);
}

static void change_memory(void)
{
	if (once_in(8))
		write_plain_tables(BLOCKS, once_in(4) ? READ_ONLY : PLAIN, below(2));
	for (uint64_t count = below(3); count; count--) {
		if (once_in(2))
			write_block(level + page_of(0, BLOCKS));
		else
			write_table((uint64_t *)(level + page_of(BLOCKS, TABLES)), flags, sizeof flags / sizeof flags[0], PLAIN);
	}
}

static void stop_with(uint64_t code)
{
	static const uint32_t indices[] = {EFER, EFER, EFER, 0xc0010114, 0xc0010117, 0xc0000100, 0x10, 0x4e570000};
	uint64_t injected = block->event_injection;

	invalidates = code == EXIT_INVLPGA ? nested.active : NULL;
	served = nested.served[nested.active->depth];
	block->exit_code = code;
	block->exit_info_1 = any();
	block->exit_info_2 = once_in(2) ? address() : any();
	block->exit_interrupt_info = injected & EVENT_VALID && once_in(3) ? injected : 0;
	block->event_injection = injected & ~EVENT_VALID;
	block->next_rip = once_in(2) ? block->rip + 1 + below(15) : any();
	if (code == EXIT_NPF)
		block->exit_info_1 &= once_in(8) ? ~0ull : 0x300000017;
	if (code == EXIT_IOIO && once_in(2))
		block->exit_info_1 |= 0xffffull << 16;
	if (code == EXIT_MSR) {
		mailbox.regs[NV_REG_RCX] = once_in(4) ? any() : indices[below(sizeof indices / sizeof indices[0])];
		mailbox.regs[NV_REG_RDX] = once_in(2) ? 0 : any();
		block->exit_info_1 &= 1;
		block->rax = once_in(4) ? any() : once_in(2) ? 0x1d00 : 0xd00;
	}
	if (code >= EXIT_VMRUN && code <= EXIT_VMRUN + 6)
		block->rax = address();
	if (code == EXIT_INTR)
		mailbox.interrupt = mailbox.acknowledge && once_in(2) ? below(256) : NO_INTERRUPT;
	ring(NV_SWITCHER_RINGING);
}

/* Where the machine's tables have changed. */
static void stop_for_remap(void)
{
	static const struct remap_format format = {&npt_format, PLAIN, READ_ONLY, PLAIN | NPT_NO_EXECUTE};
	uint32_t access;
	uint64_t address = remap(&format, &access);

	stop_with(EXIT_NPF);
	block->exit_info_1 = NPF_FINAL | NPF_USER | (access == NV_RIGHT_WRITE ? NPF_WRITE : 0);
	if (address != ~0ull)
		block->exit_info_2 = address;
}

/* Hypervisors change their tables, and say so by the next VMRUN; or say nothing any more. */
static void change_blocks(void)
{
	static int said;
	uint32_t control = once_in(2) ? TLB_FLUSH_ALL : 3, asid = once_in(2) ? 1 + below(100) : 0;

	if (!said && !once_in(16))
		return;
	said = !said;
	if (said)
		write_plain_tables(BLOCKS, once_in(2) ? READ_ONLY : PLAIN, below(2));
	for (unsigned int i = 0; i < BLOCKS; i++) {
		struct nv_vmcb *at = (struct nv_vmcb *)(level + i * PAGE);

		at->tlb_control = said && !asid ? control : 0;
		if (said && asid)
			at->asid = asid;
	}
	model_note(&npt_format);
}

/* The same each time: tables of its own for the software there, which lead everywhere, and code that L0 may do for the processor. */
static void write_plain_code(void)
{
	uint64_t *tables = (uint64_t *)(level + ZEROS_END * PAGE);
	uint8_t *code = level + CODE * PAGE;

	memset(tables, 0, 3 * PAGE);
	tables[0] = (ZEROS_END + 1) * PAGE | 3;
	tables[512] = (ZEROS_END + 2) * PAGE | 3;
	tables[1024] = 0x83;
	for (unsigned int i = 0; i < PAGE; i += 8) {
		static const uint8_t last[] = {0xd8, 0xd8, 0xda, 0xdb};

		/* mov -16(%rsi), %rbx or mov %rdi, (%rsi) or mov %rdi, %rax or nops; then sometimes one of SVM's */
		memcpy(code + i, (const uint8_t[][4]){{0x48, 0x8b, 0x5e, 0xf0}, {0x48, 0x89, 0x3e, 0x90}, {0x48, 0x89, 0xf8, 0x90},
						      {0x90, 0x90, 0x90, 0x90}}[i / 8 % 4], 4);
		memcpy(code + i + 4, (uint8_t[]){0x90, 0x90, 0x90, 0x90}, 4);
		if (i / 8 % 3 == 2)
			memcpy(code + i + 4, (uint8_t[]){0x0f, 0x01, last[i / 8 % 7 % 4]}, 3);
	}
}

/* L0 goes on there from the next instruction of SVM's that it does. */
static void change_to_plain_code(void)
{
	block->cr3 = ZEROS_END * PAGE;
	block->cr0 |= CR0_PG;
	block->efer |= EFER_LME | EFER_LMA;
	block->cs.attributes = 0xa9b;
	block->interrupt_shadow = 0;
	block->rip = CODE * PAGE + 8 * below(PAGE / 8 - 16);
	block->rflags = 2;
	mailbox.regs[RSI] = page_of(CODE + 1, 2) + 0x100;
	mailbox.regs[RDI] = page_of(0, BLOCKS);
}

static void change_state(void)
{
	block->rip = once_in(2) ? block->rip + below(16) : address();
	block->rsp = address();
	block->rflags = (any() & 0x200) | 2;
	block->interrupt_shadow = once_in(8);
	block->cpl = once_in(8) ? 3 : 0;
	if (once_in(16))
		block->cr0 ^= CR0_PG;
	if (once_in(16))
		block->cr3 = address();
	if (once_in(64))
		block->cs.attributes = any();
	for (int i = 0; i < 16; i++)
		if (once_in(8))
			mailbox.regs[i] = address();
}

/* Behind a VMRUN the processor lets nothing pass that a page of machine 0's maps asks for; but L0 sets accessed and dirty bits in any page that is a
 * table. */
static void check_map(const struct nv_vmcb *guest, uint64_t code, uint64_t map, uint64_t offset, uint64_t size)
{
	const uint64_t *composed = (const uint64_t *)(nested.maps + offset);
	uint64_t at = map & ~(PAGE - 1);

	if (!intercepts(guest->intercept, code) || at + size > PAGES * PAGE)
		return;
	maps_checked++;
	for (uint64_t i = 0; i < size / 8; i++)
		CHECK(!(((const uint64_t *)(level + at))[i] & ~composed[i] & ~0x60ull));
}

void __real_nv_nested_run(struct nv_nested *nested, struct nv_vmcb *block, uint64_t address, uint64_t next_rip);

/* A VMRUN that L0 does makes the processor forget: of an ASID, or all; or its guest has another one. */
void __wrap_nv_nested_run(struct nv_nested *nested, struct nv_vmcb *block, uint64_t address, uint64_t next_rip)
{
	const struct nv_machine *machine = nested->active;
	uint64_t entered = nested->entered[machine->depth];

	__real_nv_nested_run(nested, block, address, next_rip);
	if (!machine->child || nested->entered[machine->depth] == entered)
		return;
	if (!machine->depth) {
		check_map(&machine->guest, EXIT_IOIO, machine->guest.iopm, 0, NV_NESTED_PORTS);
		check_map(&machine->guest, EXIT_MSR, machine->guest.msrpm, NV_NESTED_PORTS, NV_NESTED_MSRS);
	}
	model_flush_tagged(machine->child, machine->guest.asid);
	if (machine->guest.tlb_control)
		model_flush(machine, machine->guest.tlb_control == TLB_FLUSH_ALL ? ~0ull : machine->guest.asid);
}

/* An INVLPGA that L0 has done: the processor has to forget, too. */
static void note_invalidation(void)
{
	if (invalidates && nested.served[invalidates->depth] > served) {
		invalidations++;
		CHECK(block->tlb_control == TLB_FLUSH_ALL);
	}
	invalidates = NULL;
}

/* The processor: enters level n, which writes its memory and stops for something. */
static int run_kvm(void)
{
	static const uint64_t often[] = {0x72, 0x78, 0x7b, 0x7c, 0x7c, 0x7c, 0x75, 0x4d, 0x4e, 0x46, 0x60, 0x61, 0x64, 0x7f, 0x74, 0x70,
					 0x10, 0x65, 0x23, 0x81, 0x85, 0x84, 0x86, 0x7a, 0x82, 0x83, ~0ull, 0x7d, 0x88};

	check_entry();
	note_invalidation();
	model_check(&npt_format);
	if (nested.active->depth > deepest)
		deepest = nested.active->depth;
	mailbox.load = mailbox.store = 0;
	change_memory();
	change_state();
	if (summoned) {
		summoned = 0;
		stop_with(EXIT_NMI);
	} else if (once_in(50)) {
		stop_directly();
	} else if (nested.active->depth && once_in(8)) {
		stop_for_remap();
	} else if (nested.active->svme && once_in(32)) {
		block->cpl = 0;
		stop_with(EXIT_INVLPGA);
	} else if (nested.active->svme && !once_in(4)) {
		blocks_run++;
		change_blocks();
		block->cpl = 0;
		if (once_in(3))
			change_to_plain_code();
		stop_with(once_in(4) ? EXIT_VMLOAD + below(2) : EXIT_VMRUN);
	} else if (climbs && !nested.active->svme && !once_in(4)) {
		stop_with(EXIT_MSR);
		block->exit_info_1 = 1;
		block->rax = 0x1d00;
		mailbox.regs[NV_REG_RCX] = EFER;
		mailbox.regs[NV_REG_RDX] = 0;
	} else if (once_in(3)) {
		stop_with(EXIT_NPF);
	} else {
		stop_with(once_in(16) ? below(0xa7) : often[below(sizeof often / sizeof often[0])]);
	}
	return 0;
}

/* KVM starts afresh. */
static void restart(void)
{
	memset(remembered, 0, sizeof remembered);
	model_forget();
}

int ioctl(int fd, unsigned long request, ...)
{
	(void)fd;
	if (request == KVM_NMI)
		summoned = 1;
	if (request == KVM_SET_USER_MEMORY_REGION)
		restart();
	return request == KVM_RUN ? run_kvm() : 0;
}

static struct nv_table *make_table(void)
{
	/* L0's two, an image's alone, and before each of those */
	static const struct nv_claim claims[] = {{0}, {0, 1, 1, 0, 1}, {0, 2, 2, 0, 1}, {0, 3, 3, 1, 0}, {1, 3, 3, 1, 0}, {2, 3, 3, 1, 0}};
	static struct nv_nested_claim image = {&nested, 0, 1};
	static struct nv_server servers[] = {{0}, {nv_nested_serve, &svm, 0}, {nv_svm_serve_msr, &svm, 0}, {nv_nested_take, &image, 0}};
	static const struct nv_range all = {0, ~0ull, 3, 0}, instructions = {0, ~0ull, 4, 0};
	static const struct nv_range msrs[] = {{0, EFER - 1, 3, 0}, {EFER, EFER, 5, 0}, {EFER + 1, 0xc0010113, 3, 0},
					       {0xc0010114, 0xc0010118, 5, 0}, {0xc0010119, ~0ull, 3, 0}};
	static uint16_t ports[NV_PORTS];
	static struct nv_table table = {claims, servers, {ports, ports}, {{{0}}}};

	for (int i = 0; i < NV_PORTS; i++)
		ports[i] = 3;
	for (int i = 0; i < 2; i++) {
		for (int reason = 0; reason < NV_REASONS; reason++)
			table.ranges[reason][i] = (struct nv_ranges){&all, 1, 0};
		table.ranges[NV_REASON_SVM_INSTRUCTION][i] = (struct nv_ranges){&instructions, 1, 0};
		table.ranges[NV_REASON_RDMSR][i] = table.ranges[NV_REASON_WRMSR][i] = (struct nv_ranges){msrs, 5, 0};
	}
	return &table;
}

/* What Python does with an event: lets it happen, raises an exception, or leaves it; and interrupts come. */
static void answer(void)
{
	if (nv_switched_outside(&svm.switched)) {
		if (once_in(4) && vcpu.event.reason != NV_REASON_SVM_INSTRUCTION)
			nv_svm_pass(&svm, &vcpu.event);
		else if (once_in(4))
			nv_svm_inject(&svm, NV_EVENT_EXCEPTION, below(2) ? 13 : 14, 1, any());
	}
	svm.looks_ahead = below(2);
	if (once_in(2))
		svm.switched.pending = (struct nv_pending){0}; /* it does not while something waits */
	if (once_in(8))
		nv_pending_interrupt(&svm.switched.pending, below(256));
	if (once_in(16))
		nv_pending_nmi(&svm.switched.pending);
	if (once_in(32))
		svm.switched.pending.windows |= 1 + below(3);
}

int main(int count, char **words)
{
	uint64_t blocks;

	CHECK(count == 3);
	blocks = strtoull(words[2], NULL, 0);
	prepare();
	write_plain_code();
	begin(words[1], write_block, flags, sizeof flags / sizeof flags[0], PLAIN);
	while (blocks_run < blocks) {
		start();
		model_start();
		svm.saves_next_rip = below(2);
		climbs = !climbs;
		svm.limits.physical_reserved = ~0ull << (once_in(2) ? PHYSICAL_BITS : 52);
		run_with(make_table());
		for (int exits = 0; exits < 2000 && blocks_run < blocks && !nested.too_deep && !nested.lost && !nested.endless; exits++) {
			int result = nv_vcpu_run(&vcpu);

			CHECK(!result || nested.lost || nested.endless);
			answer();
		}
	}
	check_canaries();
	/* otherwise the levels did too little, or L0 too much */
	model_end(blocks);
	CHECK(deepest > 4 && 2 * unflushed > blocks && 100 * invalidations > blocks && 100 * nested.ahead.met > blocks &&
	      20 * maps_checked > blocks);
	puts("done");
	return 0;
}
