#include "nested_svm_internal.h"

#include <string.h>

/* A hypervisor uses SVM's instructions in clusters: VMSAVE and VMLOAD behind each exit, VMLOAD before VMRUN, with little more between them than
 * moves of registers. L0 does such moves itself, which costs less than to enter the machine for them; and when it meets the next
 * instruction of SVM's, it is as if that had exited. Anything that is not as plain as can be ends this: the processor does it then.
 *
 * VMSAVE and VMLOAD themselves happen at the next entry. Until then nothing is written, and nothing read of where VMSAVE is to store. */

enum { CODES_MAX = 48 };         /* instructions at a time */
enum { SVM_MAX = 4 };            /* instructions of SVM's without an entry between them: what comes from outside waits for that */
enum { MISSES = 255 };           /* times that L0 does not try where it led to nothing */
enum { REX_W = 8, REX_R = 4, REX_B = 1 };
enum { PLACES = 4 };             /* pages that are remembered for each kind of access */

struct place {
	uint64_t page;                   /* linear address / 4096 + 1; 0: empty */
	uint8_t *host;
};

struct ahead {
	struct nv_nested *nested;
	struct nv_paging *paging;
	uint64_t *regs;
	struct place places[3][PLACES];
	struct place code;           /* where RIP was last */
	const uint8_t *bytes;        /* at RIP */
	uint32_t count;              /* of them that are known */
	uint8_t copy[NV_INSTRUCTION_MAX];
	uint8_t stores;              /* memory is what it is to be when VMSAVE and VMLOAD have been done */
	uint8_t unused;              /* upper bits of a linear address that are copies */
};

static int is_canonical_here(const struct ahead *ahead, uint64_t linear)
{
	return (uint64_t)((int64_t)(linear << ahead->unused) >> ahead->unused) == linear;
}

/* A page that is looked at for the first time. */
static __attribute__((noinline)) uint8_t *reach_page(struct ahead *ahead, uint64_t page, int access)
{
	struct nv_nested *nested = ahead->nested;
	struct place *place = &ahead->places[access][page % PLACES];
	struct nv_nested_place physical_place;
	uint64_t physical;
	uint8_t *host;

	if (!is_canonical_here(ahead, page << 12) || nv_paging_walk(ahead->paging, page << 12, access, &physical) || ahead->paging->users)
		return NULL;
	host = nv_nested_page(nested, nested->active, physical, access, &physical_place);
	if (!host || (nested->switched->mailbox->store && host == nested->ahead.stored))
		return NULL;
	*place = (struct place){page + 1, host};
	return host;
}

/* The byte at an address; NULL: no plain memory of the machine's own, for such an access. */
static uint8_t *reach(struct ahead *ahead, uint64_t linear, int access)
{
	uint64_t page = linear >> 12;
	const struct place *place = &ahead->places[access][page % PLACES];
	uint8_t *host = place->page == page + 1 ? place->host : reach_page(ahead, page, access);

	return host ? host + (linear & 0xfff) : NULL;
}

/* Code of another page, or that goes on in another page, which is copied. */
static __attribute__((noinline)) void fetch_anew(struct ahead *ahead, uint64_t rip)
{
	uint32_t left = 0x1000 - (rip & 0xfff);
	const uint8_t *more;

	ahead->count = 0;
	/* behind the last address the next instruction faults, but this one has happened */
	if (!is_canonical_here(ahead, rip + NV_INSTRUCTION_MAX))
		return;
	ahead->bytes = reach(ahead, rip, NV_PAGING_FETCH);
	if (!ahead->bytes)
		return;
	ahead->code = (struct place){(rip >> 12) + 1, (uint8_t *)ahead->bytes - (rip & 0xfff)};
	ahead->count = left < NV_INSTRUCTION_MAX ? left : NV_INSTRUCTION_MAX;
	if (ahead->count == NV_INSTRUCTION_MAX)
		return;
	more = reach(ahead, rip + left, NV_PAGING_FETCH);
	if (!more)
		return;
	memcpy(ahead->copy, ahead->bytes, left);
	memcpy(ahead->copy + left, more, NV_INSTRUCTION_MAX - left);
	ahead->bytes = ahead->copy;
	ahead->count = NV_INSTRUCTION_MAX;
}

