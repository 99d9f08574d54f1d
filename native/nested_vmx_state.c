#include "nested_vmx_internal.h"

#include <string.h>

#define PAT 0x277
#define DR7_OFF 0x400
#define FLAT_LIMIT 0xffffffff
#define TASK_LIMIT 0x67
#define TABLE_LIMIT 0xffff
#define CODE_RIGHTS 0x809b   /* present, 4 KiB granular, accessed code that can be read */
#define DATA_RIGHTS 0xc093
#define TASK_RIGHTS 0x8b
#define UNUSABLE_RIGHTS 0x10000

enum { ES, CS, SS, DS, FS, GS, LDTR, TR };

/* The guest's state but for RIP, RSP and RFLAGS, and those registers that controls say of whether they move; then what an exit tells of
 * itself (25.4, 25.9). */
static const uint16_t guest_fields[] = {
	NV_VMCS_GUEST_GDTR_BASE, NV_VMCS_GUEST_GDTR_LIMIT, NV_VMCS_GUEST_IDTR_BASE, NV_VMCS_GUEST_IDTR_LIMIT,
	NV_VMCS_GUEST_CR0, NV_VMCS_GUEST_CR3, NV_VMCS_GUEST_CR4,
	NV_VMCS_GUEST_SYSENTER_CS, NV_VMCS_GUEST_SYSENTER_ESP, NV_VMCS_GUEST_SYSENTER_EIP,
	NV_VMCS_GUEST_INTERRUPTIBILITY, NV_VMCS_GUEST_ACTIVITY, NV_VMCS_GUEST_PENDING_DEBUG,
	NV_VMCS_GUEST_PDPTE0, NV_VMCS_GUEST_PDPTE0 + 2, NV_VMCS_GUEST_PDPTE0 + 4, NV_VMCS_GUEST_PDPTE0 + 6,
};

static const uint16_t moved_fields[] = {NV_VMCS_GUEST_DR7, NV_VMCS_GUEST_DEBUGCTL, NV_VMCS_GUEST_EFER};
enum { AT_DR7, AT_DEBUGCTL, AT_EFER };

static const uint16_t told_fields[] = {
	NV_VMCS_EXIT_QUALIFICATION, NV_VMCS_GUEST_LINEAR_ADDRESS, NV_VMCS_EXIT_INSTRUCTION, NV_VMCS_GUEST_PHYSICAL_ADDRESS,
};

#define SEGMENT_FIELDS 32
#define GUEST_FIELDS (sizeof guest_fields / sizeof guest_fields[0])
#define MOVED_FIELDS (sizeof moved_fields / sizeof moved_fields[0])
#define TOLD_FIELDS (sizeof told_fields / sizeof told_fields[0])
#define STATE_FIELDS (SEGMENT_FIELDS + GUEST_FIELDS + MOVED_FIELDS)

_Static_assert(STATE_FIELDS <= NV_VMX_READS, "one exchange");

static uint32_t segment_field(int i)
{
	static const uint16_t first[] = {NV_VMCS_GUEST_ES, NV_VMCS_GUEST_ES_BASE, NV_VMCS_GUEST_ES_LIMIT, NV_VMCS_GUEST_ES_RIGHTS};

	return first[i % 4] + 2 * (i / 4);
}

static void save_moved(struct nv_nested *nested, struct nv_virtual_vmcs *block, const struct nv_vmx_field *moved)
{
	uint64_t exits = field_of(block, NV_VMCS_EXIT_CONTROLS), entry = field_of(block, NV_VMCS_ENTRY_CONTROLS), pat;

	if (exits & EXIT_SAVES_DEBUG) {
		set_field(block, NV_VMCS_GUEST_DR7, moved[AT_DR7].value);
		set_field(block, NV_VMCS_GUEST_DEBUGCTL, moved[AT_DEBUGCTL].value);
	}
	if (exits & EXIT_SAVES_EFER)
		set_field(block, NV_VMCS_GUEST_EFER, moved[AT_EFER].value);
	if (exits & EXIT_SAVES_PAT && !nv_nested_vmx_get_msr(nested, PAT, &pat))
		set_field(block, NV_VMCS_GUEST_PAT, pat);
	entry = (entry & ~ENTRY_LONG_MODE) | (moved[AT_EFER].value & EFER_LMA ? ENTRY_LONG_MODE : 0);
	set_field(block, NV_VMCS_ENTRY_CONTROLS, entry);
}

