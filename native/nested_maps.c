#include "nested_machines.h"

#include <stddef.h>
#include <string.h>

#define PAGE 4096ull

uint8_t nv_nested_map_byte(struct nv_nested *nested, struct nv_machine *machine, uint64_t address)
{
	struct nv_nested_place place;
	const uint8_t *host = nv_nested_page(nested, machine, address, 0, &place);

	return host ? *host : 0xff;
}

/* Whether the page that was composed last still asks for what its machine's page does now, or for more if that is the same one; words: NULL:
 * every bit is set. */
static int is_same(const struct nv_nested_map_page *page, int kind, const uint64_t *words, uint64_t from)
{
	uint64_t changed = 0;

	if (page->kind != kind || !words)
		return page->kind == kind;
	if (page->open_count > NV_NESTED_MAP_OPEN || page->from != from)
		return !memcmp(page->words, words, PAGE);
	for (const uint16_t *open = page->open; open < page->open + page->open_count; open++)
		changed |= words[*open] ^ page->words[*open];
	return !changed;
}

static void note_open(const struct nv_nested *nested, struct nv_nested_map_page *page, const uint64_t *composed)
{
	page->open_count = nested->svm ? 0 : NV_NESTED_MAP_OPEN + 1;
	for (size_t i = 0; i < PAGE / 8 && page->open_count <= NV_NESTED_MAP_OPEN; i++) {
		if (!~composed[i])
			continue;
		if (page->open_count < NV_NESTED_MAP_OPEN)
			page->open[page->open_count] = i;
		page->open_count++;
	}
}

/* words: NULL: every bit is set. spared: NULL: none is. */
static void add(uint64_t *to, const uint64_t *words, const uint64_t *spared)
{
	for (size_t i = 0; i < PAGE / 8; i++)
		to[i] |= (words ? words[i] : ~0ull) & ~(spared ? spared[i] : 0);
}

/* A hypervisor may change a map at any time, without a word: it is read again at each entry, and composed again when it differs. SVM's only
 * where it lets something pass, which is little: where it asks for an exit that the map does not ask for any more, the exit tells. A
 * hypervisor with two maps for one guest, as KVM has them for one that runs guests itself, would have many such. */
int nv_nested_compose_map(struct nv_nested *nested, struct nv_machine *machine, unsigned int number, uint64_t from,
			  struct nv_nested_place *place)
{
	size_t offset = number * PAGE;
	struct nv_nested_map_page *page = &nested->map_pages[machine->depth][number];
	const struct nv_nested_map_page *below = machine->depth ? &nested->map_pages[machine->depth - 1][number] : NULL;
	uint64_t version = below ? below->version : nested->own_maps;
	uint8_t *to = nested->maps + machine->depth * NV_NESTED_MAPS + offset;
	int is_ports = offset < NV_NESTED_PORTS;
	const uint8_t *own = is_ports ? nested->own_ports + offset : nested->own_msrs + offset - NV_NESTED_PORTS;
	const uint8_t *spared = is_ports || !nested->spared[machine->depth] ? NULL : nested->spared[machine->depth] + offset - NV_NESTED_PORTS;
	const uint64_t *words = from < NV_NESTED_MAP_NONE ? (const uint64_t *)nv_nested_page(nested, machine, from, 0, place) : NULL;
	int kind = words ? NV_NESTED_MAP_READ : from == NV_NESTED_MAP_NONE ? NV_NESTED_MAP_EMPTY : NV_NESTED_MAP_FULL;
	int refused = from < NV_NESTED_MAP_NONE && !words && (place->refuses || place->withheld);

	if (page->below == version && is_same(page, kind, words, from))
		return refused;
	memcpy(to, below ? to - NV_NESTED_MAPS : own, PAGE);
	if (kind != NV_NESTED_MAP_EMPTY)
		add((uint64_t *)to, words, (const uint64_t *)spared);
	if (words)
		memcpy(page->words, words, PAGE);
	page->kind = kind;
	page->from = from;
	page->below = version;
	page->version = ++nested->map_versions;
	note_open(nested, page, (const uint64_t *)to);
	return refused;
}

int nv_nested_map_changed(struct nv_nested *nested, struct nv_machine *machine, unsigned int offset, uint64_t from)
{
	struct nv_nested_map_page *page = &nested->map_pages[machine->depth][offset / PAGE];
	struct nv_nested_place place;
	const uint64_t *words = NULL;

	if (page->kind == NV_NESTED_MAP_READ)
		words = (const uint64_t *)nv_nested_page(nested, machine, from, 0, &place);
	if (!words || words[offset % PAGE / 8] == page->words[offset % PAGE / 8])
		return 0;
	page->below = 0;
	return 1;
}
