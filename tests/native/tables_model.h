/* What nested_level.h's level may find through the tables that L0 makes of a chain of machines' own, held against three things: what the
 * processor remembers of them, what the machine below finds, and what a walk through the machines' tables gives now. */
#ifndef TABLES_MODEL_H
#define TABLES_MODEL_H

#include "nested_level.h"

#define MODEL_POOL 64u                      /* pages of the largest pool: machine 0's */
#define MODEL_DEPTH 3                       /* of machines whose tables are walked: each takes five times what the one below does */
#define MODEL_ADDRESS 0x000ffffffffff000ull

/* When what tables have was made, at the earliest. */
struct model_time {
	uint64_t flushed;                   /* the look at which nothing of before could be left */
	uint64_t mode;                      /* how the guest tables of the machine below were read, then */
};

/* What tables had when there was no more room for it: that is not taken back from those which were made of it. */
struct model_dropped {
	uint32_t when;                      /* their `rebuilt`, before */
	struct nv_shadow_leaf leaf;
};

/* A set of tables, by its number; 0 is machine 0's. */
struct model_set {
	uint64_t root;                      /* page number, of what is remembered */
	uint32_t used;                      /* pages of it; 0: nothing is */
	uint64_t *pool;
	const struct nv_machine *machine;
	uint32_t revision;                  /* of the tables, at the last look */
	uint32_t rebuilt, tag;              /* likewise */
	uint32_t below;                     /* the least `rebuilt` of the tables of the machine below that these are made of */
	struct model_time made[NV_NESTED_DEPTH]; /* and by depth, these and those below, down to machine 1's */
	struct model_dropped *dropped;
	uint64_t dropped_count, dropped_room;
};

/* What a vendor's tables are. */
struct model_format {
	uint64_t changing;                  /* bits that L0 sets without changing what an entry leads to */
	uint64_t (*root)(const struct nv_machine *machine); /* of its guest's tables; NV_NESTED_UNPAGED: there are none */
	uint64_t (*mode)(const struct nv_machine *machine); /* 0: the model cannot read them */
	int (*is_valid)(const struct nv_machine *machine, uint64_t entry, int depth);
	int (*is_leaf)(uint64_t entry, int depth);
	uint32_t (*rights)(uint64_t entry); /* NV_RIGHT_* */
};

enum { MODEL_FOUND, MODEL_NOTHING, MODEL_UNKNOWN };

static struct model_set model_sets[NV_NESTED_SETS];
static uint8_t *model_memory;               /* the level's, at the last look */
static uint64_t model_changed[PAGES * 512]; /* by entry, the look before which it had changed last */
static uint64_t model_looks, model_remembered, model_below, model_walked;

static inline struct nv_shadow *model_tables(unsigned int number)
{
	return number ? &nested.tables[number].shadow : &shadow;
}

static inline void model_start(void)
{
	if (!model_memory)
		model_memory = zeroed(PAGES * PAGE);
	for (unsigned int i = 0; i < NV_NESTED_SETS; i++) {
		struct model_set old = model_sets[i];

		model_sets[i] = (struct model_set){.pool = old.pool ? old.pool : zeroed(MODEL_POOL * PAGE),
						   .dropped = old.dropped, .dropped_room = old.dropped_room};
	}
}

/* KVM starts afresh. */
static inline void model_forget(void)
{
	for (unsigned int i = 0; i < NV_NESTED_SETS; i++)
		model_sets[i].used = 0;
}

/* Does something with each leaf of tables: with the address that it is for. */
typedef void model_visitor(void *context, uint64_t address, const struct nv_shadow_leaf *leaf);

static inline void model_visit_table(const struct nv_shadow *tables, uint64_t table, int depth, uint64_t base, model_visitor *visit, void *context)
{
	uint64_t present = tables->format == NV_SHADOW_EPT ? ALL_RIGHTS : 1;

	for (uint64_t i = 0; i < 512; i++) {
		uint64_t entry = tables->pool[table * 512 + i], address = base + (i << (12 + 9 * (depth - 1)));
		struct nv_shadow_leaf leaf;

		if (!(entry & present))
			continue;
		if (depth > 1 && !(entry & 0x80)) {
			model_visit_table(tables, ((entry & MODEL_ADDRESS) - tables->physical) / PAGE, depth - 1, address, visit, context);
			continue;
		}
		CHECK(nv_shadow_look(tables, address, &leaf));
		visit(context, address, &leaf);
	}
}