int nv_nested_vmx_save_guest(struct nv_nested *nested, struct nv_virtual_vmcs *block, int told, uint64_t *efer)
{
	struct nv_vmx *vmx = nested->vmx;
	struct nv_vmx_field fields[STATE_FIELDS], *plain = fields + SEGMENT_FIELDS, *moved = plain + GUEST_FIELDS, said[TOLD_FIELDS];
	int result;

	for (unsigned int i = 0; i < TOLD_FIELDS; i++)
		said[i].encoding = told_fields[i];
	for (int i = 0; i < SEGMENT_FIELDS; i++)
		fields[i].encoding = segment_field(i);
	for (unsigned int i = 0; i < GUEST_FIELDS; i++)
		plain[i].encoding = guest_fields[i];
	for (unsigned int i = 0; i < MOVED_FIELDS; i++)
		moved[i].encoding = moved_fields[i];
	result = nv_vmx_store(nested->vcpu, said, told ? TOLD_FIELDS : 0);
	if (!result)
		result = nv_vmx_exchange(nested->vcpu, fields, STATE_FIELDS);
	if (result)
		return result;
	for (int i = 0; i < SEGMENT_FIELDS + (int)GUEST_FIELDS; i++)
		set_field(block, fields[i].encoding, fields[i].value);
	set_field(block, NV_VMCS_GUEST_INTERRUPTIBILITY, vmx->interruptibility);
	set_field(block, NV_VMCS_GUEST_RIP, *register_of(vmx, NV_REG_RIP));
	set_field(block, NV_VMCS_GUEST_RSP, *register_of(vmx, NV_REG_RSP));
	set_field(block, NV_VMCS_GUEST_RFLAGS, *register_of(vmx, NV_REG_RFLAGS));
	save_moved(nested, block, moved);
	for (unsigned int i = 0; told && i < TOLD_FIELDS; i++)
		set_field(block, said[i].encoding, said[i].value);
	*efer = moved[AT_EFER].value;
	return 0;
}

static void put_mode(struct nv_vmx *vmx, uint64_t efer)
{
	nv_vmx_put(vmx, NV_VMCS_GUEST_EFER, efer);
	nv_vmx_put(vmx, NV_VMCS_ENTRY_CONTROLS, vmx->entry_controls | (efer & EFER_LMA ? ENTRY_LONG_MODE : 0));
}

static void put_interruptibility(struct nv_vmx *vmx, uint64_t value)
{
	vmx->interruptibility = value;
	nv_vmx_put(vmx, NV_VMCS_GUEST_INTERRUPTIBILITY, value);
}

/* Without the control the mode alone changes (27.3.2.1). */
static uint64_t guest_efer(const struct nv_virtual_vmcs *block, uint64_t now)
{
	uint64_t entry = field_of(block, NV_VMCS_ENTRY_CONTROLS);

	if (entry & ENTRY_LOADS_EFER)
		return field_of(block, NV_VMCS_GUEST_EFER);
	now &= ~EFER_LMA;
	if (field_of(block, NV_VMCS_GUEST_CR0) & CR0_PG)
		now &= ~EFER_LME;
	return entry & ENTRY_LONG_MODE ? now | EFER_LMA | EFER_LME : now;
}

void nv_nested_vmx_load_guest(struct nv_nested *nested, const struct nv_machine *parent, uint64_t efer, const uint64_t *real)
{
	const struct nv_virtual_vmcs *block = &parent->vmx.block;
	struct nv_vmx *vmx = nested->vmx;

	for (int i = 0; i < SEGMENT_FIELDS; i++)
		nv_vmx_put(vmx, segment_field(i), field_of(block, segment_field(i)));
	for (unsigned int i = 0; i < GUEST_FIELDS; i++)
		nv_vmx_put(vmx, guest_fields[i], field_of(block, guest_fields[i]));
	nv_nested_vmx_load_cr(nested, parent, field_of(block, NV_VMCS_GUEST_CR0), field_of(block, NV_VMCS_GUEST_CR4), real);
	put_interruptibility(vmx, field_of(block, NV_VMCS_GUEST_INTERRUPTIBILITY));
	*register_of(vmx, NV_REG_RIP) = field_of(block, NV_VMCS_GUEST_RIP);
	*register_of(vmx, NV_REG_RSP) = field_of(block, NV_VMCS_GUEST_RSP);
	*register_of(vmx, NV_REG_RFLAGS) = field_of(block, NV_VMCS_GUEST_RFLAGS);
	if (field_of(block, NV_VMCS_ENTRY_CONTROLS) & ENTRY_LOADS_DEBUG) {
		nv_vmx_put(vmx, NV_VMCS_GUEST_DR7, field_of(block, NV_VMCS_GUEST_DR7));
		nv_vmx_put(vmx, NV_VMCS_GUEST_DEBUGCTL, field_of(block, NV_VMCS_GUEST_DEBUGCTL));
	}
	if (field_of(block, NV_VMCS_ENTRY_CONTROLS) & ENTRY_LOADS_PAT)
		nv_nested_vmx_set_msr(nested, PAT, field_of(block, NV_VMCS_GUEST_PAT));
	put_mode(vmx, guest_efer(block, efer));
}

static void put_segment(struct nv_vmx *vmx, int segment, uint64_t selector, uint64_t base, uint64_t limit, uint64_t rights)
{
	nv_vmx_put(vmx, NV_VMCS_GUEST_ES + 2 * segment, selector);
	nv_vmx_put(vmx, NV_VMCS_GUEST_ES_BASE + 2 * segment, base);
	nv_vmx_put(vmx, NV_VMCS_GUEST_ES_LIMIT + 2 * segment, limit);
	nv_vmx_put(vmx, NV_VMCS_GUEST_ES_RIGHTS + 2 * segment, rights);
}

