#include "nested_machines.h"

#include <stddef.h>

/* Levels that change what others answer to their guest's CPUID: they are remembered when it executes that, and have their turn when it goes
 * on behind it, whoever answered. */

static uint64_t *registers(const struct nv_nested *nested)
{
	return nested->switched->mailbox->regs;
}

int nv_nested_ask_cpuid(void *device, uint64_t offset, struct nv_event *event)
{
	const struct nv_nested_cpuid_asker *asker = device;
	struct nv_nested *nested = asker->nested;
	struct nv_nested_cpuid *asked = &nested->active->cpuid;
	uint64_t *regs = registers(nested), next = regs[NV_REG_RIP] + event->advance;

	(void)offset;
	if (asked->rip != next)
		asked->levels = 0;
	asked->levels |= 1ull << asker->level;
	asked->rip = next;
	asked->leaf = regs[NV_REG_RAX];
	asked->subleaf = regs[NV_REG_RCX];
	return NV_DECLINED;
}

int nv_nested_answered_cpuid(struct nv_nested *nested)
{
	struct nv_nested_cpuid *asked = &nested->active->cpuid;

	if (!asked->levels)
		return 0;
	if (asked->rip == registers(nested)[NV_REG_RIP])
		return 1;
	asked->levels = 0; /* it came to something else */
	return 0;
}
