/* nested_level_vmx.h's level, one VMX instruction and one exit after the other, on a VMCS that is in memory: nothing is entered. Linear addresses are
 * physical ones, but from ELSEWHERE on, where a table of its own leads to OPERANDS. */
#ifndef VMX_STEPS_H
#define VMX_STEPS_H

#include <stdarg.h>
#include <sys/ioctl.h>

#include "entry_rows.h"

enum { VMXON_PAGE = 8, VMCS_PAGE, OPERANDS, LISTS, MEMORY_TABLES = 16, EPT_TABLES = 24 };
enum { PLACED_AT = 16, REGISTER_TYPE = 3 };

#define ELSEWHERE 0x200000ull
#define TABLE_ELSEWHERE ((MEMORY_TABLES + 4) * PAGE)
#define MEMORY_OPERAND (2u << 7 | 3u << 15 | 1u << 22 | 1u << 27 | (uint32_t)REGISTER_TYPE << 28) /* 64 bits, DS, no base, no index */
#define FAULT_OF(vector) (0x100 + (vector))
#define UNDEFINED 0x200
#define ELSEWHERE_NOW 0x300                /* another machine runs */

static uint64_t fault_address;              /* of the last page fault: CR2 */
static uint64_t msr_value;                  /* of any MSR of KVM's */

static inline struct nv_virtual_vmcs *processor(void)
{
	return (struct nv_virtual_vmcs *)vmx.memory;
}

static inline struct nv_virtual_vmcs *region(uint64_t page)
{
	return (struct nv_virtual_vmcs *)(level + page * PAGE);
}

static inline uint64_t *table(uint64_t page)
{
	return (uint64_t *)(level + page * PAGE);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list words;
	void *argument;

	(void)fd;
	va_start(words, request);
	argument = va_arg(words, void *);
	va_end(words);
	if (request == KVM_GET_SREGS)
		memset(argument, 0, sizeof(struct kvm_sregs));
	else if (request == KVM_GET_MSRS)
		((struct kvm_msrs *)argument)->entries[0].data = msr_value;
	else if (request == KVM_SET_SREGS)
		fault_address = ((struct kvm_sregs *)argument)->cr2;
	return request == KVM_GET_MSRS || request == KVM_SET_MSRS;
}

static inline void write_tables(uint64_t first, uint64_t flags, uint64_t leaf)
{
	memset(table(first), 0, 5 * PAGE);
	table(first)[0] = (first + 1) * PAGE | flags;
	table(first + 1)[0] = (first + 2) * PAGE | flags;
	table(first + 2)[0] = (first + 3) * PAGE | flags;
	table(first + 2)[1] = (first + 4) * PAGE | flags;
	for (uint64_t i = 0; i < 512; i++)
		table(first + 3)[i] = i * PAGE | leaf;
	table(first + 4)[0] = OPERANDS * PAGE | leaf;
	table(first + 4)[1] = OPERANDS * PAGE | leaf;
}

/* The table of a tower in which no level claims anything. */
static const struct nv_claim no_claims[1];
static const uint16_t no_ports[NV_PORTS];
static const struct nv_table nobody = {.claims = no_claims, .ports = {no_ports, no_ports}};

/* The level is in 64-bit code at CPL 0 and may enter VMX operation; nothing has run. */
static inline void begin_steps(void)
{
	static const uint32_t rights[] = {DATA, CODE_64, DATA, DATA, DATA, DATA};

	start(0, 0);
	memset(level, 0, PAGES * PAGE);
	write_tables(MEMORY_TABLES, 3, 3);
	write_tables(EPT_TABLES, 7, 0x37);
	vmx.probed = vmx.placed = 1;
	for (uint32_t slot = 0; slot < NV_VIRTUAL_VMCS_FIELDS; slot++)
		vmx.places[slot] = PLACED_AT + 8 * slot;
	block->loaded = 0;
	set_field(&vmcs, NV_VMCS_GUEST_CR3, MEMORY_TABLES * PAGE);
	for (int i = 0; i < 6; i++) {
		set_field(&vmcs, NV_VMCS_GUEST_ES_RIGHTS + 2 * i, rights[i]);
		set_field(&vmcs, NV_VMCS_GUEST_ES_LIMIT + 2 * i, 0xffffffff);
		set_field(&vmcs, NV_VMCS_GUEST_ES_BASE + 2 * i, 0);
	}
	memcpy(vmx.memory, &vmcs, sizeof vmcs);
	mailbox.regs[NV_REG_RFLAGS] = 2;
	nested.machines[0].vmx.feature_control = 5;
	vcpu.table = &nobody;
}