/* 28.5.2 */
static void load_host_segments(struct nv_vmx *vmx, const struct nv_virtual_vmcs *block, int wide)
{
	for (int i = ES; i <= GS; i++) {
		uint64_t selector = field_of(block, NV_VMCS_HOST_ES + 2 * i), base = 0;

		if (i == FS || i == GS)
			base = field_of(block, NV_VMCS_HOST_FS_BASE + 2 * (i - FS));
		if (i == CS)
			put_segment(vmx, i, selector, 0, FLAT_LIMIT, CODE_RIGHTS | (wide ? CS_LONG : CS_BIG));
		else
			put_segment(vmx, i, selector, base, FLAT_LIMIT, selector ? DATA_RIGHTS : UNUSABLE_RIGHTS | DATA_RIGHTS);
	}
	put_segment(vmx, LDTR, 0, 0, FLAT_LIMIT, UNUSABLE_RIGHTS);
	put_segment(vmx, TR, field_of(block, NV_VMCS_HOST_TR), field_of(block, NV_VMCS_HOST_TR_BASE), TASK_LIMIT, TASK_RIGHTS);
	nv_vmx_put(vmx, NV_VMCS_GUEST_GDTR_BASE, field_of(block, NV_VMCS_HOST_GDTR_BASE));
	nv_vmx_put(vmx, NV_VMCS_GUEST_IDTR_BASE, field_of(block, NV_VMCS_HOST_IDTR_BASE));
	nv_vmx_put(vmx, NV_VMCS_GUEST_GDTR_LIMIT, TABLE_LIMIT);
	nv_vmx_put(vmx, NV_VMCS_GUEST_IDTR_LIMIT, TABLE_LIMIT);
}

/* 28.5.4 */
static int load_host_pointers(struct nv_nested *nested, struct nv_machine *to)
{
	uint64_t table = nv_nested_vmx_host_table(&to->vmx.block), pointers[NV_VMX_POINTERS];

	if (table == NO_TABLE)
		return 0;
	nv_nested_vmx_read_pointers(nested, to, table, pointers);
	if (nv_nested_vmx_bad_pointers(&nested->vmx_limits, pointers))
		return ABORT_POINTERS;
	for (int i = 0; i < NV_VMX_POINTERS; i++)
		nv_vmx_put(nested->vmx, NV_VMCS_GUEST_PDPTE0 + 2 * i, pointers[i]);
	return 0;
}

/* 28.5 */
int nv_nested_vmx_load_host(struct nv_nested *nested, struct nv_machine *to, uint64_t efer, int nmi_masked, const uint64_t *real)
{
	const struct nv_virtual_vmcs *block = &to->vmx.block;
	struct nv_vmx *vmx = nested->vmx;
	uint64_t exits = field_of(block, NV_VMCS_EXIT_CONTROLS);
	int wide = !!(exits & EXIT_HOST_64);

	load_host_segments(vmx, block, wide);
	nv_nested_vmx_load_cr(nested, to, field_of(block, NV_VMCS_HOST_CR0), field_of(block, NV_VMCS_HOST_CR4) | (wide ? CR4_PAE : 0), real);
	nv_vmx_put(vmx, NV_VMCS_GUEST_CR3, field_of(block, NV_VMCS_HOST_CR3));
	nv_vmx_put(vmx, NV_VMCS_GUEST_DR7, DR7_OFF);
	nv_vmx_put(vmx, NV_VMCS_GUEST_DEBUGCTL, 0);
	nv_vmx_put(vmx, NV_VMCS_GUEST_SYSENTER_CS, field_of(block, NV_VMCS_HOST_SYSENTER_CS));
	nv_vmx_put(vmx, NV_VMCS_GUEST_SYSENTER_ESP, field_of(block, NV_VMCS_HOST_SYSENTER_ESP));
	nv_vmx_put(vmx, NV_VMCS_GUEST_SYSENTER_EIP, field_of(block, NV_VMCS_HOST_SYSENTER_EIP));
	nv_vmx_put(vmx, NV_VMCS_GUEST_ACTIVITY, 0);
	nv_vmx_put(vmx, NV_VMCS_GUEST_PENDING_DEBUG, 0);
	put_interruptibility(vmx, nmi_masked ? NMI_MASKED : 0);
	if (exits & EXIT_LOADS_PAT)
		nv_nested_vmx_set_msr(nested, PAT, field_of(block, NV_VMCS_HOST_PAT));
	if (exits & EXIT_LOADS_EFER)
		efer = field_of(block, NV_VMCS_HOST_EFER);
	else
		efer = (efer & ~(EFER_LMA | EFER_LME)) | (wide ? EFER_LMA | EFER_LME : 0);
	put_mode(vmx, efer);
	*register_of(vmx, NV_REG_RFLAGS) = 2;
	*register_of(vmx, NV_REG_RIP) = field_of(block, NV_VMCS_HOST_RIP);
	*register_of(vmx, NV_REG_RSP) = field_of(block, NV_VMCS_HOST_RSP);
	return load_host_pointers(nested, to);
}
