#include "nested_vmx_internal.h"

#include <errno.h>
#include <stddef.h>

#define FLAGS 0x8d5ull         /* CF, PF, AF, ZF, SF, OF */
#define FLAG_INVALID 1ull      /* CF */
#define FLAG_VALID 0x40ull     /* ZF */
#define DPL(rights) ((rights) >> 5 & 3)
#define FEATURES_NEEDED 5      /* IA32_FEATURE_CONTROL: locked, VMX outside SMX (24.7) */
#define BLOCKED_BY_MOV_SS 2ull
#define READ_ONLY(encoding) (((encoding) >> 10 & 3) == 1)

/* Instruction information (table 28-14). */
#define IN_REGISTER(information) ((information) >> 10 & 1)
#define REGISTER(information) ((information) >> 3 & 15)
#define REGISTER_2(information) ((information) >> 28 & 15)

enum { INVEPT_ONE = 1, INVEPT_ALL = 2, INVVPID_ADDRESS = 0, INVVPID_ALL = 2, INVVPID_LAST = 3 };

/* What an instruction came to: RIP moves on; it happens again, for a fault or an exit; nobody here has it. FOUND: it goes on. */
enum { DONE, AGAIN, NOBODY, FOUND };

static int wide(const struct nv_vmx *vmx, uint64_t efer)
{
	return efer & EFER_LMA && got(vmx, GOT_CS_RIGHTS) & CS_LONG;
}

static struct nv_virtual_vmcs *region(struct nv_nested *nested, uint64_t address, int write, struct nv_nested_place *place)
{
	return (struct nv_virtual_vmcs *)nv_nested_page(nested, nested->active, address, write, place);
}

/* The current VMCS: FOUND, with NULL where there is none, or no memory. Who is below may have taken that away, and gives it back. */
static int current(struct nv_nested *nested, struct nv_virtual_vmcs **block)
{
	struct nv_nested_place place;

	*block = NULL;
	if (nested->active->vmx.current == NO_VMCS)
		return FOUND;
	*block = region(nested, nested->active->vmx.current, 1, &place);
	if (!*block && (place.refuses || place.withheld))
		return nv_nested_vmx_refused(nested, &place, 0);
	return FOUND;
}

/* 31.2 */
static int succeed(struct nv_nested *nested)
{
	*register_of(nested->vmx, NV_REG_RFLAGS) &= ~FLAGS;
	return DONE;
}

static int fail(struct nv_nested *nested, int error)
{
	uint64_t *rflags = register_of(nested->vmx, NV_REG_RFLAGS);
	struct nv_virtual_vmcs *block = NULL;
	int result = error == FAIL_INVALID ? FOUND : current(nested, &block);

	if (result != FOUND)
		return result;
	*rflags = (*rflags & ~FLAGS) | (block ? FLAG_VALID : FLAG_INVALID);
	if (block)
		set_field(block, NV_VMCS_INSTRUCTION_ERROR, error);
	return DONE;
}

static int raise(struct nv_nested *nested, int vector)
{
	int result = nv_nested_vmx_fault(nested, vector, 0);

	return result < 0 ? result : AGAIN;
}

/* The 64 bits of memory that the operand is. */
static int load_pointer(struct nv_nested *nested, uint64_t *value)
{
	uint64_t at;
	int result = nv_nested_vmx_locate(nested, sizeof *value, 0, &at);

	if (!result)
		result = nv_nested_vmx_load(nested, at, value, sizeof *value);
	return result < 0 ? result : result ? AGAIN : DONE;
}

static int beyond(const struct nv_nested *nested, uint64_t address)
{
	return !!(address & ((PAGE - 1) | nested->vmx_limits.physical_reserved));
}

/* Control registers as the machine sees them. */
static int read_control(struct nv_nested *nested, uint64_t *cr0, uint64_t *cr4, uint64_t *efer)
{
	struct nv_vmx_field fields[] = {{NV_VMCS_GUEST_CR0, 0}, {NV_VMCS_GUEST_CR4, 0}, {NV_VMCS_GUEST_EFER, 0}, {NV_VMCS_CR0_SHADOW, 0}};
	int result = nv_vmx_exchange(nested->vcpu, fields, 4);

	*cr0 = nv_nested_vmx_seen_cr0(nested, fields[0].value, fields[3].value);
	*cr4 = nv_nested_vmx_seen_cr4(nested, fields[1].value);
	*efer = fields[2].value;
	return result;
}