static void fetch(struct ahead *ahead)
{
	uint64_t rip = ahead->regs[NV_REG_RIP], offset = rip & 0xfff;

	if (ahead->code.page != (rip >> 12) + 1 || offset > 0xfff - NV_INSTRUCTION_MAX) {
		fetch_anew(ahead, rip);
		return;
	}
	ahead->bytes = ahead->code.host + offset;
	ahead->count = NV_INSTRUCTION_MAX;
}

/* Eight bytes in one page. */
static uint64_t *reach_word(struct ahead *ahead, uint64_t linear, int access)
{
	return (linear & 0xfff) <= 0xff8 ? (uint64_t *)reach(ahead, linear, access) : NULL;
}

static int load(struct ahead *ahead, uint64_t linear, uint64_t *value)
{
	const uint64_t *host = reach_word(ahead, linear, NV_PAGING_READ);

	if (host)
		memcpy(value, host, sizeof *value);
	return !!host;
}

static int store(struct ahead *ahead, uint64_t linear, uint64_t value)
{
	uint64_t *host = ahead->stores ? reach_word(ahead, linear, NV_PAGING_WRITE) : NULL;

	if (host)
		memcpy(host, &value, sizeof value);
	return !!host;
}

/* MOV between a register and a register or memory, of 64 bits; its length, 0: it is another, or does not work. */
static uint32_t move(struct ahead *ahead, uint32_t at, uint8_t rex, int to_register)
{
	uint8_t modrm = ahead->bytes[at + 1], mod = modrm >> 6;
	int number = (modrm >> 3 & 7) | (rex & REX_R) << 1, base = (modrm & 7) | (rex & REX_B) << 3;
	uint32_t length = at + 2 + (mod == 1 ? 1 : mod == 2 ? 4 : 0);
	uint64_t *reg = &ahead->regs[number], linear = ahead->regs[base];
	int32_t displacement = 0;

	if (!(rex & REX_W) || length > ahead->count)
		return 0;
	if (mod == 3) {
		if (to_register)
			*reg = linear;
		else
			ahead->regs[base] = *reg;
		return length;
	}
	if ((base & 7) == NV_REG_RSP || (!mod && (base & 7) == 5))
		return 0; /* a SIB byte, or relative to RIP */
	if (mod == 1)
		displacement = (int8_t)ahead->bytes[at + 2];
	else if (mod == 2)
		memcpy(&displacement, ahead->bytes + at + 2, sizeof displacement);
	linear += displacement;
	return (to_register ? load(ahead, linear, reg) : store(ahead, linear, *reg)) ? length : 0;
}

static uint32_t pop(struct ahead *ahead, uint32_t at, uint8_t rex)
{
	uint64_t value;

	if (!load(ahead, ahead->regs[NV_REG_RSP], &value))
		return 0;
	ahead->regs[NV_REG_RSP] += sizeof value;
	ahead->regs[(ahead->bytes[at] & 7) | (rex & REX_B) << 3] = value;
	return at + 1;
}

/* Executes the instruction at RIP; 0: it is none of these. */
static int execute(struct ahead *ahead)
{
	uint8_t rex = 0, opcode;
	uint32_t at = 0, length = 0;
	uint64_t jump = 0;

	if (ahead->count < 2)
		return 0;
	if ((ahead->bytes[0] & 0xf0) == 0x40)
		rex = ahead->bytes[at++];
	opcode = ahead->bytes[at];
	if (at + 2 > ahead->count)
		return 0;
	switch (opcode) {
	case 0x58 ... 0x5f:
		length = pop(ahead, at, rex);
		break;
	case 0x89:
	case 0x8b:
		length = move(ahead, at, rex, opcode == 0x8b);
		break;
	case 0x90:
		length = rex ? 0 : 1;
		break;
	case 0xeb:
		length = at + 2;
		jump = (int64_t)(int8_t)ahead->bytes[at + 1];
		break;
	default:
		break;
	}
	if (jump && !is_canonical_here(ahead, ahead->regs[NV_REG_RIP] + length + jump))
		length = 0; /* a jump there is refused where it starts */
	if (length)
		ahead->regs[NV_REG_RIP] += length + jump;
	return !!length;
}

