/* A VMCS that breaks no rule of VM entry, and rows of one field each: with one value the entry is taken, with the other it is refused, and so as the
 * row says. Nothing but that field differs, so nothing but the rule can be the reason. Intel SDM vol. 3, 27.2 and 27.3. */
#ifndef ENTRY_ROWS_H
#define ENTRY_ROWS_H

#include "nested_level_vmx.h"

#define BEYOND (1ull << PHYSICAL_BITS)
#define UNCANONICAL (1ull << 47)
#define CURRENT PAGE                        /* the VMCS that the entry is of */
#define ANOTHER (2 * PAGE)
#define NO_REGION (3 * PAGE)                /* a page without a revision */

#define PIN 0x16u
#define PRIMARY 0x04006172u
#define EXIT (0x36dfbu | EXIT_HOST_64)
#define ENTRY (0x11fbu | ENTRY_LONG_MODE)
#define MORE (PRIMARY | PRIMARY_SECONDARY)
#define CR4_HERE (CR4_PAE | CR4_VMXE)
#define CR4_PCIDE (1ull << 17)
#define CODE_64 0xa09bu
#define CODE_32 0xc09bu
#define DATA 0xc093u
#define USER_CODE (CODE_64 | 0x60)
#define USER_DATA (DATA | 0x60)

struct change {
	uint32_t field;
	uint64_t value;
};

struct row {
	const char *name;
	uint32_t field;
	uint64_t good, bad;
	struct change with[10];             /* of both; ends at one that is all zero */
};

/* Contexts. */
#define SECONDARY(bits) {NV_VMCS_PRIMARY_CONTROLS, MORE}, {NV_VMCS_SECONDARY_CONTROLS, bits}
#define UNRESTRICTED SECONDARY(SECONDARY_EPT | SECONDARY_UNRESTRICTED)
#define GUEST_32 {NV_VMCS_ENTRY_CONTROLS, ENTRY & ~ENTRY_LONG_MODE}, {NV_VMCS_GUEST_CS_RIGHTS, CODE_32}
#define HOST_32 GUEST_32, {NV_VMCS_EXIT_CONTROLS, EXIT & ~EXIT_HOST_64}
#define REAL_MODE UNRESTRICTED, GUEST_32, {NV_VMCS_GUEST_CR0, 0x30}
#define TAKES_INTERRUPTS {NV_VMCS_GUEST_RFLAGS, 2 | RFLAGS_IF}
#define EVENT(kind, vector) (EVENT_VALID | (uint64_t)(kind) << EVENT_KIND | (vector))

static inline void make_sound(struct nv_virtual_vmcs *to)
{
	static const struct change fields[] = {
		{NV_VMCS_PIN_CONTROLS, PIN}, {NV_VMCS_PRIMARY_CONTROLS, PRIMARY}, {NV_VMCS_EXIT_CONTROLS, EXIT}, {NV_VMCS_ENTRY_CONTROLS, ENTRY},
		{NV_VMCS_LINK_POINTER, ~0ull}, {NV_VMCS_EPT_POINTER, 0x5000 | NV_VMX_EPT_POINTER},
		{NV_VMCS_GUEST_CR0, CR0_PLAIN}, {NV_VMCS_GUEST_CR4, CR4_HERE}, {NV_VMCS_GUEST_DR7, 0x400},
		{NV_VMCS_HOST_CR0, CR0_PLAIN}, {NV_VMCS_HOST_CR4, CR4_HERE}, {NV_VMCS_GUEST_RFLAGS, 2},
		{NV_VMCS_GUEST_EFER, EFER_LME | EFER_LMA}, {NV_VMCS_HOST_EFER, EFER_LME | EFER_LMA},
		{NV_VMCS_GUEST_GDTR_LIMIT, 0xffff}, {NV_VMCS_GUEST_IDTR_LIMIT, 0xffff},
	};
	static const uint32_t rights[] = {DATA, CODE_64, DATA, DATA, DATA, DATA, 0x10000, 0x8b};

	memset(to, 0, sizeof *to);
	for (int i = 0; i < 8; i++) {
		set_field(to, NV_VMCS_GUEST_ES + 2 * i, i == 6 || i == 7 ? 0 : i == 1 ? 0x10 : 0x18);
		set_field(to, NV_VMCS_GUEST_ES_RIGHTS + 2 * i, rights[i]);
		set_field(to, NV_VMCS_GUEST_ES_LIMIT + 2 * i, i == 7 ? 0xffff : 0xffffffff);
		if (i < 7)
			set_field(to, NV_VMCS_HOST_ES + 2 * i, i == 1 ? 0x10 : i == 6 ? 0x28 : 0x18);
	}
	for (unsigned int i = 0; i < sizeof fields / sizeof fields[0]; i++)
		set_field(to, fields[i].field, fields[i].value);
}

/* What comes of the entry: a VM-instruction error; 0: it is taken; or BASIC_GUEST_STATE, with the exit qualification. */
static inline int enter(const struct nv_virtual_vmcs *of, uint64_t *qualification)
{
	int result = nv_nested_vmx_check_block(&nested, of, !!(field_of(of, NV_VMCS_EXIT_CONTROLS) & EXIT_HOST_64));

	*qualification = 0;
	if (result)
		return result;
	return nv_nested_vmx_check_guest(&nested, of, qualification) ? BASIC_GUEST_STATE : 0;
}

static inline void make_row(struct nv_virtual_vmcs *to, const struct row *row, uint64_t value)
{
	make_sound(to);
	for (const struct change *one = row->with; one->field || one->value; one++)
		set_field(to, one->field, one->value);
	set_field(to, row->field, value);
}

static inline void check_rows(const struct row *rows, size_t count, int error, uint64_t qualification)
{
	struct nv_virtual_vmcs one;
	uint64_t told;

	for (const struct row *row = rows; row < rows + count; row++) {
		int good, bad;

		make_row(&one, row, row->good);
		good = enter(&one, &told);
		make_row(&one, row, row->bad);
		bad = enter(&one, &told);
		if (good || bad != error || told != qualification) {
			fprintf(stderr, "%s: %d and %d with %#lx\n", row->name, good, bad, told);
			abort();
		}
	}
}

#define CHECK_ROWS(rows, error, qualification) check_rows(rows, sizeof(rows) / sizeof(rows)[0], error, qualification)

static inline void start_rows(void)
{
	limit_time(20);
	prepare();
	start(0, 0);
	nested.machines[0].vmx.current = CURRENT;
	((struct nv_virtual_vmcs *)(level + CURRENT))->revision = NV_VIRTUAL_VMCS_REVISION;
	((struct nv_virtual_vmcs *)(level + ANOTHER))->revision = NV_VIRTUAL_VMCS_REVISION;
	((struct nv_virtual_vmcs *)(level + ANOTHER))->launched = NV_VIRTUAL_VMCS_REVISION; /* a revision that is not at a page's beginning */
}

#endif
