#include "fetch.h"

#include <errno.h>

#include "length.h"

uint64_t nv_code_linear(const struct nv_code *code)
{
	return code->bits == 64 ? code->rip : (uint32_t)(code->base + (uint32_t)code->rip);
}

/* Adds bytes to the event's, up to the end of a page. */
static void fetch_more(struct nv_paging *paging, const struct nv_code *code, struct nv_event *event)
{
	uint32_t have = event->instruction_length;
	uint64_t linear = code->rip + have;

	if (have == NV_INSTRUCTION_MAX)
		return;
	if (code->bits != 64)
		linear = (uint32_t)(code->base + (uint32_t)linear);
	event->instruction_length += nv_paging_fetch(paging, linear, event->instruction + have, NV_INSTRUCTION_MAX - have);
}

void nv_code_paging(struct nv_paging *paging, const struct nv_code *code)
{
	paging->cr0 = code->cr0;
	paging->cr3 = code->cr3;
	paging->cr4 = code->cr4;
	paging->efer = code->efer;
	paging->user = code->user;
}

static void fetch_first(struct nv_paging *paging, const struct nv_code *code, struct nv_event *event)
{
	nv_code_paging(paging, code);
	event->instruction_length = 0;
	fetch_more(paging, code, event);
}

uint32_t nv_fetch_instruction(struct nv_paging *paging, const struct nv_code *code, struct nv_event *event)
{
	int length;

	fetch_first(paging, code, event);
	length = nv_instruction_length(event->instruction, event->instruction_length, code->bits);
	if (length == -ENODATA) {
		/* only now: the next page is none that the processor need have looked at */
		fetch_more(paging, code, event);
		length = nv_instruction_length(event->instruction, event->instruction_length, code->bits);
	}
	if (length < 0)
		return 0;
	event->instruction_length = length;
	return length;
}

void nv_fetch_bytes(struct nv_paging *paging, const struct nv_code *code, struct nv_event *event)
{
	fetch_first(paging, code, event);
	if (event->instruction_length)
		fetch_more(paging, code, event);
}
