#include "nested_machines.h"

/* What a set of tables is made of: entries of the tables of hypervisors, and what was in them.
 *
 * A hypervisor that makes the processor forget a guest (TLB_CONTROL, another ASID, INVEPT) does not say what it has changed, and most often that
 * is nothing: Linux's KVM does so each time that its guest goes to a guest of its own, and comes back. A processor reads the tables again at
 * next to no cost; here each entry would be an exit. So L0 looks at the entries instead, before the guest runs again. As long as
 * all are what they were, a walk would find what the set has.
 *
 * `seen` has all that the set was made of since it was dropped last, and by that also what the sets of machines above were made of through it:
 * they are dropped with it. Where the memory is that it points to, this process knows as long as no set below is dropped, and then this one is. */

#define MARKS 0x60ull            /* accessed and dirty bits, which L0 sets itself */

static void see(struct nv_nested_tables *tables, const uint64_t *at)
{
	struct nv_nested_seen *one = tables->seen, *end = one + tables->seen_count;

	while (one < end && one->at != at)
		one++;
	if (one == end) {
		if (tables->seen_count == NV_NESTED_SEEN) {
			tables->blind = 1;
			return;
		}
		tables->seen_count++;
	} else if ((one->entry ^ *at) & ~(*at & MARKS)) {
		tables->blind = 1; /* of what was there before something may be left */
	}
	*one = (struct nv_nested_seen){at, *at};
}

void nv_nested_see(struct nv_nested_tables *tables, const struct nv_nested_path *path)
{
	tables->blind |= path->blind;
	for (uint32_t i = 0; i < path->count && !tables->blind; i++)
		see(tables, path->entries[i]);
}

void nv_nested_doubt(struct nv_nested *nested, const struct nv_machine *machine)
{
	for (struct nv_nested_tables *one = nested->tables + 1; one < nested->tables + NV_NESTED_SETS; one++)
		if (one->machine && nv_nested_runs_on(one->machine, machine))
			one->doubted = 1;
	nested->flush = 1;
}

void nv_nested_doubt_guests(struct nv_nested *nested, const struct nv_machine *parent, const uint32_t *tag)
{
	for (const struct nv_nested_tables *one = nested->tables + 1; one < nested->tables + NV_NESTED_SETS; one++)
		if (one->machine && one->machine->parent == parent && (!tag || one->root.tag == *tag))
			nv_nested_doubt(nested, one->machine);
}

static int is_as_seen(const struct nv_nested_tables *tables)
{
	uint64_t changed = tables->blind;

	for (const struct nv_nested_seen *one = tables->seen; one < tables->seen + tables->seen_count; one++)
		changed |= *one->at ^ one->entry;
	return !changed;
}

void nv_nested_confirm(struct nv_nested *nested, const struct nv_machine *machine)
{
	struct nv_nested_tables *tables = &nested->tables[machine->tables];

	if (!tables->doubted)
		return;
	nv_nested_follow(nested);
	if (tables->doubted && !is_as_seen(tables))
		nv_nested_drop(nested, machine);
	tables->doubted = 0;
}
