/* What AMD APM vol. 2, chapter 15 says of VMRUN, #VMEXIT and what is around them, and no common hypervisor depends on. */
#include <unistd.h>

#include "nested_level_svm.h"

/* Pages of the level's: control blocks of machine 0 and machine 1, tables of both that lead everywhere, and one of which more is said. */
enum { BLOCK = 1, BLOCK_1 = 2, ROOT = 4, ROOT_1 = 8, PLACE = 60 };
enum { VMMCALL = 0x81, NEXT = 3, START = 0x1000 };

#define ENTRY(number) ((uint64_t)(number) * PAGE | 7)
#define LONG_MODE (EFER_LME | EFER_LMA)
#define INVALID (~0ull)
#define STEPPED (EVENT_VALID | (uint64_t)NV_EVENT_EXCEPTION << EVENT_KIND | DB)
#define INJECTED_NMI (EVENT_VALID | (uint64_t)NV_EVENT_NMI << EVENT_KIND)

static uint64_t *page(int number)
{
	return (uint64_t *)(level + number * PAGE);
}

static struct nv_vmcb *block_at(int number)
{
	return (struct nv_vmcb *)page(number);
}

static uint64_t *rflags(void)
{
	return register_of(&svm, NV_REG_RFLAGS);
}

static void make_tables(int root)
{
	for (int i = 0; i < 3; i++)
		page(root + i)[0] = ENTRY(root + i + 1);
	for (unsigned int i = 0; i < PAGES; i++)
		page(root + 3)[i] = ENTRY(i);
}

static void make_block(int number, int root)
{
	*block_at(number) = (struct nv_vmcb){
		.intercept = {0, 0, 0, 0, 3, 0}, .asid = 1, .nested_paging = 1, .nested_cr3 = root * PAGE,
		LONG_MODE_STATE, .rip = START, .rflags = 2,
	};
}

static void serve(uint64_t code)
{
	struct nv_event event = {.raw = code, .advance = NEXT};

	CHECK(nv_nested_serve(&svm, 0, &event) == NV_HANDLED);
}

static void run_block(int number)
{
	mailbox.regs[NV_REG_RAX] = number * PAGE;
	serve(EXIT_VMRUN);
}

static void leave_to(struct nv_machine *to)
{
	nv_nested_reflect(&nested, to, &(struct nv_nested_exit){.code = VMMCALL});
}

static void leave(void)
{
	leave_to(nested.active->parent);
}

static void begin(void)
{
	start();
	memset(level, 0, PAGES * PAGE);
	make_tables(ROOT);
	make_tables(ROOT_1);
	make_block(BLOCK, ROOT);
	make_block(BLOCK_1, ROOT_1);
	*register_of(&svm, NV_REG_RIP) = START;
	*rflags() = 2;
}

/* Machine 0 runs machine 1, which has SVM. */
static void begin_above(void)
{
	begin();
	run_block(BLOCK);
	CHECK(nested.active->depth == 1);
	nested.active->svme = 1;
}

/* 15.25.3 */
static void nested_paging_needs_paging(void)
{
	for (int paged = 0; paged < 2; paged++)
		for (int asks = 0; asks < 2; asks++) {
			begin();
			block->efer &= ~LONG_MODE;
			block->cs.attributes = 0xc9b;
			block->cr0 = paged ? 0x80000011 : 0x11;
			block_at(BLOCK)->nested_paging = asks;
			run_block(BLOCK);
			CHECK(nested.active->depth == (paged || !asks));
			CHECK(block_at(BLOCK)->exit_code == (paged || !asks ? 0 : INVALID));
		}
}

