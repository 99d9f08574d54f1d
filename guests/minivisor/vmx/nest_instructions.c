#include "nest_instructions.h"
#include "extras.h"
#include "host.h"
#include "memory.h"
#include "minivisor.h"
#include "msr.h"
#include "nest_entry.h"
#include "nest_operand.h"
#include "nest_paging.h"
#include "nest_tables.h"
#include "nest_vmcs.h"
#include "vendor.h"
#include "vmcs.h"

/* What an instruction leaves in RFLAGS (31.2). */
#define FLAGS 0x8d5ull /* CF, PF, AF, ZF, SF, OF */
#define FLAG_INVALID 1ull /* CF: there is no current VMCS for the error's number */
#define FLAG_VALID 0x40ull /* ZF */
#define NONE (~0ull)
#define DPL(rights) ((rights) >> 5 & 3)

/* VM-instruction errors (31.4); and what else an instruction can come to. */
enum {
	DONE = 0,
	VMCLEAR_ADDRESS = 2,
	VMCLEAR_VMXON = 3,
	VMLAUNCH_LAUNCHED = 4,
	VMRESUME_CLEAR = 5,
	VMPTRLD_ADDRESS = 9,
	VMPTRLD_VMXON = 10,
	VMPTRLD_REVISION = 11,
	NO_FIELD = 12,
	READ_ONLY = 13,
	VMXON_ROOT = 15,
	BLOCKED_BY_MOV_SS = 26,
	WRONG_INVALIDATION = 28,
	NO_VMCS = -1,
	FAULTED = -2,            /* the guest takes an exception */
	ENTERED = -3,            /* its guest runs */
};

enum { INVEPT_ONE = 1, INVEPT_ALL = 2 };

/* The guest's processor. */
static bool on;                  /* in VMX operation */
static uint64_t vmxon_region;
static uint64_t current = NONE;  /* address of the current VMCS */

static struct nest_vmcs *vmcs_at(uint64_t address)
{
	return address % NEST_VMCS_SIZE ? 0 : memory_at(address, NEST_VMCS_SIZE);
}

static bool has_revision(const struct nest_vmcs *vmcs)
{
	return vmcs->revision == ((uint32_t)rdmsr(MSR_VMX_BASIC) & 0x7fffffff);
}

static int vmxon(void)
{
	uint64_t address;
	struct nest_vmcs *region;

	if (on)
		return VMXON_ROOT;
	if (extras_wanted())
		stop(STATUS_NESTING, "its guest is a hypervisor, and nothing of extras is nested");
	if (!nest_operand_load(&address, sizeof address))
		return FAULTED;
	region = vmcs_at(address);
	if (!region || !has_revision(region))
		return NO_VMCS;
	nest_entry_init();
	on = true;
	vmxon_region = address;
	current = NONE;
	return DONE;
}

static int vmxoff(void)
{
	on = false;
	current = NONE;
	return DONE;
}

/* The VMCS that VMCLEAR and VMPTRLD name, at *address. */
static int load_vmcs(uint64_t *address, struct nest_vmcs **vmcs, int no_address, int is_vmxon)
{
	if (!nest_operand_load(address, sizeof *address))
		return FAULTED;
	*vmcs = vmcs_at(*address);
	if (!*vmcs)
		return no_address;
	return *address == vmxon_region ? is_vmxon : DONE;
}

static int vmclear(void)
{
	uint64_t address;
	struct nest_vmcs *vmcs;
	int result = load_vmcs(&address, &vmcs, VMCLEAR_ADDRESS, VMCLEAR_VMXON);

	if (result)
		return result;
	vmcs->launched = 0;
	if (address == current)
		current = NONE;
	return DONE;
}

static int vmptrld(void)
{
	uint64_t address;
	struct nest_vmcs *vmcs;
	int result = load_vmcs(&address, &vmcs, VMPTRLD_ADDRESS, VMPTRLD_VMXON);

	if (result)
		return result;
	if (!has_revision(vmcs))
		return VMPTRLD_REVISION;
	current = address;
	return DONE;
}

