/* nested_level.h's level on the svm engine. */
#ifndef NESTED_LEVEL_SVM_H
#define NESTED_LEVEL_SVM_H

#include "nested_level.h"
#include "nested_svm_internal.h"

/* Of a VMCB: code of 64 bits. */
#define LONG_MODE_STATE                                                                              \
	.cs = {0x10, 0xa9b, ~0u, 0}, .efer = EFER_SVME | EFER_LME | EFER_LMA, .cr0 = 0x80010031,     \
	.cr4 = CR4_PAE, .dr6 = 0xffff0ff0, .dr7 = 0x400, .guest_pat = 0x0007040600070406

static struct nv_svm svm;
static struct nv_vmcb *block;
static uint64_t entries, unflushed;         /* entries that kept what the processor remembers */
static uint64_t remembered[NV_NESTED_SETS + 1]; /* the tables that each ASID ran with last */

/* The active machine's VMRUN, of the block in this page of the level's. */
static inline void enter_block(uint64_t number)
{
	struct nv_event event = {.raw = EXIT_VMRUN, .advance = 3};

	mailbox.regs[NV_REG_RAX] = number * PAGE;
	CHECK(nv_nested_serve(&svm, 0, &event) == NV_HANDLED);
}

/* What the processor may remember of nested page tables goes by ASID alone, until it is told to forget. */
static inline void check_memory_of(uint32_t asid)
{
	if (block->tlb_control == TLB_FLUSH_ALL)
		memset(remembered, 0, sizeof remembered);
	else
		unflushed++;
	CHECK(!remembered[asid] || remembered[asid] == block->nested_cr3);
	remembered[asid] = block->nested_cr3;
}

/* What L0 lets the processor see. */
static inline void check_entry(void)
{
	const struct nv_machine *active = nested.active;
	const struct nv_shadow *tables = tables_of_active();
	uint64_t maps = active->depth ? nested.maps_physical + (active->depth - 1) * NV_NESTED_MAPS : 0;

	check_chain();
	CHECK(block->nested_paging == 1 && block->nested_cr3 == tables->physical + tables->root * PAGE);
	CHECK(block->iopm == (active->depth ? maps : NV_SWITCHER_BASE + NV_SWITCHER_IOPM));
	CHECK(block->msrpm == (active->depth ? maps + NV_NESTED_PORTS : NV_SWITCHER_BASE + NV_SWITCHER_MSRPM));
	CHECK(block->asid == 1u + active->tables && !active->tables == !active->depth && block->efer & EFER_SVME && block->cpl < 4);
	CHECK(!active->depth || intercepts(block->intercept, EXIT_VMRUN));
	for (int i = 0; i < 6; i++)
		CHECK(!(svm.wanted[i] & ~block->intercept[i]) || svm.step.active);
	for (uint64_t i = 0; active->depth && i < NV_NESTED_MSRS; i++)
		CHECK(!(nested.own_msrs[i] & ~nested.maps[(active->depth - 1) * NV_NESTED_MAPS + NV_NESTED_PORTS + i]));
	CHECK(!mailbox.load || is_levels(mailbox.load, PAGE));
	CHECK(!mailbox.store || is_levels(mailbox.store, PAGE));
	if (mailbox.state == NV_SWITCHER_OUTSIDE)
		check_memory_of(block->asid);
	if (!(entries++ % 16))
		check_table(tables, block->nested_cr3, 1, 4);
}

static inline void start(void)
{
	start_machines(NV_SHADOW_NPT);
	memset(remembered, 0, sizeof remembered);
	nested.take = nv_nested_take;
	memset(block, 0, PAGE);
	*block = (struct nv_vmcb){
		.asid = 1, .nested_paging = 1, LONG_MODE_STATE,
	};
	svm = (struct nv_svm){.nested = &nested, .block = block, .switched = {.mailbox = &mailbox, .shadow = &shadow, .paging = &paging}};
	svm.wanted[2] = 1u << 31;
	svm.wanted[3] = 1u << 31 | 1u << 28 | 1u << 18;
	svm.wanted[4] = 0x7f;
	svm.limits = (struct nv_svm_limits){~0ull << PHYSICAL_BITS, 0x7ff, 0x4d01 & ~0x400};
	nv_svm_init(&vcpu, &svm, -1, run, 1);
	nested.visible = 1;
	nv_nested_init(&nested);
	nested.machines[0].svme = 1;
}

static inline void prepare(void)
{
	prepare_level(NV_SHADOW_NPT);
	block = zeroed(PAGE);
}

#endif