/* 15.5.1: of legacy PAE without nested paging; each of four pointers, of those that are present. */
static void page_directory_pointers_are_checked(void)
{
	static const struct { uint64_t pointer; int is_bad; } pointers[] = {
		{0, 0}, {0x1e6, 0}, {ENTRY(9) & ~6ull, 0}, {0x3001, 0}, {0x3e19, 0}, {0x3003, 1}, {0x3005, 1}, {0x3021, 1}, {0x3041, 1},
		{0x3081, 1}, {0x3101, 1}, {1ull << 63 | 0x3001, 1}, {1ull << 52 | 0x3001, 1}, {1ull << PHYSICAL_BITS | 0x3001, 1},
	};

	for (unsigned int i = 0; i < sizeof pointers / sizeof pointers[0]; i++)
		for (int at = 0; at < 5; at++) {
			int refused = pointers[i].is_bad && at < 4;

			begin();
			block_at(BLOCK)->nested_paging = 0;
			block_at(BLOCK)->efer = EFER_SVME;
			block_at(BLOCK)->cs.attributes = 0xc9b;
			block_at(BLOCK)->cr3 = PLACE * PAGE + 0xfe0 - 0x20 * (at == 4);
			page(PLACE)[(0xfe0 - 0x20 * (at == 4)) / 8 + at] = pointers[i].pointer;
			run_block(BLOCK);
			CHECK(nested.active->depth == !refused && block_at(BLOCK)->exit_code == (refused ? INVALID : 0));
			CHECK(nested.entered[0] && !nested.due.to);
		}
}

/* In no memory they are ones; where a machine below does not give it, that hears of it first, and VMRUN happens again. */
static void page_directory_pointers_in_no_memory(void)
{
	begin_above();
	page(ROOT + 3)[PLACE] = 0;
	block_at(BLOCK_1)->nested_paging = 0;
	block_at(BLOCK_1)->efer = EFER_SVME;
	block_at(BLOCK_1)->cs.attributes = 0xc9b;
	block_at(BLOCK_1)->cr3 = PLACE * PAGE;
	*register_of(&svm, NV_REG_RIP) = START;
	block->interrupt_shadow = SHADOWED;
	run_block(BLOCK_1);
	CHECK(block->interrupt_shadow);     /* it comes again behind STI */
	CHECK(nested.due.to == nested.machines && nested.due.exit.code == EXIT_NPF && nested.due.exit.info_2 == PLACE * PAGE);
	CHECK(nested.active->depth == 1 && *register_of(&svm, NV_REG_RIP) == START && !block_at(BLOCK_1)->exit_code);
	begin();
	block_at(BLOCK)->nested_paging = 0;
	block_at(BLOCK)->efer = EFER_SVME;
	block_at(BLOCK)->cs.attributes = 0xc9b;
	block_at(BLOCK)->cr3 = (PAGES + 1) * PAGE;
	run_block(BLOCK);
	CHECK(!nested.active->depth && block_at(BLOCK)->exit_code == INVALID);
}

/* The trap flag, behind what L0 does for the processor. */
static void instructions_of_svm_are_stepped(void)
{
	static const uint64_t codes[] = {0x84, 0x85, 0x7a, EXIT_VMLOAD, EXIT_VMSAVE};

	for (unsigned int i = 0; i < sizeof codes / sizeof codes[0]; i++)
		for (int stepped = 0; stepped < 2; stepped++) {
			begin();
			mailbox.regs[NV_REG_RAX] = PLACE * PAGE;
			*rflags() |= RFLAGS_RF | (stepped ? RFLAGS_TF : 0);
			block->interrupt_shadow = SHADOWED;
			serve(codes[i]);
			CHECK(!block->interrupt_shadow);
			CHECK(svm.injection == (stepped ? STEPPED : 0));
			CHECK(block->dr6 == (stepped ? 0xffff0ff0 | DR6_BS : 0xffff0ff0));
			CHECK(*register_of(&svm, NV_REG_RIP) == START + NEXT && *rflags() == (2 | (stepped ? RFLAGS_TF : 0)));
		}
}

/* 15.5.1: VMRUN is one instruction, which is over when its guest has stopped; the guest has flags of its own. */
static void vmrun_is_stepped(void)
{
	for (int refused = 0; refused < 2; refused++) {
		begin();
		*rflags() |= RFLAGS_TF | RFLAGS_RF;
		block->dr7 = 0x401;
		block->interrupt_shadow = SHADOWED;
		block_at(BLOCK)->asid = !refused;
		run_block(BLOCK);
		if (!refused) {
			CHECK(!svm.injection && *rflags() == 2);
			leave();
		}
		CHECK(!nested.active->depth && svm.injection == STEPPED && block->dr6 & DR6_BS && block->dr7 == 0x400);
		CHECK(*rflags() == (2 | RFLAGS_TF) && *register_of(&svm, NV_REG_RIP) == START + NEXT && !block->interrupt_shadow);
	}
	begin_above();
	nested.machines[0].guest.intercept[2] = 1 << DB;
	*rflags() |= RFLAGS_TF;
	run_block(BLOCK_1);
	leave();
	CHECK(nested.due.to == nested.machines && nested.due.exit.code == EXIT_DB && !svm.injection);
}

