#include "nested_svm_internal.h"

#include <stddef.h>
#include <string.h>

enum { SVM_FIRST = 0x80, SVM_LAST = 0x86, INVLPGA = 0x7a, VMMCALL = 0x81, EFER = 0xc0000080 };

/* The next RIP of INT3 and INTO, whose exceptions tell it (15.7.1); 0: it is not known. */
static uint64_t behind(struct nv_svm *svm, uint64_t rip)
{
	struct nv_code code = nv_svm_code(svm);
	struct nv_event event = {0};
	uint32_t length = nv_fetch_instruction(svm->switched.paging, &code, &event);

	return length ? rip + length : 0;
}

/* What the processor, or one with the features that L0 offers, tells the machine of the exit. */
static void describe(struct nv_nested *nested, const struct nv_machine *to, const struct nv_event *event, uint64_t rip,
		     struct nv_nested_exit *exit)
{
	uint64_t code = nv_nested_code(to, event->raw);

	*exit = (struct nv_nested_exit){.code = code, .info_2 = nested->svm->block->exit_info_2};
	exit->info_1 = nv_nested_assist(nested, code, event, event->info);
	if (event->advance)
		exit->next_rip = rip + event->advance;
	else if (code == EXIT_EXCEPTION + BP || code == EXIT_EXCEPTION + OF)
		exit->next_rip = behind(nested->svm, rip);
	if (code == EXIT_IOIO)
		exit->info_2 = exit->next_rip;
}

/* A machine below learns that this one writes EFER, and says by its answer whether it may. */
static void ask_efer(struct nv_nested *nested, const struct nv_event *event)
{
	if (event->reason != NV_REASON_WRMSR || (uint32_t)event->qualifier != EFER)
		return;
	nested->active->asked = 1;
	nested->active->asked_svme = !!(*register_of(nested->svm, NV_REG_RAX) & EFER_SVME);
}

static int is_svm(uint64_t code)
{
	return (code >= SVM_FIRST && code <= SVM_LAST && code != VMMCALL) || code == INVLPGA;
}

/* What goes by other ways: nested page faults to whose tables refuse them, what comes from outside before the entry. */
static int is_apart(uint64_t code)
{
	return code >= 6 * 32 || (code >= EXIT_INTR && code <= EXIT_VINTR);
}

int nv_nested_wanted(const struct nv_nested *nested, uint64_t code)
{
	const struct nv_machine *parent = nested->active->parent;

	return parent && !is_apart(code) && intercepts(parent->composed, code);
}

/* The machine that the claim is for, if it wants the exit. */
static struct nv_machine *taker(const struct nv_nested_claim *claim, uint64_t code, uint64_t info)
{
	struct nv_nested *nested = claim->nested;
	struct nv_machine *machine = nested->active->parent;

	/* by default L0 does what a machine that it knows to have SVM asks of it */
	if (is_apart(code) || (is_svm(code) && nested->active->svme && !nests_by_itself(nested, nested->active)))
		return NULL;
	for (; machine && machine->depth >= claim->depth; machine = machine->parent)
		if (nv_nested_covers(claim, machine->depth) && nv_nested_wants(nested, machine, code, info))
			return machine;
	return NULL;
}

int nv_nested_first(struct nv_nested *nested)
{
	const struct nv_vmcb *block = nested->svm->block;
	const struct nv_nested_claim *claim;
	struct nv_event event = {0};
	uint16_t at = 0;

	if (!nv_nested_wanted(nested, block->exit_code))
		return 0;
	nv_svm_decode(nested->svm, &event);
	while ((claim = nv_nested_next_claim(nested, &event, &at)))
		if (taker(claim, block->exit_code, block->exit_info_1))
			return 1;
	return 0;
}

/* KVM does a port access that a level above the machine was to have: the machine's turn comes when it is done. */
static int take_later(struct nv_nested *nested, const struct nv_nested_claim *claim, struct nv_event *event)
{
	const struct nv_svm *svm = nested->svm;
	const struct nv_event *stopped = &svm->stopped;
	struct nv_machine *to;

	if (event->reason != NV_REASON_IO || !svm->step.active || svm->step.code != EXIT_IOIO)
		return NV_DECLINED;
	to = taker(claim, stopped->raw, stopped->info);
	if (!to)
		return NV_DECLINED;
	nested->undo.to = to;
	describe(nested, to, stopped, svm->step.rip, &nested->undo.exit);
	event->handler = nested->levels[to->depth];
	return NV_HANDLED;
}

int nv_nested_take(void *device, uint64_t offset, struct nv_event *event)
{
	const struct nv_nested_claim *claim = device;
	struct nv_nested *nested = claim->nested;
	struct nv_svm *svm = nested->svm;
	struct nv_nested_exit exit;
	struct nv_machine *to;

	(void)offset;
	if (nested->due.withheld || event->space || event->reason == NV_REASON_NMI_WINDOW || nv_nested_is_step(event))
		return NV_DECLINED; /* what is one space's own, or L0's, is no exit of a block */
	to = nested->due.to;
	if (to) {
		if (!nv_nested_covers(claim, to->depth))
			return NV_DECLINED;
		event->handler = nested->levels[to->depth];
		event->retry = 1;
		return NV_HANDLED; /* and takes it when that is complete */
	}
	if (!nested->active->depth)
		return NV_DECLINED;
	if (!svm->switched.rung)
		return take_later(nested, claim, event);
	to = nv_nested_msr_bit(event->qualifier) == NV_NESTED_NO_BIT && nv_nested_is_feature(nested, event) ? NULL : taker(claim, event->raw, event->info);
	if (!to)
		return NV_DECLINED;
	describe(nested, to, event, *register_of(svm, NV_REG_RIP), &exit);
	if (to == nested->active->parent)
		ask_efer(nested, event);
	nv_nested_reflect(nested, to, &exit);
	event->handler = nested->levels[to->depth];
	event->retry = nested->due.withheld ? NV_RETRY_UNSEEN : NV_RETRY;
	return NV_HANDLED;
}

int nv_nested_undo(struct nv_nested *nested)
{
	struct nv_nested_undo *undo = &nested->undo;
	struct nv_machine *to = undo->to;

	if (!to)
		return 0;
	undo->to = nested->due.to = NULL;
	nested->due.withheld = nested->due.space = 0;
	memcpy(nested->svm->switched.mailbox->regs, undo->regs, sizeof undo->regs);
	nested->svm->block->dr6 = nested->svm->step.dr6;
	nv_nested_reflect(nested, to, &undo->exit);
	return 1;
}