static int vmxon(struct nv_nested *nested)
{
	const uint64_t *caps = nested->vmx_limits.msr;
	struct nv_nested_vmx_machine *own = &nested->active->vmx;
	struct nv_nested_place place;
	const struct nv_virtual_vmcs *at;
	uint64_t cr0, cr4, efer, address;
	int result = read_control(nested, &cr0, &cr4, &efer);

	if (result)
		return result;
	if (!(cr0 & CR0_PE) || !(cr4 & CR4_VMXE) || *register_of(nested->vmx, NV_REG_RFLAGS) & RFLAGS_VM ||
	    (efer & EFER_LMA && !wide(nested->vmx, efer)))
		return NOBODY;
	if (own->on)
		return DPL(got(nested->vmx, GOT_SS_RIGHTS)) ? raise(nested, GP) : fail(nested, FAIL_VMXON_ROOT);
	if (DPL(got(nested->vmx, GOT_SS_RIGHTS)) || (caps[VMX_CR0_FIXED0] & ~cr0) || (cr0 & ~caps[VMX_CR0_FIXED1]) ||
	    (caps[VMX_CR4_FIXED0] & ~cr4) || (cr4 & ~caps[VMX_CR4_FIXED1]) || (own->feature_control & FEATURES_NEEDED) != FEATURES_NEEDED)
		return raise(nested, GP);
	result = load_pointer(nested, &address);
	if (result)
		return result;
	if (beyond(nested, address))
		return fail(nested, FAIL_INVALID);
	at = region(nested, address, 0, &place);
	if (!at && (place.refuses || place.withheld))
		return nv_nested_vmx_refused(nested, &place, 0);
	if (!at || at->revision != NV_VIRTUAL_VMCS_REVISION)
		return fail(nested, FAIL_INVALID);
	own->on = 1;
	own->vmxon = address;
	own->current = NO_VMCS;
	/* the read shadows have what is held from now on */
	nv_nested_vmx_activate(nested, nested->active, cr0, cr4);
	return succeed(nested);
}

/* The VMCS that is VMCLEAR's or VMPTRLD's operand: FOUND, with NULL where no memory is. wrong, of_vmxon: VM-instruction errors of an address
 * that is none's, and of the VMXON region's. */
static int find_vmcs(struct nv_nested *nested, int wrong, int of_vmxon, int write, uint64_t *address, struct nv_virtual_vmcs **at)
{
	struct nv_nested_place place;
	int result = load_pointer(nested, address);

	if (result)
		return result;
	if (beyond(nested, *address))
		return fail(nested, wrong);
	if (*address == nested->active->vmx.vmxon)
		return fail(nested, of_vmxon);
	*at = region(nested, *address, write, &place);
	if (!*at && (place.refuses || place.withheld))
		return nv_nested_vmx_refused(nested, &place, 0);
	return FOUND;
}

static int vmclear(struct nv_nested *nested)
{
	struct nv_nested_vmx_machine *own = &nested->active->vmx;
	struct nv_virtual_vmcs *at;
	uint64_t address;
	int result = find_vmcs(nested, FAIL_VMCLEAR_ADDRESS, FAIL_VMCLEAR_VMXON, 1, &address, &at);

	if (result != FOUND)
		return result;
	if (at)
		at->launched = 0;
	if (own->current == address)
		own->current = NO_VMCS;
	return succeed(nested);
}

static int vmptrld(struct nv_nested *nested)
{
	struct nv_virtual_vmcs *at;
	uint64_t address;
	int result = find_vmcs(nested, FAIL_VMPTRLD_ADDRESS, FAIL_VMPTRLD_VMXON, 0, &address, &at);

	if (result != FOUND)
		return result;
	if (!at || at->revision != NV_VIRTUAL_VMCS_REVISION)
		return fail(nested, FAIL_VMPTRLD_REVISION);
	nested->active->vmx.current = address;
	return succeed(nested);
}

static int vmptrst(struct nv_nested *nested)
{
	uint64_t at;
	int result = nv_nested_vmx_locate(nested, 8, 1, &at);

	if (!result)
		result = nv_nested_vmx_store(nested, at, &nested->active->vmx.current, 8);
	return result < 0 ? result : result ? AGAIN : succeed(nested);
}

