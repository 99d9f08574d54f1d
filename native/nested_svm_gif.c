#include "nested_svm_internal.h"

/* Virtual GIF: AMD APM vol. 2, 15.33. It holds back virtual interrupts only, so that L0 has to stop what comes from outside. */

/* A machine below gives the active one its SVM, and wants to hear of its GIF. */
static int is_wanted(const struct nv_nested *nested)
{
	const struct nv_machine *active = nested->active, *parent = active->parent;

	return parent && nests_by_itself(nested, active) &&
	       (intercepts(parent->composed, EXIT_STGI) || intercepts(parent->composed, EXIT_CLGI));
}

void nv_nested_compose_gif(struct nv_nested *nested)
{
	struct nv_svm *svm = nested->svm;
	struct nv_vmcb *block = svm->block;

	if (!svm->keeps_gif || !nested->visible || !nested->active->svme || svm->step.active || is_wanted(nested) || !nv_nested_idle(nested))
		return;
	block->virtual_interrupt |= V_GIF_ENABLE | (nested->active->gif ? V_GIF : 0);
	block->intercept[EXIT_STGI / 32] &= ~(1u << EXIT_STGI % 32 | 1u << EXIT_CLGI % 32);
	if (intercepts(block->intercept, EXIT_INTR))
		return;
	block->intercept[EXIT_INTR / 32] |= 1u << EXIT_INTR % 32;
	svm->switched.mailbox->acknowledge = 1;
}

int nv_nested_gif_kept(const struct nv_nested *nested)
{
	return !!(nested->svm->block->virtual_interrupt & V_GIF_ENABLE);
}

void nv_nested_read_gif(struct nv_nested *nested)
{
	if (nv_nested_gif_kept(nested))
		nested->active->gif = !!(nested->svm->block->virtual_interrupt & V_GIF);
}
