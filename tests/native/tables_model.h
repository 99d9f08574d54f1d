/* What nested_level.h's level may find through the tables that L0 makes of a chain of machines' own, held against three things: what the
 * processor remembers of them, what the machine below finds, and what a walk through the machines' tables gives now. */
#ifndef TABLES_MODEL_H
#define TABLES_MODEL_H

#include "nested_level.h"

#define MODEL_POOL 64u                      /* pages of the largest pool: machine 0's */
#define MODEL_DEPTH 3                       /* of machines whose tables are walked: each takes five times what the one below does */
#define MODEL_ADDRESS 0x000ffffffffff000ull

/* A set of tables, by its number; 0 is machine 0's. */
struct model_set {
	uint64_t root;                      /* page number, of what is remembered */
	uint32_t used;                      /* pages of it; 0: nothing is */
	uint64_t *pool;
	uint32_t revision;                  /* of the tables, at the last look */
	uint32_t rebuilt;                   /* likewise */
	uint32_t below;                     /* `rebuilt` of the tables of the machine below, when these were empty last; ~0: not known */
	const struct nv_machine *machine;
	uint64_t mode;                      /* how the machine's guest tables are read, at that time */
	uint32_t tag;                       /* at the last look */
	uint64_t flushed;                   /* the look at which nothing of before could be left */
};

/* What a vendor's tables are. */
struct model_format {
	uint64_t present;                   /* bits of an entry of which one that counts has one */
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
static uint64_t model_changed[PAGES];       /* the look before which the page had changed last */
static int model_looks_at_now;              /* walks do not ask whether tables have changed */
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
		uint64_t *pool = model_sets[i].pool ? model_sets[i].pool : zeroed(MODEL_POOL * PAGE);