/* 8 in 64-bit code, else 4. */
static int operand_size(struct nv_nested *nested)
{
	return got(nested->vmx, GOT_CS_RIGHTS) & CS_LONG ? 8 : 4;
}

static int vmread(struct nv_nested *nested)
{
	struct nv_vmx *vmx = nested->vmx;
	uint64_t information = got(vmx, GOT_INSTRUCTION), encoding = *register_of(vmx, REGISTER_2(information)), value, at;
	struct nv_virtual_vmcs *block;
	int size = operand_size(nested), result = current(nested, &block);

	if (result != FOUND)
		return result;
	if (!block)
		return fail(nested, FAIL_INVALID);
	if (size == 4)
		encoding = (uint32_t)encoding;
	if (nv_virtual_vmcs_slot(encoding) < 0)
		return fail(nested, FAIL_FIELD);
	value = nv_virtual_vmcs_read(block, encoding);
	if (IN_REGISTER(information)) {
		*register_of(vmx, REGISTER(information)) = size == 4 ? (uint32_t)value : value;
		return succeed(nested);
	}
	result = nv_nested_vmx_locate(nested, size, 1, &at);
	if (!result)
		result = nv_nested_vmx_store(nested, at, &value, size);
	return result < 0 ? result : result ? AGAIN : succeed(nested);
}

static int vmwrite(struct nv_nested *nested)
{
	struct nv_vmx *vmx = nested->vmx;
	uint64_t information = got(vmx, GOT_INSTRUCTION), encoding = *register_of(vmx, REGISTER_2(information)), value = 0, at;
	struct nv_virtual_vmcs *block;
	int size = operand_size(nested), result = current(nested, &block);

	if (result != FOUND)
		return result;
	if (!block)
		return fail(nested, FAIL_INVALID);
	if (size == 4)
		encoding = (uint32_t)encoding;
	if (IN_REGISTER(information)) {
		value = *register_of(vmx, REGISTER(information));
	} else {
		result = nv_nested_vmx_locate(nested, size, 0, &at);
		if (!result)
			result = nv_nested_vmx_load(nested, at, &value, size);
		if (result)
			return result < 0 ? result : AGAIN;
	}
	if (nv_virtual_vmcs_slot(encoding) < 0)
		return fail(nested, FAIL_FIELD);
	if (READ_ONLY(encoding))
		return fail(nested, FAIL_READ_ONLY);
	nv_virtual_vmcs_write(block, encoding, size == 4 ? (uint32_t)value : value);
	block->written |= encoding == NV_VMCS_GUEST_CS_BASE ? NV_WRITTEN_CS : encoding == NV_VMCS_GUEST_GDTR_BASE ? NV_WRITTEN_GDTR :
			  encoding == NV_VMCS_GUEST_IDTR_BASE ? NV_WRITTEN_IDTR : 0;
	return succeed(nested);
}

/* VMLAUNCH and VMRESUME. */
static int enter(struct nv_nested *nested, int resume)
{
	struct nv_virtual_vmcs *block;
	int result = current(nested, &block);

	if (result != FOUND)
		return result;
	if (!block)
		return fail(nested, FAIL_INVALID);
	if (nested->vmx->interruptibility & BLOCKED_BY_MOV_SS)
		return fail(nested, FAIL_MOV_SS);
	if (resume != !!block->launched)
		return fail(nested, resume ? FAIL_VMRESUME_CLEAR : FAIL_VMLAUNCH_LAUNCHED);
	result = nv_nested_vmx_enter(nested, block);
	if (nested->too_deep)
		return NOBODY;
	return result < 0 ? result : result ? fail(nested, result) : AGAIN;
}

static int vmxoff(struct nv_nested *nested)
{
	nested->active->vmx.on = 0;
	nested->active->vmx.current = NO_VMCS;
	return succeed(nested);
}

/* INVEPT and INVVPID: the type is in a register, the descriptor in memory, which is looked at for types alone that there are. */
static uint64_t invalidation_type(struct nv_nested *nested)
{
	uint64_t type = *register_of(nested->vmx, REGISTER_2(got(nested->vmx, GOT_INSTRUCTION)));

	return operand_size(nested) == 4 ? (uint32_t)type : type;
}

