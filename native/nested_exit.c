#include "nested_internal.h"

#define NPF_KIND (NPF_FINAL | NPF_TABLES)

enum { SVM_FIRST = 0x80, SVM_LAST = 0x86, INVLPGA = 0x7a, VMMCALL = 0x81, EFER = 0xc0000080 };

/* What the processor, or one with the features that L0 offers, tells of the exit. */
static void describe(struct nv_nested *nested, uint64_t code, struct nv_nested_exit *exit)
{
	struct nv_svm *svm = nested->svm;
	const struct nv_vmcb *block = svm->block;
	struct nv_event event;

	*exit = (struct nv_nested_exit){.code = code, .info_1 = block->exit_info_1, .info_2 = block->exit_info_2};
	nv_svm_decode(svm, &event);
	if (event.advance)
		exit->next_rip = *register_of(svm, NV_REG_RIP) + event.advance;
	if (code == EXIT_IOIO)
		exit->info_2 = exit->next_rip;
	exit->info_1 = nv_nested_assist(nested, code, &event, exit->info_1);
}

/* A machine below learns that this one writes EFER, and says by its answer whether it may. */
static void ask_efer(struct nv_nested *nested, uint64_t code)
{
	struct nv_svm *svm = nested->svm;

	if (code != EXIT_MSR || !(svm->block->exit_info_1 & 1) || (uint32_t)*register_of(svm, NV_REG_RCX) != EFER)
		return;
	nested->active->asked = 1;
	nested->active->asked_svme = !!(*register_of(svm, NV_REG_RAX) & EFER_SVME);
}

static int is_svm(uint64_t code)
{
	return (code >= SVM_FIRST && code <= SVM_LAST && code != VMMCALL) || code == INVLPGA;
}

int nv_nested_exit(struct nv_nested *nested)
{
	struct nv_svm *svm = nested->svm;
	uint64_t code = svm->block->exit_code;
	struct nv_machine *owner;
	struct nv_nested_exit exit;

	if (!nested->active->depth)
		return 0;
	if (code == EXIT_VINTR)
		return 0; /* it is L0's window */
	if (code == EXIT_INVALID) {
		/* the processor is stricter than VMRUN's checks here */
		exit = (struct nv_nested_exit){.code = code};
		nv_nested_reflect(nested, nested->active->parent, &exit);
		return 1;
	}
	/* by default L0 does what a machine that it knows to have SVM asks of it */
	if (is_svm(code) && nested->active->svme && !nests_by_itself(nested, nested->active))
		return 0;
	owner = nv_nested_owner(nested, &code, svm->block->exit_info_1);
	if (!owner && code == EXIT_PAUSE && !intercepts(svm->wanted, code)) {
		struct nv_event event;

		/* the filters of all machines let it pass */
		nv_svm_decode(svm, &event);
		nv_svm_skip(svm, &event);
		return 1;
	}
	if (!owner || code == EXIT_NPF)
		return 0;
	if (code == EXIT_INTR && svm->switched.mailbox->acknowledge)
		return 0; /* it is pending, and delivered from there */
	if (code == EXIT_NMI)
		return 0; /* likewise */
	describe(nested, code, &exit);
	if (owner == nested->active->parent)
		ask_efer(nested, code);
	nv_nested_reflect(nested, owner, &exit);
	return 1;
}

void nv_nested_raise(struct nv_nested *nested, int vector, int has_error_code)
{
	uint64_t code = EXIT_EXCEPTION + vector;
	struct nv_machine *owner = nv_nested_owner(nested, &code, 0);

	if (owner)
		nv_nested_reflect(nested, owner, &(struct nv_nested_exit){.code = code});
	else
		nv_svm_inject(nested->svm, NV_EVENT_EXCEPTION, vector, has_error_code, 0);
}

int nv_nested_refused(struct nv_nested *nested, const struct nv_nested_place *place, uint64_t kind)
{
	struct nv_nested_exit exit = {.code = EXIT_NPF, .info_1 = place->error | kind, .info_2 = place->address};

	if (!place->refuses)
		return 0;
	nv_nested_reflect(nested, place->refuses, &exit);
	return 1;
}

int nv_nested_fault(struct nv_nested *nested, uint64_t error, uint64_t address)
{
	uint32_t access = error & NPF_FETCH ? NV_RIGHT_EXECUTE : error & NPF_WRITE ? NV_RIGHT_WRITE : NV_RIGHT_READ;
	struct nv_nested_place place;
	int result;

	nv_nested_follow(nested);
	result = nv_nested_place(nested, nested->active, address, access, &place);
	if (result == NV_NESTED_MAPPED || nested->endless)
		return 1;
	if (result == NV_NESTED_REFUSED)
		return nv_nested_refused(nested, &place, place.refuses == nested->active->parent ? error & NPF_KIND : NPF_TABLES);
	nested->svm->switched.faulted = access;
	nested->svm->switched.fault_address = place.address;
	return 0;
}