static int vmptrst(void)
{
	return nest_operand_store(&current, sizeof current) ? DONE : FAULTED;
}

static int vmread_field(struct nest_vmcs *vmcs)
{
	uint64_t encoding = nest_register_2();

	if (!nest_vmcs_has(encoding))
		return NO_FIELD;
	return nest_operand_put(nest_vmcs_read(vmcs, encoding)) ? DONE : FAULTED;
}

static int vmwrite_field(struct nest_vmcs *vmcs)
{
	uint64_t encoding = nest_register_2(), value;

	if (!nest_operand_get(&value))
		return FAULTED;
	if (!nest_vmcs_has(encoding))
		return NO_FIELD;
	if (!nest_vmcs_writable(encoding))
		return READ_ONLY;
	nest_vmcs_write(vmcs, encoding, value);
	return DONE;
}

static int enter(struct nest_vmcs *vmcs, bool resume)
{
	int error;

	if (vmread(VMCS_INTERRUPTIBILITY) & SHADOW_MOV_SS)
		return BLOCKED_BY_MOV_SS;
	if (resume != !!vmcs->launched)
		return resume ? VMRESUME_CLEAR : VMLAUNCH_LAUNCHED;
	error = nest_enter(vmcs);
	return error ? error : ENTERED;
}

static int invept(void)
{
	uint64_t type = nest_register_2(), descriptor[2];

	if (!nest_operand_load(descriptor, sizeof descriptor))
		return FAULTED;
	if (type != INVEPT_ALL && (type != INVEPT_ONE || !nest_paging_takes(descriptor[0])))
		return WRONG_INVALIDATION;
	nest_tables_forget();
	return DONE;
}

/* Those of the current VMCS. */
static int execute_on(struct nest_vmcs *vmcs, uint64_t code)
{
	if (!vmcs)
		return NO_VMCS;
	switch (code) {
	case CODE_VMREAD:
		return vmread_field(vmcs);
	case CODE_VMWRITE:
		return vmwrite_field(vmcs);
	default:
		return enter(vmcs, code == CODE_VMRESUME);
	}
}

static int execute(uint64_t code)
{
	switch (code) {
	case CODE_VMXON:
		return vmxon();
	case CODE_VMXOFF:
		return vmxoff();
	case CODE_VMCLEAR:
		return vmclear();
	case CODE_VMPTRLD:
		return vmptrld();
	case CODE_VMPTRST:
		return vmptrst();
	case CODE_INVEPT:
		return invept();
	default:
		return execute_on(current == NONE ? 0 : vmcs_at(current), code);
	}
}

static void conclude(int result)
{
	struct nest_vmcs *vmcs = result > DONE && current != NONE ? vmcs_at(current) : 0;
	uint64_t flag = result == DONE ? 0 : vmcs ? FLAG_VALID : FLAG_INVALID;

	if (result == FAULTED || result == ENTERED)
		return;
	if (vmcs)
		*nest_field(vmcs, VMCS_INSTRUCTION_ERROR) = (uint64_t)result;
	vmwrite(VMCS_RFLAGS, (vmread(VMCS_RFLAGS) & ~FLAGS) | flag);
	vendor_skip();
}

bool nest_instruction(uint64_t code)
{
	if ((code < CODE_VMCLEAR || code > CODE_VMXON) && code != CODE_INVEPT && code != CODE_INVVPID)
		return false;
	if (code == CODE_INVVPID || (code != CODE_VMXON && !on)) {
		vendor_undefined(); /* there are no VPIDs */
	} else if (DPL(vmread(VMCS_ES_RIGHTS + 2 * SEGMENT_SS))) {
		vmwrite_event(INJECT_PROTECTION, 0);
	} else {
		conclude(execute(code));
	}
	return true;
}

void nest_entry_fails(int error)
{
	conclude(error);
}