/* 15.20: one that a block injects keeps no other away, and one that comes from outside does; not even when a fault has stopped it. */
static void an_injected_nmi_blocks_no_other(void)
{
	for (int stopped = 0; stopped < 2; stopped++) {
		begin();
		block_at(BLOCK)->event_injection = INJECTED_NMI | NMI;
		block_at(BLOCK)->intercept[3] = 2;
		run_block(BLOCK);
		nv_svm_prepare(&svm);
		CHECK(block->event_injection == (INJECTED_NMI | NMI) && !intercepts(block->intercept, EXIT_IRET));
		nv_svm_entered(&svm);
		if (stopped) {
			block->exit_code = EXIT_NPF;
			block->exit_interrupt_info = INJECTED_NMI;
			nv_svm_interrupted(&svm);
			CHECK(svm.interrupted == (INJECTED_NMI | NMI));
			nv_svm_prepare(&svm);
			nv_svm_entered(&svm);
		}
		block->exit_interrupt_info = 0;
		nv_svm_interrupted(&svm);
		CHECK(!svm.switched.pending.nmi_masked);
		nv_pending_nmi(&svm.switched.pending);
		nv_nested_deliver(&nested);
		CHECK(nested.due.to == nested.machines && nested.due.exit.code == EXIT_NMI);
		nv_nested_settle(&nested);
		nested.machines[0].gif = 1;
		nv_svm_prepare(&svm);
		CHECK(intercepts(block->intercept, EXIT_IRET));
		nv_svm_entered(&svm);
		CHECK(svm.switched.pending.nmi_masked);
	}
}

static uint64_t priority_of(int number)
{
	return block_at(number)->virtual_interrupt & V_TPR;
}

/* 15.21.2: CR8 is V_TPR of the highest block that has V_INTR_MASKING; a write is one to the guest's own, too. */
static void cr8_is_of_the_block_that_says_so(void)
{
	begin();
	block_at(BLOCK)->virtual_interrupt = V_INTR_MASKING | 5;
	block_at(BLOCK_1)->virtual_interrupt = 2;
	run_block(BLOCK);
	nested.active->svme = 1;
	run_block(BLOCK_1);
	CHECK(nested.active->depth == 2 && (block->virtual_interrupt & V_TPR) == 5);
	leave();
	CHECK(priority_of(BLOCK_1) == 2 && (block->virtual_interrupt & V_TPR) == 5);
	run_block(BLOCK_1);
	block->virtual_interrupt = (block->virtual_interrupt & ~V_TPR) | 9;
	leave();
	CHECK(priority_of(BLOCK_1) == 9 && (block->virtual_interrupt & V_TPR) == 9);
	run_block(BLOCK_1);
	block->virtual_interrupt = (block->virtual_interrupt & ~V_TPR) | 11;
	leave_to(nested.machines);
	CHECK(priority_of(BLOCK) == 11 && priority_of(BLOCK_1) == 9);
	block_at(BLOCK)->virtual_interrupt = V_INTR_MASKING | 4;
	run_block(BLOCK);
	CHECK(nested.active->depth == 2 && (block->virtual_interrupt & V_TPR) == 4);
	leave();
	block_at(BLOCK_1)->virtual_interrupt = V_INTR_MASKING | 3;
	run_block(BLOCK_1);
	CHECK((block->virtual_interrupt & V_TPR) == 3);
	leave();
	CHECK((block->virtual_interrupt & V_TPR) == 4);
}

