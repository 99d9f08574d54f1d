/* The page that a vCPU of the switcher shares with L0, and the place of everything that the switcher is made of.
 * The assembler reads the numbers; native/switched.c checks that the struct agrees with them. */
#ifndef NV_MAILBOX_H
#define NV_MAILBOX_H

/* Guest-physical, above all RAM of level n and below 2^39, the least physical address width that a processor with nesting has. */
#define NV_SWITCHER_BASE 0x7fffe00000
#define NV_SWITCHER_SIZE 0x200000

/* What else L0 has below 2^39 beside level n's memory: windows, which no memory slot backs, and the nested page tables, which have a
 * slot of their own. */
#define NV_SHADOW_WINDOWS 0x7fc0000000
#define NV_SHADOW_WINDOW_COUNT 64
#define NV_SHADOW_TABLES 0x7fd0000000
#define NV_SHADOW_TABLE_COUNT 256

/* Likewise for the levels above level n that hypervisors make: so many for each depth. */
#define NV_NESTED_TABLES 0x7fd4000000
#define NV_NESTED_TABLE_COUNT 512

/* Parts of it, by their offsets. A fault's stack grows down from the mailbox, which RSP always is. */
#define NV_SWITCHER_CODE 0x0000
#define NV_SWITCHER_VMX_NMI 0x0380
#define NV_SWITCHER_VMX_EXIT 0x0400
#define NV_SWITCHER_GATES 0x0800
#define NV_SWITCHER_INTERRUPT_GATES 0x1000
#define NV_SWITCHER_CODE_MAX 0x2000
#define NV_SWITCHER_MAILBOX 0x3000
#define NV_SWITCHER_BLOCK 0x4000
#define NV_SWITCHER_HOST_SAVE 0x5000
#define NV_SWITCHER_IDT 0x6000
#define NV_SWITCHER_INTERRUPT_IDT 0x7000
#define NV_SWITCHER_GDT 0x8000
#define NV_SWITCHER_PML4 0x9000
#define NV_SWITCHER_PDPT 0xa000
#define NV_SWITCHER_PD 0xb000
#define NV_SWITCHER_IOPM 0xe000
#define NV_SWITCHER_MSRPM 0x11000
#define NV_SWITCHER_VMXON 0x13000
#define NV_SWITCHER_VMCS 0x14000
#define NV_SWITCHER_TSS 0x15000
#define NV_SWITCHER_PROBE 0x16000
#define NV_SWITCHER_NESTED 0x20000

/* The port that it rings; a level's own access to that port is told apart by the mailbox's state. */
#define NV_DOORBELL 0x4e

/* Indices into the mailbox's registers behind the sixteen of the instruction encoding. */
#define NV_REG_RAX 0
#define NV_REG_RCX 1
#define NV_REG_RDX 2
#define NV_REG_RBX 3
#define NV_REG_RSP 4
#define NV_REG_R11 11
#define NV_REG_RIP 16
#define NV_REG_RFLAGS 17
#define NV_REGS 18

#define NV_MAILBOX_STATE 0x90
#define NV_MAILBOX_BLOCK 0x98
#define NV_MAILBOX_INTERRUPT 0xa0
#define NV_MAILBOX_IDT 0xa8
#define NV_MAILBOX_INTERRUPT_IDT 0xb8
#define NV_MAILBOX_PANIC 0xc8
#define NV_MAILBOX_STORE 0xf0
#define NV_MAILBOX_LOAD 0xf8
#define NV_MAILBOX_ENABLED 0x100
#define NV_MAILBOX_ACKNOWLEDGE 0x108
#define NV_MAILBOX_NMI 0x110

/* Its own segments. */
#define NV_SWITCHER_CODE_SELECTOR 0x08
#define NV_SWITCHER_DATA_SELECTOR 0x10
#define NV_SWITCHER_TASK_SELECTOR 0x18

/* What the switcher is doing: level n runs, it rings for an exit, it rings because it failed, it waits because L0 heard it ring, it
 * rings because the processor refused level n's state, and because an NMI came before it entered level n. Between RINGING and OUTSIDE
 * L0 may come by for a kick, and must change nothing. */
#define NV_SWITCHER_RUNNING 0
#define NV_SWITCHER_RINGING 1
#define NV_SWITCHER_PANIC 2
#define NV_SWITCHER_OUTSIDE 3
#define NV_SWITCHER_REFUSED 4
#define NV_SWITCHER_AGAIN 5

#ifndef __ASSEMBLER__
#include <stdint.h>

struct nv_mailbox {
	uint64_t regs[18];       /* level n's, while it is outside: by the numbers of the instruction encoding, then NV_REG_* */
	uint64_t state;          /* NV_SWITCHER_* */
	uint64_t block;          /* guest-physical address of the control block */
	uint64_t interrupt;      /* vector of the external interrupt that the switcher acknowledged, if the exit is one */
	uint64_t idt[2];         /* operand of LIDT: for faults */
	uint64_t interrupt_idt[2]; /* and for interrupts */
	uint64_t panic[5];       /* vector, error code, RIP, RSP, CR2 of a fault in the switcher */
	/* svm.S only: */
	uint64_t store, load;    /* control blocks that VMSAVE stores in and VMLOAD loads of before level n runs; 0: none */
	uint64_t enabled;        /* RFLAGS.IF outside, which counts while the block has V_INTR_MASKING */
	uint64_t acknowledge;    /* whether the switcher takes the external interrupt that stopped level n, or leaves it pending */
	uint64_t nmi;            /* an NMI came while the switcher ran */
};
#endif

#endif