static int load_descriptor(struct nv_nested *nested, uint64_t descriptor[2])
{
	uint64_t at;
	int result = nv_nested_vmx_locate(nested, 16, 0, &at);

	if (!result)
		result = nv_nested_vmx_load(nested, at, descriptor, 16);
	return result < 0 ? result : result ? AGAIN : FOUND;
}

static int invept(struct nv_nested *nested)
{
	uint64_t type = invalidation_type(nested), descriptor[2];
	int result = type == INVEPT_ONE || type == INVEPT_ALL ? load_descriptor(nested, descriptor) : fail(nested, FAIL_INVALIDATION);

	if (result != FOUND)
		return result;
	if (type == INVEPT_ONE && !nv_nested_vmx_valid_eptp(&nested->vmx_limits, descriptor[0]))
		return fail(nested, FAIL_INVALIDATION);
	nv_nested_doubt_guests(nested, nested->active, NULL);
	return succeed(nested);
}

/* The processor that KVM makes forgets linear addresses at each entry. */
static int invvpid(struct nv_nested *nested)
{
	uint64_t type = invalidation_type(nested), descriptor[2];
	int result = type <= INVVPID_LAST ? load_descriptor(nested, descriptor) : fail(nested, FAIL_INVALIDATION);

	if (result != FOUND)
		return result;
	if (descriptor[0] >> 16 || (type != INVVPID_ALL && !descriptor[0]) ||
	    (type == INVVPID_ADDRESS && !is_canonical(descriptor[1])))
		return fail(nested, FAIL_INVALIDATION);
	return succeed(nested);
}

/* The only one that exits before it is looked at where it is (31.3): the others are undefined there without an exit. */
static int vmcall(struct nv_nested *nested)
{
	struct nv_vmx_field efer = {NV_VMCS_GUEST_EFER, 0};
	int result = nv_vmx_exchange(nested->vcpu, &efer, 1);

	if (result)
		return result;
	if (*register_of(nested->vmx, NV_REG_RFLAGS) & RFLAGS_VM || (efer.value & EFER_LMA && !wide(nested->vmx, efer.value)))
		return NOBODY;
	return DPL(got(nested->vmx, GOT_SS_RIGHTS)) ? raise(nested, GP) : fail(nested, FAIL_VMCALL);
}

static int execute(struct nv_nested *nested, uint32_t basic)
{
	switch (basic) {
	case BASIC_VMCLEAR:
		return vmclear(nested);
	case BASIC_VMLAUNCH:
	case BASIC_VMRESUME:
		return enter(nested, basic == BASIC_VMRESUME);
	case BASIC_VMPTRLD:
		return vmptrld(nested);
	case BASIC_VMPTRST:
		return vmptrst(nested);
	case BASIC_VMREAD:
		return vmread(nested);
	case BASIC_VMWRITE:
		return vmwrite(nested);
	case BASIC_VMXOFF:
		return vmxoff(nested);
	case BASIC_INVEPT:
		return invept(nested);
	case BASIC_INVVPID:
		return invvpid(nested);
	default:
		return NOBODY;
	}
}

int nv_nested_vmx_serve(void *device, uint64_t offset, struct nv_event *event)
{
	struct nv_vmx *vmx = device;
	struct nv_nested *nested = vmx->nested;
	struct nv_machine *active = nested->active;
	int result;

	(void)offset;
	if (!nested->visible || !event->advance || (event->raw != BASIC_VMXON && !active->vmx.on))
		return NV_DECLINED;
	if (event->raw == BASIC_VMXON)
		result = vmxon(nested);
	else if (event->raw == BASIC_VMCALL)
		result = vmcall(nested);
	else if (DPL(got(vmx, GOT_SS_RIGHTS)))
		result = raise(nested, GP);
	else
		result = execute(nested, event->raw);
	if (result < 0)
		nested->failed = result;
	if (result == NOBODY)
		return NV_DECLINED;
	if (event->raw != BASIC_VMLAUNCH && event->raw != BASIC_VMRESUME)
		nested->served[active->depth]++;
	event->retry = result != DONE;
	return NV_HANDLED;
}

void nv_nested_vmx_init(struct nv_nested *nested)
{
	struct nv_machine *machine = nested->machines;

	nested->active = machine;
	nested->switched = &nested->vmx->switched;
	nested->ops = &nv_nested_vmx_ops;
	machine->used = nested->clock = nested->own_maps = 1;
	machine->vmx.current = NO_VMCS;
	nv_nested_init_paging(nested);
}