static void vmload_only_reads(void)
{
	begin();
	page(ROOT + 3)[PLACE] = PLACE * PAGE | 5;
	run_block(BLOCK);
	nested.active->svme = 1;
	mailbox.regs[NV_REG_RAX] = PLACE * PAGE;
	serve(EXIT_VMLOAD);
	CHECK(!nested.due.to && mailbox.load == LEVEL_PHYSICAL + PLACE * PAGE);
	mailbox.regs[NV_REG_RAX] = PLACE * PAGE;
	serve(EXIT_VMSAVE);
	CHECK(nested.due.to == nested.machines && !mailbox.store && nested.due.exit.info_2 == PLACE * PAGE);
	CHECK(nested.due.exit.info_1 == (NPF_FINAL | NPF_PRESENT | NPF_WRITE | NPF_USER));
}

/* 15.5.1 */
static void some_modes_have_a_privilege_level_of_their_own(void)
{
	static const struct { uint64_t cr0, rflags; uint8_t told, is; } modes[] = {
		{0x10, 2, 3, 0}, {0x80000011, 2 | RFLAGS_VM, 0, 3}, {0x80000011, 2, 1, 1}, {0x80000011, 2, 0xfe, 2}, {0x10, 2 | RFLAGS_VM, 3, 0},
	};

	for (unsigned int i = 0; i < sizeof modes / sizeof modes[0]; i++) {
		begin();
		block_at(BLOCK)->efer = EFER_SVME;
		block_at(BLOCK)->cr0 = modes[i].cr0;
		block_at(BLOCK)->rflags = modes[i].rflags;
		block_at(BLOCK)->cpl = modes[i].told;
		run_block(BLOCK);
		CHECK(nested.active->depth == 1 && block->cpl == modes[i].is);
	}
}

/* What virtual GIF has cleared is not clear where the next VMRUN has none. */
static void gif_is_set_without_virtual_gif(void)
{
	begin();
	block_at(BLOCK)->virtual_interrupt = V_GIF_ENABLE;
	run_block(BLOCK);
	CHECK(!nested.active->gif);
	leave();
	block_at(BLOCK)->virtual_interrupt = 0;
	run_block(BLOCK);
	CHECK(nested.active->depth == 1 && nested.active->gif);
	nested.active->svme = 1;
	serve(0x85);
	leave();
	run_block(BLOCK);
	CHECK(!nested.active->gif);         /* which it has cleared itself */
}

/* 15.12: one that has come of two exceptions is intercepted as such, and EXITINTINFO is the first. */
static void a_double_fault_is_intercepted(void)
{
	const uint64_t first = EVENT_VALID | EVENT_ERROR_CODE | (uint64_t)NV_EVENT_EXCEPTION << EVENT_KIND | 11;

	for (int wanted = 0; wanted < 2; wanted++) {
		begin();
		block_at(BLOCK)->intercept[2] = wanted << DF;
		run_block(BLOCK);
		svm.interrupted = svm.vectoring = first;
		nv_svm_inject(&svm, NV_EVENT_EXCEPTION, GP, 1, 0);
		if (!wanted) {
			CHECK(!nested.due.to && EVENT_VECTOR(svm.injection) == DF);
			continue;
		}
		CHECK(nested.due.to == nested.machines && nested.due.exit.code == EXIT_EXCEPTION + DF && !svm.injection && !svm.interrupted);
		nv_nested_settle(&nested);
		CHECK(block_at(BLOCK)->exit_code == EXIT_EXCEPTION + DF && block_at(BLOCK)->exit_interrupt_info == first);
	}
}

