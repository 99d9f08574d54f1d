/* Level n executes one instruction under a trap flag that is L0's: what the instruction would tell of the flag, or do with it. */
#ifndef NV_TRAP_FLAG_H
#define NV_TRAP_FLAG_H

#include "fetch.h"

enum nv_trapped {
	NV_TRAPPED_PLAIN,
	NV_TRAPPED_ENABLES,      /* STI: processors differ in whether a trap comes behind it */
	NV_TRAPPED_HALTS,        /* HLT: the trap would end it at once */
	NV_TRAPPED_INTERRUPTS,   /* INTn: pushes the flag, and no trap comes */
	NV_TRAPPED_BREAKS,       /* INT1: likewise, by a #DB of its own */
	NV_TRAPPED_PUSHES,       /* PUSHF */
	NV_TRAPPED_LOADS,        /* POPF, IRET: the flag is level n's afterwards */
	NV_TRAPPED_CALLS,        /* SYSCALL: R11 has the flag, and SFMASK may keep the trap away */
	NV_TRAPPED_RETURNS,      /* SYSRET: the flag is R11's, and the trap comes by that */
};

struct nv_trap_flag {
	uint64_t kept;           /* SFMASK or R11 as level n has it */
	uint8_t kind;            /* enum nv_trapped */
	uint8_t vector;          /* of NV_TRAPPED_INTERRUPTS */
	uint8_t length;          /* of the instruction; 0: not known, of a plain one */
	uint8_t own;             /* level n had the flag set itself; after the instruction: a trap of its own comes */
};

/* What is at RIP. Behind MOV SS and POP SS, which let no trap come, it is the next instruction. */
void nv_trap_look(struct nv_trap_flag *trap, struct nv_paging *paging, const struct nv_code *code);

/* STI, by these privileges, if it does nothing but set RFLAGS.IF. Gives 1 when it does: level n's registers are those behind it. opens: no
 * interrupt comes before the next instruction. */
int nv_trap_enable(const struct nv_trap_flag *trap, uint64_t *regs, uint64_t cr0, int cpl, int *opens);

/* Sets the flag in level n's general registers, for what `kind` says. vcpu_fd: KVM's, which has SFMASK. */
void nv_trap_set(struct nv_trap_flag *trap, int vcpu_fd, uint64_t *regs);

/* The instruction has executed, or has not: the registers are as without L0's flag. */
void nv_trap_clear(struct nv_trap_flag *trap, int vcpu_fd, uint64_t *regs, int executed);

/* Takes the flag from what PUSHF has pushed. base, big: of the stack segment; not looked at in 64-bit code. */
void nv_trap_clean(struct nv_paging *paging, const struct nv_code *code, uint64_t base, int big, uint64_t rsp);

#endif
