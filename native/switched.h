/* What the svm and the vmx engine have in common: level n runs under a control block in the switcher, which rings for what the
 * block intercepts. Level n is outside then: its registers are in the mailbox. Otherwise KVM holds them. */
#ifndef NV_SWITCHED_H
#define NV_SWITCHED_H

#include <linux/kvm.h>

#include "exception.h"
#include "fetch.h"
#include "pending.h"
#include "shadow.h"
#include "switcher/mailbox.h"
#include "trap_flag.h"
#include "vcpu.h"

/* The debug events that levels claim of level n: behind each instruction, also those of its handlers; INT3. */
#define NV_DEBUG_STEPS 1
#define NV_DEBUG_BREAKS 2

/* Of `stepped`. */
enum { NV_STEPPED_NOT, NV_STEPPED, NV_STEPPED_TOLD };

struct nv_switched {
	struct nv_mailbox *mailbox;
	struct nv_shadow *shadow; /* level n's nested page tables */
	struct kvm_userspace_memory_region tables; /* the memory slot that they are in */
	struct nv_paging *paging; /* the walk through level n's own page tables */
	struct nv_pending pending;
	int vm_fd;
	uint32_t faulted;        /* the access (NV_RIGHT_*) at fault_address that level n's maps did not allow; 0: none */
	uint64_t fault_address;
	uint8_t operand;         /* general register that the pending access to a control or debug register moves */
	uint8_t rung;            /* the last exit came by the doorbell */
	uint8_t debug;           /* NV_DEBUG_* */
	uint8_t stepped;         /* level n is behind an instruction: an event, with NV_DEBUG_STEPS; told: the pending one */
	uint8_t recalling;       /* the next NMI is nv_switched_summon's; one of level n's that comes with it is lost */
};

/* As nv_direct_enter, after KVM has forgotten what it knows of nested page tables that lost an entry. Sets `rung`. -EIO when the switcher
 * has failed. */
int nv_switched_enter(struct nv_vcpu *vcpu);

/* Level n, outside, was stopped by its nested page tables: whether they allow the access (NV_RIGHT_*) now. */
int nv_switched_fill(struct nv_switched *switched, uint64_t address, uint32_t access);

/* As nv_direct_decode, with level n's addresses. */
void nv_switched_decode(struct nv_vcpu *vcpu, struct nv_event *event);

/* The answer to a read of an MSR, or of a control or debug register, in level n's registers. */
void nv_switched_answer(struct nv_switched *switched, const struct nv_event *event);

/* Level n's RIP at the exit: as nv_direct_rip, or in the mailbox. */
uint64_t nv_switched_rip(const struct nv_vcpu *vcpu);

/* Whether level n's registers are in the mailbox and its control block is L0's to change. */
int nv_switched_outside(const struct nv_switched *switched);

/* Whether the exit that KVM_RUN just gave is the doorbell; level n's own access to that port is not. */
int nv_switched_rang(const struct nv_vcpu *vcpu);

/* The exit that KVM_RUN just gave is a store to a device: KVM has done the instruction, or an element of it. */
int nv_switched_stores(const struct nv_vcpu *vcpu);

/* Level n is outside before its next instruction: its next entry ends by an NMI, which the control block always intercepts. */
int nv_switched_summon(struct nv_vcpu *vcpu);

/* Level n leaves guest mode for the doorbell before its next instruction, after an exit that KVM served to userspace directly and
 * that is settled: by an NMI, which the control block always intercepts. -EIO when something else comes first. */
int nv_switched_recall(struct nv_vcpu *vcpu);

#endif