static inline void model_visit(const struct nv_shadow *tables, model_visitor *visit, void *context)
{
	model_visit_table(tables, tables->root, 4, 0, visit, context);
}

static inline void model_is_still_there(void *context, uint64_t address, const struct nv_shadow_leaf *leaf)
{
	struct nv_shadow_leaf now;

	model_remembered++;
	CHECK(nv_shadow_look(context, address, &now));
	CHECK(now.to == leaf->to && !(leaf->rights & ~now.rights));
}

/* The processor may remember all that the tables have had under their root, until KVM starts afresh. */
static inline void model_check_remembered(void)
{
	struct model_set *set = &model_sets[nested.active->tables];
	struct nv_shadow *tables = model_tables(nested.active->tables), old = *tables;

	if (set->used && set->root == tables->root) {
		old.pool = set->pool;
		model_visit(&old, model_is_still_there, tables);
	}
	memcpy(set->pool, tables->pool, tables->used * PAGE);
	set->root = tables->root;
	set->used = tables->used;
}

struct model_image {
	const struct nv_shadow_leaf *leaf;
	int found;
};

static inline void model_covers(void *context, uint64_t address, const struct nv_shadow_leaf *leaf)
{
	struct model_image *image = context;
	uint64_t size = PAGE << 9 * (leaf->level - 1);

	(void)address;
	if (image->leaf->to - leaf->to < size && !(image->leaf->rights & ~leaf->rights))
		image->found = 1;
}

struct model_pair {
	const struct model_set *above, *below;
};

static inline void model_is_below(void *context, uint64_t address, const struct nv_shadow_leaf *leaf)
{
	const struct model_pair *pair = context;
	const struct model_set *below = pair->below;
	struct model_image image = {leaf, 0};

	model_below++;
	model_visit(model_tables(below - model_sets), model_covers, &image);
	for (uint64_t i = 0; !image.found && i < below->dropped_count; i++)
		if (below->dropped[i].when >= pair->above->below)
			model_covers(&image, address, &below->dropped[i].leaf);
	CHECK(image.found);
}

/* A machine's guest finds nothing that the machine itself does not: what was taken from that was taken from all above it. */
static inline void model_check_below(void)
{
	for (const struct nv_machine *machine = nested.active; machine->depth; machine = machine->parent) {
		struct model_pair pair = {&model_sets[machine->tables], &model_sets[machine->parent->tables]};

		model_visit(model_tables(machine->tables), model_is_below, &pair);
	}
}

static inline void model_keep(void *context, uint64_t address, const struct nv_shadow_leaf *leaf)
{
	struct model_set *set = context;

	(void)address;
	if (set->dropped_count == set->dropped_room) {
		set->dropped_room = 2 * set->dropped_room + 64;
		set->dropped = realloc(set->dropped, set->dropped_room * sizeof set->dropped[0]);
		CHECK(set->dropped);
	}
	set->dropped[set->dropped_count++] = (struct model_dropped){model_tables(set - model_sets)->rebuilt - 1, *leaf};
}

/* L0's own function, which may find no more room. */
int __real_nv_shadow_place(struct nv_shadow *tables, uint64_t address, const struct nv_shadow_leaf *leaf);
int __wrap_nv_shadow_place(struct nv_shadow *tables, uint64_t address, const struct nv_shadow_leaf *leaf);

int __wrap_nv_shadow_place(struct nv_shadow *tables, uint64_t address, const struct nv_shadow_leaf *leaf)
{
	static uint64_t pool[TABLE_PAGES * 512];
	struct nv_shadow old = *tables;
	int result;

	if (old.used + NV_SHADOW_PAGES_MIN <= old.pages)
		return __real_nv_shadow_place(tables, address, leaf);
	old.pool = pool;
	memcpy(pool, tables->pool, old.used * PAGE);
	result = __real_nv_shadow_place(tables, address, leaf);
	if (tables->rebuilt == old.rebuilt)
		return result;
	for (unsigned int i = 1; i < NV_NESTED_SETS; i++)
		if (&nested.tables[i].shadow == tables)
			model_visit(&old, model_keep, &model_sets[i]);
	return result;
}

