#include "nested_svm_internal.h"

/* Intercepts that do not mean every instruction of their kind. */

enum { LMSW_GROUP = 0x01, CLTS = 0x06, MOV_TO_CR = 0x22 };

/* Whether the write of CR0 that the exit tells of is one for the selective intercept: LMSW always is, CLTS never, MOV if it changes more
 * than TS and MP (AMD APM vol. 2, 15.9 and table 15-7). */
int nv_nested_selects(struct nv_nested *nested)
{
	struct nv_svm *svm = nested->svm;
	const uint8_t *opcode;
	struct nv_event event;
	uint8_t rex;

	nv_svm_decode(svm, &event);
	opcode = nv_svm_opcode(svm, &event, 2, &rex);
	if (!opcode || opcode[0] != 0x0f)
		return 1;
	if (opcode[1] == MOV_TO_CR)
		return !!((event.value ^ svm->block->cr0) & ~(CR0_TS | CR0_MP));
	return opcode[1] == LMSW_GROUP;
}

/* Whether PAUSE is an exit for the machine, by the count and the threshold of its block: AMD APM vol. 2, 15.14.4. Each PAUSE exits to L0,
 * whose own time must not count: the least time between two of them is taken for it. */
int nv_nested_pause(struct nv_nested *nested, struct nv_machine *machine)
{
	const struct nv_vmcb *guest = &machine->guest;
	uint64_t now = nv_ticks(), passed = now - machine->paused;

	machine->paused = now;
	if (!nested->pause_ticks || passed < nested->pause_ticks)
		nested->pause_ticks = passed;
	if (!guest->pause_filter_count)
		return 1;
	if (guest->pause_filter_threshold && passed - nested->pause_ticks > guest->pause_filter_threshold)
		machine->pauses = guest->pause_filter_count;
	if (!machine->pauses)
		return 1;
	machine->pauses--;
	return 0;
}
