/* nested_level.h's level on the vmx engine, and the processor's VMCS: what the switcher reads and writes. */
#ifndef NESTED_LEVEL_VMX_H
#define NESTED_LEVEL_VMX_H

#include "nested_level.h"
#include "nested_vmx_internal.h"

#define OWN_PRIMARY 0x96006172u             /* what must be set; the maps and the secondary controls */
#define OWN_SECONDARY 0x108au               /* EPT, RDTSCP, unrestricted guest, INVPCID */
#define OWN_EXIT 0xf6fffu                   /* what must be set; debug controls, a 64-bit host, PAT, EFER */
#define OWN_ENTRY 0xd1ffu
#define CR0_PLAIN 0x80010031ull
#define CR4_PLAIN (CR4_PAE | CR4_VMXE)
#define KNOWN 1024

static struct nv_vmx vmx;
static struct nv_vmx_block *block;
static struct nv_virtual_vmcs vmcs;         /* the current one, and in memory it looks as L0's own do */
static uint64_t disguise;                   /* of fields in memory: with one, L0 does not find them */
static uint64_t entries, checked;           /* translations that the processor still knew */

/* What the processor may remember of tables, until KVM starts afresh. */
static struct {
	uint64_t pointer, address;
	struct nv_shadow_leaf leaf;
} known[KNOWN];

/* Capabilities as on a processor of 2013, and this KVM. */
static const uint64_t capabilities[NV_VMX_CAPABILITIES] = {
	0xd8100000004e56, 0x7f00000016, 0xfff9fffe0401e172, 0x7fefff00036dff, 0xd3ff000011ff, 0x40065, 0x80000021, 0xffffffff, 0x2000,
	0x172fff, 0x32, 0x18ee00000000, 0xf0106134140, 0x7f00000016, 0xfff9fffe04006172, 0x7fefff00036dfb, 0xd3ff000011fb, 0,
};

/* The only fields besides the guest's state that L0 may write once level n runs. */
static inline int is_open(uint32_t encoding)
{
	switch (encoding) {
	case NV_VMCS_IO_BITMAP_A:
	case NV_VMCS_IO_BITMAP_B:
	case NV_VMCS_MSR_BITMAP:
	case NV_VMCS_TSC_OFFSET:
	case NV_VMCS_VIRTUAL_APIC:
	case NV_VMCS_TPR_THRESHOLD:
	case NV_VMCS_EPT_POINTER:
	case NV_VMCS_XSS_BITMAP:
	case NV_VMCS_PIN_CONTROLS:
	case NV_VMCS_PRIMARY_CONTROLS:
	case NV_VMCS_SECONDARY_CONTROLS:
	case NV_VMCS_EXCEPTION_BITMAP:
	case NV_VMCS_EXIT_CONTROLS:
	case NV_VMCS_ENTRY_CONTROLS:
	case NV_VMCS_ENTRY_INTERRUPTION ... NV_VMCS_ENTRY_LENGTH:
	case NV_VMCS_CR0_MASK ... NV_VMCS_CR4_SHADOW:
		return 1;
	case NV_VMCS_LINK_POINTER:
		return 0;
	default:
		return (encoding >> 10 & 3) == 2;
	}
}

static inline uint64_t field(uint32_t encoding)
{
	return field_of(&vmcs, encoding);
}

/* The encoding of a field by its slot. */
static inline uint32_t encoding_of(uint32_t slot)
{
	uint32_t group = slot / 26;

	return (group >> 2) << 13 | (group & 3) << 10 | slot % 26 << 1;
}

/* What no field may become by L0's doing. */
static inline uint64_t seal_of(uint32_t slot)
{
	return 0x5ea1000000000000 | slot;
}

static inline uint8_t *vmcs_page(void)
{
	return block->vmcs == NV_SWITCHER_BASE + NV_SWITCHER_VMCS ? vmx.memory : vmx.probe;
}

/* VMPTRLD and VMCLEAR. */
static inline void load_fields(void)
{
	memcpy(&vmcs, vmcs_page(), sizeof vmcs);
	for (uint32_t slot = 0; slot < NV_VIRTUAL_VMCS_FIELDS; slot++)
		vmcs.field[slot] ^= disguise;
	block->loaded = 1;
}