/* The exit of the instruction of SVM's at RIP, if L0 can do it now; 0: it cannot. */
static uint64_t meets(const struct ahead *ahead)
{
	const struct nv_mailbox *mailbox;

	if (ahead->count < 3 || ahead->bytes[0] != 0x0f || ahead->bytes[1] != 0x01)
		return 0;
	mailbox = ahead->nested->switched->mailbox;
	switch (ahead->bytes[2]) {
	case 0xd8:
		return mailbox->store ? 0 : EXIT_VMRUN; /* what it reads may be what is to be stored */
	case 0xda:
		return mailbox->load ? 0 : EXIT_VMLOAD;
	case 0xdb:
		return mailbox->load || mailbox->store ? 0 : EXIT_VMSAVE;
	default:
		return 0;
	}
}

/* Nothing can come between two instructions, and each does what it always does. */
static int is_plain(struct nv_nested *nested)
{
	const struct nv_svm *svm = nested->svm;
	const struct nv_vmcb *block = svm->block;

	return svm->looks_ahead && nested->visible && nested->active->svme && code_bits(block) == 64 && !block->cpl &&
	       !(block->dr7 & 0xff) && !(svm->switched.mailbox->regs[NV_REG_RFLAGS] & (RFLAGS_TF | RFLAGS_RF)) &&
	       !svm->injection && !svm->interrupted && !svm->step.active && !svm->synthetic && !nv_nested_is_due(nested);
}

static void start(struct ahead *ahead, struct nv_nested *nested)
{
	struct nv_code code = nv_svm_code(nested->svm);

	nested->walked = 0;
	for (int kind = 0; kind < 3; kind++)
		for (int i = 0; i < PLACES; i++)
			ahead->places[kind][i].page = 0;
	ahead->code = (struct place){0};
	ahead->nested = nested;
	ahead->stores = !nested->switched->mailbox->load && !nested->switched->mailbox->store;
	ahead->regs = nested->switched->mailbox->regs;
	ahead->paging = nested->switched->paging;
	ahead->unused = code.cr4 & CR4_LA57 ? 64 - 57 : 64 - 48;
	ahead->paging->cr0 = code.cr0;
	ahead->paging->cr3 = code.cr3;
	ahead->paging->cr4 = code.cr4;
	ahead->paging->efer = code.efer;
	ahead->paging->user = 0;
	ahead->paging->ac = 0;
}

static void tell(struct nv_svm *svm, uint64_t code, const uint8_t *bytes)
{
	struct nv_vmcb *block = svm->block;

	memcpy(svm->met, bytes, sizeof svm->met);

	block->exit_code = code;
	block->exit_info_1 = block->exit_info_2 = block->exit_interrupt_info = block->next_rip = 0;
	block->rip = *register_of(svm, NV_REG_RIP);
}

/* Where a kernel lies differs from boot to boot, by whole pages: which of its addresses share a place does not. */
static struct nv_nested_missed *place_of(struct nv_nested *nested, uint64_t from)
{
	return &nested->ahead.missed[((from & 0xfff) * NV_NESTED_DEPTH + nested->active->depth) % NV_NESTED_MISSED];
}

/* All of it is one function: some of what it calls is as short as the instruction that it does. */
__attribute__((flatten)) int nv_nested_go_ahead(struct nv_nested *nested, int idle)
{
	uint64_t from = nested->switched->mailbox->regs[NV_REG_RIP], code = 0;
	struct nv_nested_missed *missed = place_of(nested, from);
	struct ahead ahead;
	int executed = 0;

	nested->ahead.armed = 0;
	if (!idle || nested->ahead.done == SVM_MAX || !is_plain(nested))
		return 0;
	if (missed->from == from && missed->left) {
		missed->left--;
		return 0;
	}
	start(&ahead, nested);
	for (int i = 0; i < CODES_MAX; i++) {
		fetch(&ahead);
		code = meets(&ahead);
		if (code || !execute(&ahead))
			break;
		executed = 1;
	}
	if (executed)
		nested->svm->block->interrupt_shadow &= ~SHADOWED;
	if (!code) {
		*missed = (struct nv_nested_missed){.from = from, .left = MISSES};
		return 0;
	}
	nested->ahead.done++;
	nested->ahead.met++;
	tell(nested->svm, code, ahead.bytes);
	return 1;
}