/* What sets that were emptied since the last look are made of. Where the machine's own tables ran out of room meanwhile it may be of what those
 * had then, too; where they were emptied for another reason so was all above them, and has nothing of before. */
static inline void model_note_emptied(const struct model_format *format, uint8_t depth, const struct model_set *before)
{
	for (unsigned int i = 1; i < NV_NESTED_SETS; i++) {
		const struct nv_machine *machine = nested.tables[i].machine;
		struct model_set *set = &model_sets[i];
		uint8_t below;

		if (!machine || machine->depth != depth)
			continue;
		if (set->machine == machine && set->revision == nested.tables[i].shadow.revision)
			continue;
		below = machine->parent->tables;
		set->machine = machine;
		set->revision = nested.tables[i].shadow.revision;
		set->below = before[below].rebuilt;
		memcpy(set->made, (set->below == model_tables(below)->rebuilt ? model_sets : before)[below].made, sizeof set->made);
		set->made[depth] = (struct model_time){model_looks, format->mode(machine->parent)};
	}
}

/* Nothing is made of what a set has dropped, any more. */
static inline int model_is_over(const struct model_set *set)
{
	for (unsigned int i = 1; i < NV_NESTED_SETS; i++) {
		const struct nv_machine *machine = nested.tables[i].machine;

		if (machine && &model_sets[machine->parent->tables] == set && model_sets[i].below < set->rebuilt)
			return 0;
	}
	return 1;
}

/* What changed since the last look: at each entry, or a change and its return between two looks would show only in what L0 made of it. And
 * where it is to be known that it did before L0 hears of something. */
static inline void model_note(const struct model_format *format)
{
	struct model_set before[NV_NESTED_SETS];

	memcpy(before, model_sets, sizeof before);
	model_looks++;
	for (uint64_t page = 0; page < PAGES; page++) {
		const uint64_t *now = (uint64_t *)(level + page * PAGE);
		uint64_t *old = (uint64_t *)(model_memory + page * PAGE);

		if (!memcmp(now, old, PAGE))
			continue;
		for (int i = 0; i < 512; i++)
			if ((now[i] ^ old[i]) & ~format->changing)
				model_changed[page * 512 + i] = model_looks;
		memcpy(old, now, PAGE);
	}
	for (uint8_t depth = 1; depth < NV_NESTED_DEPTH; depth++)
		model_note_emptied(format, depth, before);
	for (unsigned int i = 0; i < NV_NESTED_SETS; i++) {
		model_sets[i].rebuilt = model_tables(i)->rebuilt;
		model_sets[i].tag = nested.tables[i].root.tag;
		if (model_sets[i].dropped_count && model_is_over(&model_sets[i]))
			model_sets[i].dropped_count = 0;
	}
}

/* The processor has been made to forget what it knows of a machine, and of those above it, whether L0 has or not. */
static inline void model_flush_machine(const struct nv_machine *flushed)
{
	for (unsigned int i = 1; i < NV_NESTED_SETS; i++) {
		const struct nv_machine *machine = nested.tables[i].machine, *one = machine;

		while (one && one != flushed)
			one = one->parent;
		for (uint8_t depth = flushed->depth; one && depth <= machine->depth; depth++)
			model_sets[i].made[depth].flushed = model_looks + 1;
	}
}

/* By its parent: of those with this tag, ~0: of all. */
static inline void model_flush(const struct nv_machine *by, uint64_t tag)
{
	for (unsigned int i = 1; i < NV_NESTED_SETS; i++) {
		const struct nv_machine *machine = nested.tables[i].machine;

		if (machine && machine->parent == by && (tag == ~0ull || nested.tables[i].root.tag == tag))
			model_flush_machine(machine);
	}
}

/* By another tag than it had. */
static inline void model_flush_tagged(const struct nv_machine *machine, uint32_t tag)
{
	const struct model_set *set = &model_sets[machine->tables];

	if (machine->tables && set->machine == machine && set->tag != tag)
		model_flush_machine(machine);
}

