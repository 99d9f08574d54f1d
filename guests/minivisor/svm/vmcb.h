/* The virtual machine control block (AMD APM vol. 2, appendix B): the fields that minivisor uses. All others stay zero. Exit codes
 * (appendix C). */
#ifndef VMCB_H
#define VMCB_H

#include <stddef.h>
#include <stdint.h>

enum {
	CODE_DEBUG = 0x41, /* #DB */
	CODE_CPUID = 0x72,
	CODE_INVLPGA = 0x7a,
	CODE_IO = 0x7b,
	CODE_MSR = 0x7c,
	CODE_SHUTDOWN = 0x7f,
	CODE_VMRUN = 0x80,
	CODE_VMMCALL = 0x81,
	CODE_VMLOAD = 0x82,
	CODE_VMSAVE = 0x83,
	CODE_STGI = 0x84,
	CODE_CLGI = 0x85,
	CODE_SKINIT = 0x86,
	CODE_NESTED_PAGE_FAULT = 0x400,
};
#define CODE_INVALID (~0ull)

/* EXITINFO1 of CODE_IO (15.10.2). */
#define IO_IN (1 << 0)
#define IO_STRING (1 << 2)
#define IO_SIZE(info) ((uint8_t)((info) >> 4 & 7))
#define IO_PORT(info) ((uint16_t)((info) >> 16))

#define INTERRUPT_SHADOW 1ull
#define V_INTR_MASKING (1ull << 24)
#define EVENT_VALID (1ull << 31)
#define INJECT_UNDEFINED (EVENT_VALID | 3 << 8 | 6)
#define INJECT_DEBUG (EVENT_VALID | 3 << 8 | 1)
#define INJECT_PROTECTION (EVENT_VALID | 1 << 11 | 3 << 8 | 13)
#define TLB_FLUSH_ALL 1

#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)
#define EFER_SVME (1ull << 12)

struct vmcb_segment {
	uint16_t selector, attributes;
	uint32_t limit;
	uint64_t base;
};

struct vmcb {
	uint32_t intercept[6]; /* a string of bits that the exit codes number */
	uint8_t pad_018[0x28];
	uint64_t iopm, msrpm, tsc_offset;
	uint32_t asid, tlb_control;
	uint64_t virtual_interrupt, interrupt_shadow;
	uint64_t exit_code, exit_info_1, exit_info_2, exit_interrupt_info;
	uint64_t nested_paging;
	uint8_t pad_098[0x10];
	uint64_t event_injection, nested_cr3;
	uint8_t pad_0b8[0x10];
	uint64_t next_rip;
	uint8_t pad_0d0[0x330];
	struct vmcb_segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
	uint8_t pad_4a0[0x2b];
	uint8_t cpl;
	uint8_t pad_4cc[4];
	uint64_t efer;
	uint8_t pad_4d8[0x70];
	uint64_t cr4, cr3, cr0, dr7, dr6, rflags, rip;
	uint8_t pad_580[0x58];
	uint64_t rsp;
	uint8_t pad_5e0[0x18];
	uint64_t rax;
	uint8_t pad_600[0x40];
	uint64_t cr2;
	uint8_t pad_648[0x20];
	uint64_t guest_pat;
	uint8_t pad_670[0x990];
};

_Static_assert(offsetof(struct vmcb, iopm) == 0x40, "table B-1");
_Static_assert(offsetof(struct vmcb, exit_code) == 0x70, "table B-1");
_Static_assert(offsetof(struct vmcb, event_injection) == 0xa8, "table B-1");
_Static_assert(offsetof(struct vmcb, next_rip) == 0xc8, "table B-1");
_Static_assert(offsetof(struct vmcb, es) == 0x400, "table B-2");
_Static_assert(offsetof(struct vmcb, efer) == 0x4d0, "table B-2");
_Static_assert(offsetof(struct vmcb, rip) == 0x578, "table B-2");
_Static_assert(offsetof(struct vmcb, rax) == 0x5f8, "table B-2");
_Static_assert(offsetof(struct vmcb, cr2) == 0x640, "table B-2");
_Static_assert(offsetof(struct vmcb, guest_pat) == 0x668, "table B-2");
_Static_assert(sizeof(struct vmcb) == 4096, "a page");

#endif
