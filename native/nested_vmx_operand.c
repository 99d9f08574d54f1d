#include "nested_vmx_internal.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

/* Instruction information (tables 28-13 and 28-14). */
#define SCALE(information) ((information) & 3)
#define ADDRESS_SIZE(information) ((information) >> 7 & 7)  /* 0 is 16 bits, 1 is 32, 2 is 64 */
#define SEGMENT(information) ((information) >> 15 & 7)
#define INDEX(information) ((information) >> 18 & 15)
#define NO_INDEX (1ull << 22)
#define BASE(information) ((information) >> 23 & 15)
#define NO_BASE (1ull << 27)

/* Access rights of a segment (25.4.1). */
#define SEGMENT_CODE 8
#define SEGMENT_READS_OR_WRITES 2 /* code can be read, data written */
#define SEGMENT_DOWN 4            /* of data: offsets above the limit are the segment's */
#define SEGMENT_UNUSABLE (1ull << 16)

enum { SEGMENT_SS = 2, SEGMENT_FS = 4 };
enum { STACK_FAULT = 12 };

/* One that a machine's exception bitmap may want (qualification: of #PF), and that else the active machine takes. */
static int raise(struct nv_nested *nested, int vector, uint32_t error_code, uint64_t qualification)
{
	struct nv_nested_vmx_exit exit = {
		.reason = BASIC_EXCEPTION,
		.qualification = qualification,
		.interruption = EVENT_VALID | NV_EVENT_EXCEPTION << EVENT_KIND | vector,
		.error_code = error_code,
	};
	int result;

	if (nv_exception_has_error_code(vector))
		exit.interruption |= EVENT_ERROR_CODE;
	for (struct nv_machine *owner = nested->active->parent; owner; owner = owner->parent)
		if (nv_nested_vmx_wants_exception(owner, vector, error_code)) {
			result = nv_nested_vmx_reflect(nested, owner, &exit);
			return result ? result : 1;
		}
	result = nv_vmx_inject(nested->vcpu, NV_EVENT_EXCEPTION, vector, error_code);
	return result ? result : 1;
}

int nv_nested_vmx_fault(struct nv_nested *nested, int vector, uint32_t error_code)
{
	return raise(nested, vector, error_code, 0);
}

static int wants_fault(const struct nv_nested *nested, uint32_t error_code)
{
	for (const struct nv_machine *owner = nested->active->parent; owner; owner = owner->parent)
		if (nv_nested_vmx_wants_exception(owner, PF, error_code))
			return 1;
	return 0;
}

static int page_fault(struct nv_nested *nested, uint64_t address)
{
	uint32_t error_code = nested->switched->paging->error;
	struct kvm_sregs sregs;

	/* an exit leaves CR2 alone (26.2) */
	if (!wants_fault(nested, error_code)) {
		if (ioctl(nested->vcpu->fd, KVM_GET_SREGS, &sregs))
			return -errno;
		sregs.cr2 = address;
		if (ioctl(nested->vcpu->fd, KVM_SET_SREGS, &sregs))
			return -errno;
	}
	return raise(nested, PF, error_code, address);
}

int nv_nested_vmx_wants_trap(const struct nv_nested *nested)
{
	for (const struct nv_machine *owner = nested->active->parent; owner; owner = owner->parent)
		if (nv_nested_vmx_wants_exception(owner, DB, 0))
			return 1;
	return 0;
}

int nv_nested_vmx_trap(struct nv_nested *nested)
{
	return raise(nested, DB, 0, DR6_BS);
}

static uint64_t offset_of(struct nv_vmx *vmx, uint64_t information)
{
	uint64_t offset = got(vmx, GOT_QUALIFICATION); /* the displacement */

	if (!(information & NO_BASE))
		offset += *register_of(vmx, BASE(information));
	if (!(information & NO_INDEX))
		offset += *register_of(vmx, INDEX(information)) << SCALE(information);
	switch (ADDRESS_SIZE(information)) {
	case 0:
		return (uint16_t)offset;
	case 1:
		return (uint32_t)offset;
	default:
		return offset;
	}
}

/* Whether the segment has all of it, and allows the access; not of 64-bit code (vol. 3, 6.3 to 6.5). */
static int allows(uint64_t rights, uint64_t limit, uint64_t offset, uint32_t size, int write)
{
	uint64_t last = offset + size - 1;

	if (rights & SEGMENT_UNUSABLE)
		return 0;
	if (rights & SEGMENT_CODE)
		return !write && rights & SEGMENT_READS_OR_WRITES && last <= limit;
	if (write && !(rights & SEGMENT_READS_OR_WRITES))
		return 0;
	return rights & SEGMENT_DOWN ? offset > limit && last <= (rights & CS_BIG ? 0xffffffff : 0xffff) : last <= limit;
}