/* 15.5.1: of RAX what the size of addresses says. */
static void the_address_of_a_block_has_a_size(void)
{
	static const struct { uint16_t attributes; uint64_t rax; uint8_t prefixed, runs; } cases[] = {
		{0xa9b, 1ull << 32 | BLOCK * PAGE, 0, 0}, {0xa9b, 1ull << 32 | BLOCK * PAGE, 1, 1}, {0xc9b, 1ull << 32 | BLOCK * PAGE, 0, 1},
		{0xc9b, 1 << 20 | BLOCK * PAGE, 0, 0}, {0xc9b, 1 << 20 | BLOCK * PAGE, 1, 1}, {0x89b, 1 << 20 | BLOCK * PAGE, 0, 1},
		{0x89b, 1 << 20 | BLOCK * PAGE, 1, 0}, {0x89b, 1ull << 32 | BLOCK * PAGE, 1, 1},
	};

	for (unsigned int i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct nv_event event = {.raw = EXIT_VMRUN, .advance = NEXT + cases[i].prefixed, .instruction = {0x67, 0x0f, 1, 0xd8},
					 .instruction_length = 4};

		begin();
		if (!cases[i].prefixed)
			event.instruction[0] = 0x2e;
		block->cs.attributes = cases[i].attributes;
		mailbox.regs[NV_REG_RAX] = cases[i].rax;
		CHECK(nv_nested_serve(&svm, 0, &event) == NV_HANDLED);
		CHECK(nested.active->depth == cases[i].runs && (svm.injection == 0) == cases[i].runs);
	}
}

static void code_of_32_bits_goes_on_at_0(void)
{
	begin();
	block->cs.attributes = 0xc9b;
	*register_of(&svm, NV_REG_RIP) = 0xfffffffd;
	serve(0x84);
	CHECK(!*register_of(&svm, NV_REG_RIP));
	*register_of(&svm, NV_REG_RIP) = 0xfffffffd;
	run_block(BLOCK);
	leave();
	CHECK(!*register_of(&svm, NV_REG_RIP));
}

/* 15.25.8 */
static void without_nested_paging_there_is_one_pat(void)
{
	for (int is_nested = 0; is_nested < 2; is_nested++) {
		begin();
		block_at(BLOCK)->nested_paging = is_nested;
		run_block(BLOCK);
		block->guest_pat = 0x0606060606060606;
		leave();
		CHECK(block->guest_pat == (is_nested ? 0x0007040600070406 : 0x0606060606060606));
	}
}

/* 15.7.1: of INT3 and INTO, whose exceptions are traps, and of no other. The lab's processor does not stop INT3 as an exception. */
static void traps_tell_the_next_instruction(void)
{
	static const struct { uint8_t vector, code[2], length; } cases[] = {
		{BP, {0xcc}, 1}, {BP, {0x66, 0xcc}, 2}, {OF, {0xce}, 1}, {UD, {0x0f, 0x0b}, 0}, {DB, {0x90}, 0},
	};
	struct nv_nested_claim claim = {&nested, 0, 1};

	for (unsigned int i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct nv_event event = {0};

		begin();
		block_at(BLOCK)->intercept[2] = ~0u;
		block_at(BLOCK)->efer = EFER_SVME;
		block_at(BLOCK)->cr0 = 0x11;
		block_at(BLOCK)->cs.attributes = 0xc9b;
		block_at(BLOCK)->rip = PLACE * PAGE;
		memcpy(page(PLACE), cases[i].code, sizeof cases[i].code);
		run_block(BLOCK);
		svm.switched.rung = 1;
		block->exit_code = EXIT_EXCEPTION + cases[i].vector;
		block->rip = PLACE * PAGE;
		nv_svm_decode(&svm, &event);
		CHECK(nv_nested_take(&claim, 0, &event) == NV_HANDLED && !nested.active->depth);
		CHECK(block_at(BLOCK)->exit_code == (uint64_t)EXIT_EXCEPTION + cases[i].vector && block_at(BLOCK)->rip == PLACE * PAGE);
		CHECK(block_at(BLOCK)->next_rip == (cases[i].length ? PLACE * PAGE + cases[i].length : 0));
	}
}

int main(void)
{
	alarm(60);
	prepare();
	nested_paging_needs_paging();
	page_directory_pointers_are_checked();
	page_directory_pointers_in_no_memory();
	instructions_of_svm_are_stepped();
	vmrun_is_stepped();
	an_injected_nmi_blocks_no_other();
	cr8_is_of_the_block_that_says_so();
	vmload_only_reads();
	some_modes_have_a_privilege_level_of_their_own();
	gif_is_set_without_virtual_gif();
	a_double_fault_is_intercepted();
	the_address_of_a_block_has_a_size();
	code_of_32_bits_goes_on_at_0();
	without_nested_paging_there_is_one_pat();
	traps_tell_the_next_instruction();
	check_canaries();
	puts("done");
	return 0;
}