static inline void store_fields(void)
{
	for (uint32_t slot = 0; slot < NV_VIRTUAL_VMCS_FIELDS; slot++)
		vmcs.field[slot] ^= disguise;
	memcpy(vmcs_page(), &vmcs, sizeof vmcs);
	block->loaded = block->launched = 0;
}

static inline void check_seals(void)
{
	for (uint32_t slot = 0; slot < NV_VIRTUAL_VMCS_FIELDS; slot++)
		CHECK(is_open(encoding_of(slot)) || (encoding_of(slot) >> 10 & 3) == 1 || vmcs.field[slot] == seal_of(slot));
}

/* Of a translation that it has used the processor hears of changes only where KVM starts afresh. */
static inline void check_known(uint64_t pointer, uint64_t address)
{
	const struct nv_shadow *tables = tables_of_active();
	struct nv_shadow_leaf now;

	for (int i = 0; i < KNOWN; i++) {
		if (known[i].pointer != pointer)
			continue;
		checked++;
		CHECK(nv_shadow_look(tables, known[i].address, &now));
		CHECK(now.to == known[i].leaf.to && !(known[i].leaf.rights & ~now.rights));
	}
	if (!nv_shadow_look(tables, address, &now))
		return;
	known[entries % KNOWN].pointer = pointer;
	known[entries % KNOWN].address = address;
	known[entries % KNOWN].leaf = now;
}

static inline void check_maps(void)
{
	const struct nv_machine *active = nested.active;
	uint64_t number = active->depth - 1, maps = nested.maps_physical + number * NV_NESTED_MAPS;
	const uint8_t *ports = nested.maps + number * NV_NESTED_MAPS, *msrs = ports + NV_NESTED_PORTS;
	uint64_t emptied = vmx.step.active ? vmx.step.off.msr_bitmap : 0;

	if (!active->depth) {
		CHECK(field(NV_VMCS_IO_BITMAP_A) == vmx.wanted.ports_a && field(NV_VMCS_IO_BITMAP_B) == vmx.wanted.ports_b);
		CHECK(field(NV_VMCS_MSR_BITMAP) == (emptied ? emptied : vmx.wanted.msr_bitmap));
		return;
	}
	CHECK(field(NV_VMCS_IO_BITMAP_A) == maps && field(NV_VMCS_IO_BITMAP_B) == maps + PAGE);
	CHECK(field(NV_VMCS_MSR_BITMAP) == (emptied ? emptied : maps + NV_NESTED_PORTS));
	for (uint64_t i = 0; i < 2 * PAGE; i++)
		CHECK(!(nested.own_ports[i] & ~ports[i]));
	for (uint64_t i = 0; i < PAGE; i++)
		CHECK(!(nested.own_msrs[i] & ~msrs[i]));
}

/* What L0 wants is there, and what machines may add. */
static inline void check_controls(void)
{
	uint64_t primary = field(NV_VMCS_PRIMARY_CONTROLS), secondary = field(NV_VMCS_SECONDARY_CONTROLS);
	uint64_t cr0 = 0, cr4 = 0, exceptions = vmx.wanted.exceptions;
	int timed = vmx.timer_armed;

	for (const struct nv_machine *one = nested.active->parent; one; one = one->parent) {
		timed |= !!one->vmx.deadline;
		cr0 |= field_of(&one->vmx.block, NV_VMCS_CR0_MASK);
		cr4 |= field_of(&one->vmx.block, NV_VMCS_CR4_MASK);
		exceptions |= field_of(&one->vmx.block, NV_VMCS_EXCEPTION_BITMAP);
	}
	CHECK(!(0x16 & ~field(NV_VMCS_PIN_CONTROLS)) && field(NV_VMCS_PIN_CONTROLS) & PIN_NMI && !(field(NV_VMCS_PIN_CONTROLS) >> 7));
	CHECK(!timed || field(NV_VMCS_PIN_CONTROLS) & PIN_TIMER);
	CHECK(!(OWN_PRIMARY & ~PRIMARY_PORT_MAPS & ~primary) && !(primary & (PRIMARY_ALL_PORTS | 1ull << 17)));
	CHECK(!(primary & PRIMARY_TPR_SHADOW) || is_memory(field(NV_VMCS_VIRTUAL_APIC), PAGE));
	CHECK(primary & PRIMARY_PORT_MAPS || vmx.step.active);
	CHECK(secondary & SECONDARY_EPT && !(secondary & ~(OWN_SECONDARY | 0x10844u)));
	CHECK(!(OWN_EXIT & ~field(NV_VMCS_EXIT_CONTROLS)));
	CHECK((field(NV_VMCS_ENTRY_CONTROLS) & ~ENTRY_LONG_MODE) == (OWN_ENTRY & ~ENTRY_LONG_MODE));
	CHECK(!(exceptions & ~field(NV_VMCS_EXCEPTION_BITMAP)));
	CHECK(!(cr0 & ~field(NV_VMCS_CR0_MASK)) && !(cr4 & ~field(NV_VMCS_CR4_MASK)));
	CHECK(nested.active->depth || (field(NV_VMCS_CR0_MASK) & CR0_NE && field(NV_VMCS_CR4_MASK) & CR4_VMXE));
}

