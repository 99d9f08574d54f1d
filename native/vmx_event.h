/* What level n takes at its next entry: injected events, those whose delivery an exit interrupted, and what a passed exit stopped.
 * For native/vmx.c only. */
#ifndef NV_VMX_EVENT_H
#define NV_VMX_EVENT_H

#include "vmx.h"

/* Interruption information: of an exit, of IDT vectoring and of an entry alike (Intel SDM vol. 3, 25.9.2). */
#define NV_VMX_EVENT_VALID (1u << 31)
#define NV_VMX_EVENT_UNBLOCKED (1u << 12)
#define NV_VMX_EVENT_ERROR_CODE (1u << 11)
#define NV_VMX_EVENT_KIND 8
#define NV_VMX_EVENT_KINDS 7

/* Interruptibility (25.4.2): a shadow ends with the instruction. */
#define NV_VMX_SHADOW 3u
#define NV_VMX_NMI_BLOCKED 8u

#define NV_VMX_BASIC 0xffff

enum nv_vmx_basic {
	NV_VMX_EXCEPTION = 0,
	NV_VMX_EXTERNAL_INTERRUPT = 1,
	NV_VMX_INIT = 3,
	NV_VMX_INTERRUPT_WINDOW = 7,
	NV_VMX_NMI_WINDOW = 8,
	NV_VMX_TASK_SWITCH = 9,
	NV_VMX_HLT = 12,
	NV_VMX_INVD = 13,
	NV_VMX_INVLPG = 14,
	NV_VMX_RDPMC = 15,
	NV_VMX_RDTSC = 16,
	NV_VMX_CR = 28,
	NV_VMX_DR = 29,
	NV_VMX_IO = 30,
	NV_VMX_MWAIT = 36,
	NV_VMX_MONITOR_TRAP = 37,
	NV_VMX_MONITOR = 39,
	NV_VMX_PAUSE = 40,
	NV_VMX_DESCRIPTOR_TABLE = 46,
	NV_VMX_TASK_REGISTER = 47,
	NV_VMX_EPT_VIOLATION = 48,
	NV_VMX_EPT_MISCONFIGURATION = 49,
	NV_VMX_RDTSCP = 51,
	NV_VMX_PREEMPTION_TIMER = 52,
	NV_VMX_WBINVD = 54,
	NV_VMX_RDRAND = 57,
	NV_VMX_INVPCID = 58,
	NV_VMX_RDSEED = 61,
	NV_VMX_UMWAIT = 67,
	NV_VMX_TPAUSE = 68,
};

static inline uint64_t nv_vmx_got(const struct nv_vmx *vmx, int which)
{
	return vmx->block->exit[which].value;
}

static inline uint32_t nv_vmx_basic(const struct nv_vmx *vmx)
{
	return vmx->block->reason & NV_VMX_BASIC;
}

static inline uint32_t nv_vmx_event_kind(uint64_t information)
{
	return information >> NV_VMX_EVENT_KIND & NV_VMX_EVENT_KINDS;
}

static inline int nv_vmx_is_nmi(const struct nv_vmx *vmx)
{
	return nv_vmx_basic(vmx) == NV_VMX_EXCEPTION && nv_vmx_event_kind(nv_vmx_got(vmx, NV_VMX_INTERRUPTION)) == NV_EVENT_NMI;
}

/* Level n takes an event at its next entry: interruption information, error code, length of the instruction. */
void nv_vmx_inject_as(struct nv_vmx *vmx, uint64_t information, uint64_t error_code, uint64_t length);

/* The shadow of STI or MOV SS is over: the instruction in it was completed. */
void nv_vmx_end_shadow(struct nv_vmx *vmx);

/* After an exit: an event whose delivery it interrupted is delivered again, unless a later one takes its place. */
void nv_vmx_redeliver(struct nv_vmx *vmx);

/* Before an entry: what waits is injected, or its window asked for. */
void nv_vmx_deliver(struct nv_vmx *vmx);

/* The exit is one of a window that nv_vmx_deliver asked for. */
int nv_vmx_is_own_window(const struct nv_vmx *vmx);

#endif
