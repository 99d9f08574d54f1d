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
	uint32_t intercept[6];   /* a string of bits that the exit codes number */
	uint8_t pad_018[0x24];
	uint16_t pause_filter_threshold, pause_filter_count;
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

#define NV_SVM_NO_CODE 0xffffffff

/* One instruction of level n, executed in spite of its intercept: by level n's trap flag, which L0 holds meanwhile. */
struct nv_svm_step {
	uint32_t code;           /* the intercept that is off; NV_SVM_NO_CODE: none */
	uint8_t active;
	uint8_t traps;           /* by RFLAGS.TF; else it lasts until level n stops for anything, as HLT does */
	uint8_t shadowed;        /* no interrupt comes before it, as behind STI */
	uint8_t length;
	uint64_t rip, dr6;       /* before it */
	struct nv_trap_flag trap;
};

struct nv_nested;

/* What level n's processor, as its CPUID shows it, lets level n set. */
struct nv_svm_limits {
	uint64_t physical_reserved; /* bits that no physical address has */
	uint64_t cr4_allowed;
	uint64_t efer_allowed;   /* without LMA and SVME */
};

struct nv_svm {
	struct nv_switched switched;
	struct nv_nested *nested; /* level n's own SVM */
	struct nv_vmcb *block;
	uint32_t wanted[6];      /* the intercepts that the designation table asks for, as the block's */
	uint64_t injection;      /* what level n takes first at its next entry, as EVENTINJ; 0: nothing */
	uint64_t entering;       /* what level n takes at the entry that is prepared, as EVENTINJ; 0: nothing */
	uint64_t interrupted;    /* the event whose delivery the last exit interrupted, as EVENTINJ; 0: none */
	uint64_t vectoring;      /* as the last exit tells, software interrupts included; 0: none */
	struct nv_svm_limits limits;
	uint64_t soft_event;     /* the software interrupt, as EVENTINJ, that the last entry injected as an external one; 0: none */
	uint64_t soft_rip;       /* where the instruction of the last software interrupt is that L0 injected */
	uint32_t synthetic;      /* enum nv_reason of an event that no exit of the processor tells; 0: none */
	uint8_t synthetic_space; /* whose it is, as struct nv_event has it */
	uint8_t synthetic_vector; /* of an interrupt */
	uint8_t soft_injected;   /* what level n takes is such an interrupt; without next-RIP save RIP is behind the instruction already */
	uint8_t blocks_no_nmi;   /* what level n takes is an NMI that a block injects (AMD APM vol. 2, 15.20) */
	uint8_t saves_next_rip;  /* the processor does */
	uint8_t met[3];          /* the instruction that L0 met without an exit of the processor: its bytes; the first 0: it was one */
	uint8_t looks_ahead;     /* there is no Python level that could see what L0 does of the code between two exits */
	uint8_t keeps_gif;       /* the processor does, for code that runs under a block, and no Python level asks for STGI or CLGI */
	uint8_t window;          /* the block stops level n as soon as it can take an interrupt */
	struct nv_svm_step step;
	struct nv_event stopped; /* the port access that a step executes now: what its exit told of it */
};

/* What the pending exit stopped happens after all: the instruction executes, or level n takes the event when it can. */
void nv_svm_pass(struct nv_svm *svm, struct nv_event *event);

/* Level n, outside, takes this event at its next entry, of a kind NV_EVENT_*; error_code is ignored unless has_error_code. An exception
 * is combined with one whose delivery the exit interrupted: to a double fault, or to a shutdown (AMD APM vol. 2, 8.2.9). */
void nv_svm_inject(struct nv_svm *svm, int kind, uint8_t vector, int has_error_code, uint32_t error_code);

/* An nv_serve_fn for EFER, and for SVM's own MSRs. device: struct nv_svm. */
int nv_svm_serve_msr(void *device, uint64_t offset, struct nv_event *event);

/* fd and run: of the KVM vCPU that runs the switcher. `nested` is set before. */
void nv_svm_init(struct nv_vcpu *vcpu, struct nv_svm *svm, int fd, struct kvm_run *run, uint8_t level);

#endif