		model_sets[i] = (struct model_set){.pool = pool, .flushed = model_looks};
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

static inline void model_visit_table(const struct model_format *format, const struct nv_shadow *tables, uint64_t table, int depth,
				     uint64_t base, model_visitor *visit, void *context)
{
	for (uint64_t i = 0; i < 512; i++) {
		uint64_t entry = tables->pool[table * 512 + i], address = base + (i << (12 + 9 * (depth - 1)));
		struct nv_shadow_leaf leaf;

		if (!(entry & format->present))
			continue;
		if (depth > 1 && !(entry & 0x80)) {
			model_visit_table(format, tables, ((entry & MODEL_ADDRESS) - tables->physical) / PAGE, depth - 1, address, visit, context);
			continue;
		}
		CHECK(nv_shadow_look(tables, address, &leaf));
		visit(context, address, &leaf);
	}
}

static inline void model_visit(const struct model_format *format, const struct nv_shadow *tables, model_visitor *visit, void *context)
{
	model_visit_table(format, tables, tables->root, 4, 0, visit, context);
}

static inline void model_is_still_there(void *context, uint64_t address, const struct nv_shadow_leaf *leaf)
{
	struct nv_shadow_leaf now;

	model_remembered++;
	CHECK(nv_shadow_look(context, address, &now));
	CHECK(now.to == leaf->to && !(leaf->rights & ~now.rights));
}

/* The processor may remember all that the tables have had under their root, until KVM starts afresh. */
static inline void model_check_remembered(const struct model_format *format)
{
	struct model_set *set = &model_sets[nested.active->tables];
	struct nv_shadow *tables = model_tables(nested.active->tables), old = *tables;

	if (set->used && set->root == tables->root) {
		old.pool = set->pool;
		model_visit(format, &old, model_is_still_there, tables);
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
	const struct model_format *format;
	const struct nv_shadow *below;
};

static inline void model_is_below(void *context, uint64_t address, const struct nv_shadow_leaf *leaf)
{
	const struct model_pair *pair = context;
	struct model_image image = {leaf, 0};

	(void)address;
	model_below++;
	model_visit(pair->format, pair->below, model_covers, &image);
	CHECK(image.found);
}

/* A machine's guest finds nothing that the machine itself does not: what was taken from that was taken from all above it. */
static inline void model_check_below(const struct model_format *format)
{
	for (const struct nv_machine *machine = nested.active; machine->depth; machine = machine->parent) {
		const struct nv_shadow *below = model_tables(machine->parent->tables);
		struct model_pair pair = {format, below};

		/* tables that did not fit their pool were dropped, but what they said was not taken back */
		if (model_sets[machine->tables].below == below->rebuilt)
			model_visit(format, model_tables(machine->tables), model_is_below, &pair);
	}
}

/* What changed since the last look: at each entry, or a change and its return between two looks would show only in what L0 made of it. */
static inline void model_note(const struct model_format *format)
{
	model_looks++;
	for (uint64_t page = 0; page < PAGES; page++) {
		const uint64_t *now = (uint64_t *)(level + page * PAGE);
		uint64_t *before = (uint64_t *)(model_memory + page * PAGE);

		if (!memcmp(now, before, PAGE))
			continue;
		for (int i = 0; i < 512; i++)
			if ((now[i] ^ before[i]) & ~format->changing)
				model_changed[page] = model_looks;
		memcpy(before, now, PAGE);
	}
	for (unsigned int i = 1; i < NV_NESTED_SETS; i++) {
		const struct nv_machine *machine = nested.tables[i].machine;
		struct model_set *set = &model_sets[i];

		if (!machine)
			continue;
		/* under another tag the processor knows nothing of what it does */
		if (set->tag != nested.tables[i].root.tag)
			set->flushed = model_looks;
		set->tag = nested.tables[i].root.tag;
		if (set->machine == machine && set->revision == nested.tables[i].shadow.revision)
			continue;
		set->machine = machine;
		set->revision = nested.tables[i].shadow.revision;
		set->below = model_tables(machine->parent->tables)->rebuilt;
		if (set->below != model_sets[machine->parent->tables].rebuilt)
			set->below = ~0u;
		set->mode = format->mode(machine->parent);
		set->flushed = model_looks;
	}
	for (unsigned int i = 0; i < NV_NESTED_SETS; i++)
		model_sets[i].rebuilt = model_tables(i)->rebuilt;
}

/* A machine has made the processor forget what it knows of its guests, whether L0 has or not; tag: of these alone, ~0: of all. */
static inline void model_flush(const struct nv_machine *by, uint64_t tag)
{
	for (unsigned int i = 1; i < NV_NESTED_SETS; i++) {
		const struct nv_machine *machine = nested.tables[i].machine;

		while (machine && machine->parent != by)
			machine = machine->parent;
		if (machine && machine->tables && (tag == ~0ull || nested.tables[machine->tables].root.tag == tag))
			model_sets[i].flushed = model_looks + 1;
	}
}

static inline int model_translate(const struct model_format *format, const struct nv_machine *machine, uint64_t address, uint64_t *to,
				  uint32_t *rights);

/* An entry in the machine's memory that has been the same since these tables were made of it. */
static inline int model_read(const struct model_format *format, const struct nv_machine *machine, const struct model_set *made, uint64_t at,
			     uint64_t *entry)
{
	uint32_t rights = ALL_RIGHTS;
	uint64_t physical;
	int result = model_translate(format, machine, at, &physical, &rights);

	if (result)
		return result;
	if (physical >= PAGES * PAGE || (!model_looks_at_now && model_changed[physical / PAGE] >= made->flushed))
		return MODEL_UNKNOWN;
	*entry = *(uint64_t *)(level + physical);
	return MODEL_FOUND;
}

/* Where the machine's address leads to in machine 0's memory, and what of `rights` it has there. */
static inline int model_translate(const struct model_format *format, const struct nv_machine *machine, uint64_t address, uint64_t *to,
				  uint32_t *rights)
{
	const struct nv_machine *parent = machine->parent;
	uint64_t table;

	*to = address;
	if (!parent)
		return MODEL_FOUND;
	table = format->root(parent);
	if (table == NV_NESTED_UNPAGED)
		return model_translate(format, parent, address, to, rights);
	if (!machine->tables || !format->mode(parent) || format->mode(parent) != model_sets[machine->tables].mode)
		return MODEL_UNKNOWN;
	/* likewise: what they were made of said something else, perhaps, before it was dropped for want of room */
	if (!model_looks_at_now && parent->depth && model_sets[machine->tables].below != model_tables(parent->tables)->rebuilt)
		return MODEL_UNKNOWN;
	for (int depth = 4;; depth--) {
		int shift = 12 + 9 * (depth - 1), result;
		uint64_t entry;

		result = model_read(format, parent, &model_sets[machine->tables], (table & MODEL_ADDRESS) + 8 * (address >> shift & 511), &entry);
		if (result)
			return result;
		if (!format->is_valid(parent, entry, depth))
			return MODEL_NOTHING;
		*rights &= format->rights(entry);
		table = entry & MODEL_ADDRESS;
		if (format->is_leaf(entry, depth)) {
			uint64_t offset = (1ull << shift) - 1;

			return model_translate(format, parent, (table & ~offset) | (address & offset), to, rights);
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
	int result = model_translate(of->format, of->machine, address, &to, &rights);

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
			model_visit(format, model_tables(machine->tables), model_is_walked, &of);
	}
}

/* At an entry. Visits of all tables are not for each one, for they take long. */
static inline void model_check(const struct model_format *format)
{
	model_note(format);
	if (model_looks % 2)
		return;
	model_check_remembered(format);
	if (model_looks % 4)
		return;
	model_check_below(format);
	model_check_walked(format);
}

/* Otherwise the levels did too little. */
static inline void model_end(uint64_t blocks)
{
	CHECK(model_remembered > 10 * blocks && model_below > blocks && model_walked > blocks);
}

#endif
