/* The virtual machine control block (AMD APM vol. 2, appendix B): the fields that minivisor uses. All others stay zero. */
#ifndef VMCB_H
#define VMCB_H

#include <stddef.h>
#include <stdint.h>

struct vmcb_segment {
	uint16_t selector, attributes;
	uint32_t limit;
	uint64_t base;
};

struct vmcb {
	uint8_t pad_000[0xc];
	uint32_t intercept[2];
	uint8_t pad_014[0x2c];
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
	uint8_t pad_4a0[0x30];
	uint64_t efer;
	uint8_t pad_4d8[0x70];
	uint64_t cr4, cr3, cr0, dr7, dr6, rflags, rip;
	uint8_t pad_580[0x58];
	uint64_t rsp;
	uint8_t pad_5e0[0x18];
	uint64_t rax;
	uint8_t pad_600[0x68];
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
_Static_assert(offsetof(struct vmcb, guest_pat) == 0x668, "table B-2");
_Static_assert(sizeof(struct vmcb) == 4096, "a page");

#endif
