/* The chain of machines and their memory, whichever virtualization they have: what the files of the front-ends share. */
#ifndef NV_NESTED_MACHINES_H
#define NV_NESTED_MACHINES_H

#include "nested.h"
#include "registers.h"

/* Whether the claim is for the machine of this depth. */
static inline int nv_nested_covers(const struct nv_nested_claim *claim, unsigned int depth)
{
	return depth == claim->depth || (claim->beyond && depth > claim->depth);
}

/* Whether the machine's SVM or VMX is what its parent makes of it: L0 gives it what a processor gives a guest. */
static inline int nests_by_itself(const struct nv_nested *nested, const struct nv_machine *machine)
{
	return nested->nesting && nested->levels[machine->depth] > nested->nesting;
}

/* nested_memory.c: where machine's physical address leads to, through all tables below. */
struct nv_nested_place {
	struct nv_shadow_leaf leaf;
	struct nv_machine *refuses;  /* of NV_NESTED_REFUSED: whose tables do */
	uint64_t address;            /* in its guest's memory; or of NV_NESTED_VIOLATION, in that of the machine at depth `space` */
	uint64_t error;              /* SVM: as EXITINFO1's lower half; VMX: as an EPT violation's exit qualification */
	uint8_t malformed;           /* VMX: the tables are misconfigured */
	uint8_t withheld;            /* of NV_NESTED_VIOLATION: Python levels do not give it, for this access (NV_RIGHT_*) */
	uint8_t space, access;
};

enum { NV_NESTED_MAPPED, NV_NESTED_REFUSED, NV_NESTED_VIOLATION, NV_NESTED_HOLE };

/* What the nested page tables of a machine's guest are: SVM's or VMX's. root: at NV_NESTED_UNPAGED there are none. walk: through them, to the
 * machine's own memory; gives one of the above, with the path, or with `place` unless NV_NESTED_MAPPED. flush: what an entry makes the processor
 * forget of the parent's guests; NULL: nothing. */
#define NV_NESTED_UNPAGED (~0ull)

struct nv_nested_ops {
	struct nv_nested_root (*root)(const struct nv_machine *machine);
	int (*walk)(struct nv_nested *nested, struct nv_machine *machine, uint64_t address, uint32_t access, uint64_t *to,
		    struct nv_shadow_leaf *leaf, struct nv_nested_place *place);
	void (*flush)(struct nv_nested *nested, const struct nv_machine *parent);
};

int nv_nested_place(struct nv_nested *nested, struct nv_machine *machine, uint64_t address, uint32_t access, struct nv_nested_place *place);

/* Whether the active machine's address leads to no memory, but not to a fault that a machine or level hears of. */
int nv_nested_nothing(struct nv_nested *nested, uint64_t address);

/* nested_given.c: through what Python levels give the machine, to the addresses of the image below; leaf: with what rights, and in pages
 * how large. Gives NV_NESTED_MAPPED; NV_NESTED_HOLE: there is a window, which `leaf` leads to; or NV_NESTED_VIOLATION. withheld: fills in
 * `place` for the last. */
int nv_nested_given(struct nv_nested *nested, const struct nv_machine *machine, uint64_t address, uint32_t access, uint64_t *to,
		    struct nv_shadow_leaf *leaf, struct nv_nested_place *place);
int nv_nested_withheld(struct nv_nested_place *place, uint8_t space, uint64_t address, uint32_t access);

/* Something is due: see struct nv_nested. owe_fault: that Python levels withhold what the place says. */
static inline int nv_nested_is_due(const struct nv_nested *nested)
{
	return nested->due.to || nested->due.withheld;
}

void nv_nested_owe_fault(struct nv_nested *nested, const struct nv_nested_place *place);

/* A page of its physical memory that this process can read, and the machine's code access (NV_PAGING_*); NULL: there is none, and place says
 * why: a machine refuses it, Python levels withhold it, or nothing is there. */
uint8_t *nv_nested_page(struct nv_nested *nested, struct nv_machine *machine, uint64_t address, int access, struct nv_nested_place *place);

/* nested_maps.c: a byte of a permissions map in its memory. Where it has no memory, every bit is set. */
uint8_t nv_nested_map_byte(struct nv_nested *nested, struct nv_machine *machine, uint64_t address);

/* Page `number` of the maps that the machine's guest runs under: what its block asks for by a page of its memory goes on top of what the
 * machines below it do. from: that page's address; NONE: it asks for nothing; ALL: for everything. Gives 1, with `place`, when
 * a machine below, or a Python level, does not give it the page. */
#define NV_NESTED_MAP_NONE (~1ull)
#define NV_NESTED_MAP_ALL (~0ull)