/* A VMX instruction, its operand at this linear address: CF and ZF, which an exit clears; or one of the above. */
static inline int instruct(uint32_t basic, uint64_t operand)
{
	struct nv_event event = {.raw = basic, .advance = 3, .reason = NV_REASON_VMX_INSTRUCTION};
	const struct nv_machine *before = nested.active;

	block->reason = basic;
	block->exit[GOT_QUALIFICATION].value = operand;
	block->exit[GOT_INSTRUCTION].value = MEMORY_OPERAND;
	block->exit[GOT_CS_RIGHTS].value = field_of(processor(), NV_VMCS_GUEST_CS_RIGHTS);
	block->exit[GOT_SS_RIGHTS].value = field_of(processor(), NV_VMCS_GUEST_SS_RIGHTS);
	block->exit[GOT_VECTORING].value = 0;
	vmx.injection = 0;
	mailbox.regs[NV_REG_RFLAGS] |= 0x41;
	if (nv_nested_vmx_serve(&vmx, 0, &event) == NV_DECLINED)
		return UNDEFINED;
	CHECK(!nested.failed && (event.retry || (nested.active == before && !vmx.injection)));
	if (nested.active != before)
		return ELSEWHERE_NOW;
	return vmx.injection ? FAULT_OF(EVENT_VECTOR(vmx.injection)) : (int)(mailbox.regs[NV_REG_RFLAGS] & 0x41);
}

/* With an address as its operand. */
static inline int point(uint32_t basic, uint64_t to)
{
	table(OPERANDS)[0] = to;
	return instruct(basic, OPERANDS * PAGE);
}

/* In VMX operation, with the VMCS of this page, which breaks no rule: the guest is in the same page tables. */
static inline void begin_hypervisor(uint64_t vmxon, uint64_t page)
{
	region(vmxon)->revision = region(page)->revision = NV_VIRTUAL_VMCS_REVISION;
	CHECK(point(BASIC_VMXON, vmxon * PAGE) == 0 && point(BASIC_VMCLEAR, page * PAGE) == 0);
	make_sound(region(page));
	region(page)->revision = NV_VIRTUAL_VMCS_REVISION;
	set_field(region(page), NV_VMCS_GUEST_CR3, MEMORY_TABLES * PAGE);
	set_field(region(page), NV_VMCS_HOST_CR3, MEMORY_TABLES * PAGE);
	CHECK(point(BASIC_VMPTRLD, page * PAGE) == 0);
}

/* Of machine 0's, and its guest runs; ept: by tables that lead everywhere, in pages of 4 KiB. */
static inline void begin_guest(int ept)
{
	begin_hypervisor(VMXON_PAGE, VMCS_PAGE);
	if (ept) {
		set_field(region(VMCS_PAGE), NV_VMCS_PRIMARY_CONTROLS, MORE);
		set_field(region(VMCS_PAGE), NV_VMCS_SECONDARY_CONTROLS, SECONDARY_EPT);
		set_field(region(VMCS_PAGE), NV_VMCS_EPT_POINTER, EPT_TABLES * PAGE | NV_VMX_EPT_POINTER);
	}
	CHECK(instruct(BASIC_VMLAUNCH, 0) == ELSEWHERE_NOW && nested.active->depth == 1);
	nested.active->vmx.feature_control = 5;
}

/* The active machine stops for what its hypervisor hears of. */
static inline void stop_for(uint32_t basic)
{
	block->reason = basic;
	block->exit[GOT_LENGTH].value = 3;
	CHECK(nv_nested_vmx_hand_to(&nested, nested.active->parent, 1) == 1);
}

static inline uint64_t told(uint32_t encoding)
{
	return field_of(region(VMCS_PAGE), encoding);
}

#endif
