/* Nested page tables for the guest's guests: for as many of the guest's roots as it has run lately, filled on fault. What an entry says
 * but for bit 7 of a large page, which both vendors have there, is the vendor's. */
#ifndef NEST_TABLES_H
#define NEST_TABLES_H

#include <stdbool.h>
#include <stdint.h>

#define NEST_ROOTS 8
#define NEST_LARGE_PAGE (2ull << 20)

/* Where one of the guest's own tables leads: its physical address, and the bits of our entry. */
struct nest_leaf {
	uint64_t to, rights;
	bool large;
};

/* From here on those of this root and tag; empty if they are new, or `renew`. Their number, below NEST_ROOTS. */
unsigned int nest_tables_use(uint64_t root, uint32_t tag, bool renew);

/* Physical address of their root; the root that the guest gave. */
uint64_t nest_tables_root(void);
uint64_t nest_tables_asked(void);

/* False: it leads to what is not the guest's memory. */
bool nest_tables_place(uint64_t address, const struct nest_leaf *leaf);

/* Of all roots. */
void nest_tables_forget(void);

/* The vendor's: the processor forgets what it knows of the tables in use. */
void nest_flush(void);

#endif
