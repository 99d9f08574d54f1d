/* The svm engine: level n runs by VMRUN in the switcher, under a control block that L0 holds. What the block intercepts rings the
 * doorbell; everything else is as in the direct engine. */
#ifndef NV_SVM_H
#define NV_SVM_H

#include "switched.h"

/* AMD APM vol. 2, appendix B: the control area, and the state save area at 0x400. Reserved fields are pads. */
struct nv_vmcb_segment {
	uint16_t selector;
	uint16_t attributes;
	uint32_t limit;
	uint64_t base;
};

struct nv_vmcb {
	uint16_t cr_read, cr_write, dr_read, dr_write;
	uint32_t exceptions;
	uint32_t intercept[2];   /* exit codes 0x60 to 0x7f, 0x80 to 0x9f */
	uint8_t pad_014[0x2c];
	uint64_t iopm, msrpm, tsc_offset;
	uint32_t asid;
	uint8_t tlb_control, pad_05d[3];
	uint64_t virtual_interrupt, interrupt_shadow;
	uint64_t exit_code, exit_info_1, exit_info_2, exit_interrupt_info;
	uint64_t nested_paging;
	uint8_t pad_098[0x10];
	uint64_t event_injection, nested_cr3, lbr_virtualization;
	uint32_t clean, pad_0c4;
	uint64_t next_rip;
	uint8_t bytes_fetched, bytes[15];
	uint8_t pad_0e0[0x320];
	struct nv_vmcb_segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
	uint8_t pad_4a0[0x2b];
	uint8_t cpl;
	uint32_t pad_4cc;
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
};

struct nv_svm {
	struct nv_switched switched;
	struct nv_vmcb *block;
	uint32_t passed;         /* exit code whose intercept is off until the instruction that it stopped is done; 0: none */
	uint8_t passed_trap;     /* level n had RFLAGS.TF set itself then */
	uint8_t passed_debug;    /* the block intercepts #DB also without that */
};

/* What the pending exit stopped happens after all. An instruction (exit codes 0x60 to 0x9f) executes on the processor: its intercept
 * is off for one single step. An interrupt in between is served without it, too. An NMI is injected. */
void nv_svm_pass(struct nv_svm *svm, struct nv_event *event);

/* Level n takes this event at its next entry, of a kind NV_EVENT_*; error_code is ignored unless has_error_code. */
void nv_svm_inject(struct nv_svm *svm, int kind, uint8_t vector, int has_error_code, uint32_t error_code);

/* fd and run: of the KVM vCPU that runs the switcher. */
void nv_svm_init(struct nv_vcpu *vcpu, struct nv_svm *svm, int fd, struct kvm_run *run, uint8_t level);

#endif