/* Where the operand is; and the walk through the active machine's own tables is prepared. */
int nv_nested_vmx_locate(struct nv_nested *nested, uint32_t size, int write, uint64_t *address)
{
	struct nv_vmx *vmx = nested->vmx;
	struct nv_paging *paging = nested->switched->paging;
	uint64_t information = got(vmx, GOT_INSTRUCTION), offset = offset_of(vmx, information);
	int segment = SEGMENT(information), vector = segment == SEGMENT_SS ? STACK_FAULT : GP, wide, result;
	struct nv_vmx_field fields[] = {
		{NV_VMCS_GUEST_CR0, 0}, {NV_VMCS_GUEST_CR3, 0}, {NV_VMCS_GUEST_CR4, 0}, {NV_VMCS_GUEST_EFER, 0},
		{NV_VMCS_GUEST_ES_BASE + 2 * segment, 0}, {NV_VMCS_GUEST_ES_LIMIT + 2 * segment, 0}, {NV_VMCS_GUEST_ES_RIGHTS + 2 * segment, 0},
	};

	result = nv_vmx_exchange(nested->vcpu, fields, sizeof fields / sizeof fields[0]);
	if (result)
		return result;
	paging->cr0 = fields[0].value;
	paging->cr3 = fields[1].value;
	paging->cr4 = fields[2].value;
	paging->efer = fields[3].value;
	paging->user = 0;
	paging->ac = !!(*register_of(vmx, NV_REG_RFLAGS) & RFLAGS_AC);
	nv_paging_flush(paging);
	wide = fields[3].value & EFER_LMA && got(vmx, GOT_CS_RIGHTS) & CS_LONG;
	if (!wide) {
		*address = (uint32_t)(fields[4].value + offset);
		return allows(fields[6].value, fields[5].value, offset, size, write) ? 0 : nv_nested_vmx_fault(nested, vector, 0);
	}
	*address = offset + (segment >= SEGMENT_FS ? fields[4].value : 0);
	return is_canonical(*address) && is_canonical(*address + size - 1) ? 0 : nv_nested_vmx_fault(nested, vector, 0);
}

/* Memory of the active machine's; *host is NULL where there is none, if that is no one's below to hear of. */
static int reach(struct nv_nested *nested, uint64_t physical, int write, uint8_t **host)
{
	struct nv_nested_place place;

	*host = nv_nested_page(nested, nested->active, physical, write, &place);
	return *host ? 0 : nv_nested_vmx_refused(nested, &place, 0);
}

/* A byte of it, which a machine below may withhold, as it may the tables that lead there. */
static int touch(struct nv_nested *nested, uint64_t address, int access, uint8_t **host)
{
	const struct nv_paging *paging = nested->switched->paging;
	uint64_t physical;
	int result = nv_paging_walk(nested->switched->paging, address, access, &physical);

	if (result == NV_PAGING_FAULT)
		return page_fault(nested, address);
	if (result) {
		result = reach(nested, paging->unbacked, 0, host);
		*host = NULL;
		return result;
	}
	if (paging->unmarked != NV_PAGING_NONE)
		result = reach(nested, paging->unmarked, 1, host);
	return result ? result : reach(nested, physical, access == NV_PAGING_WRITE, host);
}

/* Up to the end of the page that the address is in. */
static uint32_t in_page(uint64_t address, uint32_t size)
{
	uint32_t left = PAGE - address % PAGE;

	return size < left ? size : left;
}

int nv_nested_vmx_load(struct nv_nested *nested, uint64_t address, void *to, uint32_t size)
{
	for (uint32_t done = 0, part; done < size; done += part) {
		uint8_t *host;
		int result = touch(nested, address + done, NV_PAGING_READ, &host);

		if (result)
			return result;
		part = in_page(address + done, size - done);
		if (host)
			memcpy((uint8_t *)to + done, host, part);
		else
			memset((uint8_t *)to + done, 0xff, part);
	}
	return 0;
}

int nv_nested_vmx_store(struct nv_nested *nested, uint64_t address, const void *from, uint32_t size)
{
	uint32_t first = in_page(address, size);
	uint8_t *host;
	int result = touch(nested, address, NV_PAGING_WRITE, &host);

	/* all of it can be written, or none is */
	if (!result && first < size)
		result = touch(nested, address + first, NV_PAGING_WRITE, &host);
	if (result)
		return result;
	for (uint32_t done = 0, part; done < size; done += part) {
		result = touch(nested, address + done, NV_PAGING_WRITE, &host);
		if (result)
			return result;
		part = in_page(address + done, size - done);
		if (host)
			memcpy(host, (const uint8_t *)from + done, part);
	}
	return 0;
}