int nv_nested_compose_map(struct nv_nested *nested, struct nv_machine *machine, unsigned int number, uint64_t from,
			  struct nv_nested_place *place);

/* Whether eight bytes of that page are others now, at this offset in the maps: then the page is composed anew next time. */
int nv_nested_map_changed(struct nv_nested *nested, struct nv_machine *machine, unsigned int offset, uint64_t from);

/* Empties the tables of a machine and of those that run on it; of all, when machine 0's have changed. release: it needs none any more. */
void nv_nested_drop(struct nv_nested *nested, const struct nv_machine *machine);
void nv_nested_follow(struct nv_nested *nested);
void nv_nested_release(struct nv_nested *nested, struct nv_machine *machine);

/* nested_seen.c: what the walk through the parent's tables read is what the machine's are made of. doubt: the parent makes the processor forget
 * what it knows of the machine, and with it of those that run on it; or of all its guests, tag: of those with this one. confirm: before the
 * machine runs. */
void nv_nested_see(struct nv_nested_tables *tables, const struct nv_nested_path *path);
void nv_nested_doubt(struct nv_nested *nested, const struct nv_machine *machine);
void nv_nested_doubt_guests(struct nv_nested *nested, const struct nv_machine *parent, const uint32_t *tag);
void nv_nested_confirm(struct nv_nested *nested, const struct nv_machine *machine);

/* A walk reads an entry; NULL: of no memory of the machine's. */
static inline void nv_nested_step(struct nv_nested_path *path, const void *at)
{
	if (!at || path->count == NV_NESTED_WALK_LEVELS)
		path->blind = 1;
	else
		path->entries[path->count++] = (const uint64_t *)((uintptr_t)at & ~7ull);
}

/* Whether the one runs on the other, or is it. */
static inline int nv_nested_runs_on(const struct nv_machine *machine, const struct nv_machine *below)
{
	while (machine && machine != below)
		machine = machine->parent;
	return !!machine;
}

/* The tables that a machine needs, made to fit its parent's block. enters: the parent's own entry does it, and may flush. */
void nv_nested_use_tables(struct nv_nested *nested, struct nv_machine *machine, int enters);

/* The walk through the tables of code is the active machine's. */
void nv_nested_init_paging(struct nv_nested *nested);

/* nested_claims.c: of the claims on an event of the active machine's code those of machines, from the highest on, as long as no Python level's
 * comes first. claim: that of the last one, 0 to begin. NULL: there is none any more. */
const struct nv_nested_claim *nv_nested_next_claim(const struct nv_nested *nested, const struct nv_event *event, uint16_t *claim);

/* Whether a Python level below the active machine's code, and above level `above`, claims its debug events of this vector. */
int nv_nested_debugged(const struct nv_nested *nested, uint8_t vector, uint8_t above);

/* L0's own step, which is no exit. */
static inline int nv_nested_is_step(const struct nv_event *event)
{
	return event->reason == NV_REASON_DEBUG && event->qualifier == DB;
}

/* Whether Python levels have what comes to the machine from below, of NV_WINDOW_INTERRUPT or NV_WINDOW_NMI; machine 0's are the engine's to ask. */
static inline int nv_nested_claimed(const struct nv_nested *nested, const struct nv_machine *machine, uint8_t kind)
{
	return machine->depth && nested->pending[machine->depth].claimed & kind;
}

/* Memory that L0's process has lost is told of by machine 0's address: what that is above, the machines' tables say, if they say one. */
static inline void nv_nested_lose_address(const struct nv_nested *nested, struct nv_event *event)
{
	if (event->reason == NV_REASON_MEMORY_FAULT && nested->active->depth)
		event->qualifier = ~0ull;
}

/* nested_machines.c: the machine of the parent's block at this address, made if need be; find: NULL: there is none. restart: its hypervisor has begun anew with it, as with
 * another one or after a reset. pass: 1 when the event is of an interrupt or NMI that Python levels above an image were told of, which the machine
 * takes, or of a timer of theirs. */
int nv_nested_pass(struct nv_nested *nested, const struct nv_event *event);
struct nv_machine *nv_nested_find_guest(struct nv_nested *nested, const struct nv_machine *parent, uint64_t address);
struct nv_machine *nv_nested_take_guest(struct nv_nested *nested, struct nv_machine *parent, uint64_t address);
void nv_nested_restart(struct nv_machine *machine);

/* An access to an MSR of a feature that L0 emulates. Where no block can ask for it apart from others, L0 does not switch to whom exposes it. */
int nv_nested_is_feature(const struct nv_nested *nested, const struct nv_event *event);

#endif