/* A walk for what tables have that were made at these times, by depth; now: for what they would get. */
struct model_walk {
	const struct model_format *format;
	const struct model_time *made;
	int now;
};

static inline int model_translate(const struct model_walk *walk, const struct nv_machine *machine, uint64_t address, uint64_t *to,
				  uint32_t *rights);

/* An entry of the machine's tables for its guest, in its memory. */
static inline int model_read(const struct model_walk *walk, const struct nv_machine *machine, uint64_t at, uint64_t *entry)
{
	uint32_t rights = ALL_RIGHTS;
	uint64_t physical;
	int result = model_translate(walk, machine, at, &physical, &rights);

	if (result)
		return result;
	if (physical >= PAGES * PAGE || (!walk->now && model_changed[physical / 8] >= walk->made[machine->depth + 1].flushed))
		return MODEL_UNKNOWN;
	*entry = *(uint64_t *)(level + physical);
	return MODEL_FOUND;
}

/* Where the machine's address leads to in machine 0's memory, and what of `rights` it has there. */
static inline int model_translate(const struct model_walk *walk, const struct nv_machine *machine, uint64_t address, uint64_t *to,
				  uint32_t *rights)
{
	const struct model_format *format = walk->format;
	const struct nv_machine *parent = machine->parent;
	uint64_t table;

	*to = address;
	if (!parent)
		return MODEL_FOUND;
	table = format->root(parent);
	if (table == NV_NESTED_UNPAGED)
		return model_translate(walk, parent, address, to, rights);
	if (!machine->tables || !format->mode(parent) || format->mode(parent) != walk->made[machine->depth].mode)
		return MODEL_UNKNOWN;
	for (int depth = 4;; depth--) {
		int shift = 12 + 9 * (depth - 1), result;
		uint64_t entry;

		result = model_read(walk, parent, (table & MODEL_ADDRESS) + 8 * (address >> shift & 511), &entry);
		if (result)
			return result;
		if (!format->is_valid(parent, entry, depth))
			return MODEL_NOTHING;
		*rights &= format->rights(entry);
		table = entry & MODEL_ADDRESS;
		if (format->is_leaf(entry, depth)) {
			uint64_t offset = (1ull << shift) - 1;

			return model_translate(walk, parent, (table & ~offset) | (address & offset), to, rights);
		}
	}
}

struct model_machine {
	const struct model_format *format;
	const struct nv_machine *machine;
};

static inline void model_is_walked(void *context, uint64_t address, const struct nv_shadow_leaf *leaf)
{
	const struct model_machine *of = context;
	uint32_t rights = ALL_RIGHTS;
	uint64_t to;
	const struct model_walk walk = {of->format, model_sets[of->machine->tables].made, 0};
	int result = model_translate(&walk, of->machine, address, &to, &rights);

	if (result == MODEL_UNKNOWN)
		return;
	model_walked++;
	CHECK(result == MODEL_FOUND && !(leaf->rights & ~rights));
	if (to < RAM_PHYSICAL)
		CHECK(leaf->to == (to < PAGES * PAGE ? LEVEL_PHYSICAL + to : to));
	else
		CHECK(leaf->to >= NV_SHADOW_WINDOWS);
}

/* Tables that were made of what is still there lead where it does, and allow no more. */
static inline void model_check_walked(const struct model_format *format)
{
	for (const struct nv_machine *machine = nested.active; machine->depth; machine = machine->parent) {
		struct model_machine of = {format, machine};

		if (machine->depth <= MODEL_DEPTH)
			model_visit(model_tables(machine->tables), model_is_walked, &of);
	}
}

/* At an entry. Visits of all tables are not for each one, for they take long. */
static inline void model_check(const struct model_format *format)
{
	static uint64_t count;

	model_note(format);
	if (++count % 2)
		return;
	model_check_remembered();
	if (count % 4)
		return;
	model_check_below();
	model_check_walked(format);
}

/* Otherwise the levels did too little. */
static inline void model_end(uint64_t blocks)
{
	CHECK(model_remembered > 10 * blocks && model_below > blocks && model_walked > blocks);
}

#endif