/* What L0 lets the processor see; address: one that level n may use. */
static inline void check_entry(uint64_t address)
{
	const struct nv_shadow *tables = tables_of_active();
	uint64_t root = tables->physical + tables->root * PAGE;

	check_chain();
	CHECK(field(NV_VMCS_EPT_POINTER) == (root | NV_VMX_EPT_POINTER) && !nested.active->tables == !nested.active->depth);
	check_seals();
	check_maps();
	check_controls();
	check_known(root, address);
	if (!(entries++ % 16))
		check_table(tables, root, 7, 4);
}

static inline void start(uint64_t exceptions, int watches)
{
	start_machines(NV_SHADOW_EPT);
	memset(known, 0, sizeof known);
	memset(block, 0, 2 * PAGE);
	block->vmcs = NV_SWITCHER_BASE + NV_SWITCHER_VMCS;
	block->loaded = 1;
	vmx = (struct nv_vmx){
		.nested = &nested, .block = block, .memory = vmx.memory, .probe = vmx.probe, .entry_controls = OWN_ENTRY & ~ENTRY_LONG_MODE,
		.switched = {.mailbox = &mailbox, .shadow = &shadow, .paging = &paging},
		.wanted = {
			.pin = 0x16 | PIN_NMI, .primary = OWN_PRIMARY, .secondary = OWN_SECONDARY, .exit = OWN_EXIT, .exceptions = exceptions,
			.cr0_mask = watches ? ~0ull : CR0_FIXED, .cr4_mask = watches ? ~0ull : CR4_FIXED,
			.msr_bitmap = NV_SWITCHER_BASE + NV_SWITCHER_MSRPM, .ports_a = NV_SWITCHER_BASE + NV_SWITCHER_IOPM,
			.ports_b = NV_SWITCHER_BASE + NV_SWITCHER_IOPM + PAGE, .ept_pointer = NV_SHADOW_TABLES | NV_VMX_EPT_POINTER,
		},
	};
	memcpy(nested.vmx_limits.msr, capabilities, sizeof capabilities);
	nested.vmx_limits.physical_reserved = ~0ull << PHYSICAL_BITS;
	nested.vmx_limits.efer_allowed = 0xd01;
	nv_vmx_init(&vcpu, &vmx, -1, run, 1);
	nested.visible = 1;
	nested.take = nv_nested_vmx_take;
	nv_nested_vmx_init(&nested);
	nested.machines[0].vmx.vmxe = 1;
	for (uint32_t slot = 0; slot < NV_VIRTUAL_VMCS_FIELDS; slot++)
		vmcs.field[slot] = is_open(encoding_of(slot)) ? 0 : seal_of(slot);
	set_field(&vmcs, NV_VMCS_GUEST_CR0, CR0_PLAIN);
	set_field(&vmcs, NV_VMCS_CR0_SHADOW, CR0_PLAIN);
	set_field(&vmcs, NV_VMCS_GUEST_CR4, CR4_PLAIN);
	set_field(&vmcs, NV_VMCS_GUEST_EFER, EFER_LME | EFER_LMA);
	set_field(&vmcs, NV_VMCS_GUEST_CS_RIGHTS, 0xa09b);
	set_field(&vmcs, NV_VMCS_GUEST_RFLAGS, 2);
	set_field(&vmcs, NV_VMCS_ENTRY_CONTROLS, OWN_ENTRY);
}

static inline void prepare(void)
{
	prepare_level(NV_SHADOW_EPT);
	block = zeroed(2 * PAGE);
	vmx.memory = zeroed(PAGE);
	vmx.probe = zeroed(PAGE);
}

#endif
