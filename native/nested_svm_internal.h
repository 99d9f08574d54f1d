/* What the files of the svm front-end share. */
#ifndef NV_NESTED_SVM_INTERNAL_H
#define NV_NESTED_SVM_INTERNAL_H

#include "nested_machines.h"
#include "svm_internal.h"

/* Fields of virtual_interrupt (AMD APM vol. 2, 15.21). */
#define V_PRIORITY(field) ((field) >> 16 & 15)
#define V_VECTOR(field) ((uint8_t)((field) >> 32))

#define EXIT_INVALID (~0ull)
#define EXIT_DR_FIRST 0x20       /* of moves to and from debug registers */
#define EXIT_DR_LAST 0x3f        /* of moves to and from control and debug registers */
#define MOVED_REGISTER (1ull << 63) /* EXITINFO1 has its number, of a move to or from a control register */

#define TLB_FLUSH_ALL 1          /* of tlb_control */

/* nested_svm_npt.c: of tables in SVM's format. */
extern const struct nv_nested_ops nv_nested_svm_ops;

/* nested_svm_owner.c: the machine whose guest's exit this is; NULL: L0's, or a Python level's. wants: whether it is this machine's. */
struct nv_machine *nv_nested_owner(struct nv_nested *nested, uint64_t code, uint64_t info_1);
int nv_nested_wants(struct nv_nested *nested, struct nv_machine *machine, uint64_t code, uint64_t info_1);

/* The code that the exit has for the machine: a write of CR0 that was stopped for another one is by its own intercept. */
uint64_t nv_nested_code(const struct nv_machine *machine, uint64_t code);

/* Where the map has what blocks want of reads of this MSR, as the number of a bit, and then of writes; NV_NESTED_NO_BIT: beyond the map, where
 * they get all or none. */
enum { NV_NESTED_NO_BIT = -1 };
int nv_nested_msr_bit(uint32_t index);

/* nested_svm_route.c: what becomes of an interrupt or NMI for a machine. */
enum nv_nested_turn {
	NV_TURN_BLOCKED,             /* it waits for the machine's or its guest's GIF */
	NV_TURN_WAITS,               /* it waits for the active machine's RFLAGS.IF, or the end of its interrupt shadow */
	NV_TURN_TAKES,               /* the active machine takes it by its IDT */
	NV_TURN_EXITS,               /* it is an exit to `machine` */
	NV_TURN_TELLS,               /* it is an event of the Python levels that `machine` is the guest of */
};

struct nv_nested_route {
	enum nv_nested_turn turn;
	struct nv_machine *machine;  /* of NV_TURN_EXITS and NV_TURN_TELLS, and of NV_TURN_WAITS if it would be one */
	uint8_t told;                /* it is, or would be, NV_TURN_TELLS */
	uint8_t masked;              /* the active machine's RFLAGS.IF does not count */
};

/* arrives: it comes from below the machine; else it is the machine's already. */
struct nv_nested_route nv_nested_route(const struct nv_nested *nested, struct nv_machine *machine, int arrives);
struct nv_nested_route nv_nested_route_nmi(const struct nv_nested *nested, struct nv_machine *machine, int arrives);

/* The machine whose block's V_TPR CR8 of the active machine is: a block without V_INTR_MASKING leaves that of the machine below. NULL: it
 * is none's. */
struct nv_machine *nv_nested_prioritizes(const struct nv_nested *nested);

/* nested_svm_run.c: VMRUN and #VMEXIT. run: of a block, which is at `address` in the active machine's memory. reflect: the active machine
 * stops for an exit of `to`'s guest. */
void nv_nested_run(struct nv_nested *nested, struct nv_vmcb *block, uint64_t address, uint64_t next_rip);
void nv_nested_reflect(struct nv_nested *nested, struct nv_machine *to, const struct nv_nested_exit *exit);
void nv_nested_activate(struct nv_nested *nested, struct nv_machine *machine);

/* nested_svm_exit.c: exits that are one machine's for sure. They are due: the machine takes them when they come from the table as events.
 * exit: whether the exit of the active machine is one now. fault: 1 when the nested page fault is, or is filled; 0 when it is for the
 * levels below. */
int nv_nested_exit(struct nv_nested *nested);
void nv_nested_owe(struct nv_nested *nested, struct nv_machine *to, const struct nv_nested_exit *exit);
int nv_nested_fault(struct nv_nested *nested, uint64_t error, uint64_t address);

/* nested_svm_take.c. wanted: some machine's block asks for such exits. first: one of them takes the exit before any Python level. undo: a
 * port access that has happened is undone and becomes an exit. */
int nv_nested_wanted(const struct nv_nested *nested, uint64_t code);
int nv_nested_first(struct nv_nested *nested);
int nv_nested_undo(struct nv_nested *nested);

/* Whether the place is another machine's to give, or a Python level's: then that is due. */
int nv_nested_refused(struct nv_nested *nested, const struct nv_nested_place *place, uint64_t kind);

/* Whether the exit is one of a machine's code where there is no memory. A processor reads ones there, which are an undefined instruction;
 * KVM, left to it, gives up. */
int nv_nested_fetches_nothing(struct nv_nested *nested);

/* L0 raises an exception, of error code 0 if any, for what the active machine did: it takes that, or it is an exit. */
void nv_nested_raise(struct nv_nested *nested, int vector, int has_error_code);

/* nested_svm_filter.c: whether an exit is one for an intercept that does not mean all. selects: of the selective write of CR0. pause: of PAUSE by
 * the machine's guest. */
int nv_nested_selects(struct nv_nested *nested);
int nv_nested_pause(struct nv_nested *nested, struct nv_machine *machine);

/* nested_svm_assist.c. assist: the exit's EXITINFO1, `info` where decode assists say nothing. tell_bytes: the code that a page fault (with this
 * error code) stopped goes to the block. */
uint64_t nv_nested_assist(struct nv_nested *nested, uint64_t code, const struct nv_event *event, uint64_t info);
void nv_nested_tell_bytes(struct nv_nested *nested, uint64_t code, uint64_t error, struct nv_vmcb *to);

/* nested_svm_interrupt.c: before an entry. deliver: interrupts and NMIs become exits, or what the active machine takes. waits: something must
 * stop the active machine once it takes interrupts. tell: 1 when the event, as EVENTINJ, is one that Python levels have as it comes to the
 * machine, and becomes svm->synthetic. urgent: or at once, behind what it takes now. window: one that a Python level above an
 * image waits for is open, and becomes svm->synthetic. stops: while KVM holds level n, it is to come out for what such levels want. */
void nv_nested_deliver(struct nv_nested *nested);
int nv_nested_tell(struct nv_nested *nested, const struct nv_machine *machine, uint64_t event);
int nv_nested_window(struct nv_nested *nested);
int nv_nested_stops(struct nv_nested *nested);
int nv_nested_waits(struct nv_nested *nested);
int nv_nested_urgent(struct nv_nested *nested);

/* Whether no machine has anything to take, or to wait for. */
int nv_nested_idle(struct nv_nested *nested);

/* nested_svm_gif.c: where the processor can keep the active machine's GIF it does STGI and CLGI itself, as long as nothing waits for GIF to change. An
 * interrupt stops it then: L0 has that from there. compose: before an entry, of a block that is composed otherwise. read: after an exit.
 * kept: L0 does not know the GIF. */
void nv_nested_compose_gif(struct nv_nested *nested);
void nv_nested_read_gif(struct nv_nested *nested);
int nv_nested_gif_kept(const struct nv_nested *nested);

/* nested_svm_ahead.c: the active machine, outside, goes on to an instruction of SVM's without being entered: the block tells of it as of an exit
 * then. Gives 0 when it has to be entered. idle: as nv_nested_idle says. */
int nv_nested_go_ahead(struct nv_nested *nested, int idle);

/* nested_svm_compose.c: before an entry, after the block has what L0 wants. */
void nv_nested_compose(struct nv_nested *nested);

/* Whether the active machine's tables are others than it was entered with: someone has looked at its memory since, and they were full. */
int nv_nested_moved(const struct nv_nested *nested);

/* What the machine's block intercepts goes on top of what the machines below it do; machine d's maps are at depth d. Gives 1 when one of the
 * permissions maps that its block needs lies where a machine below has not given it memory: place says which. */
int nv_nested_compose_maps(struct nv_nested *nested, struct nv_machine *machine, struct nv_nested_place *place);

/* Whether the exit is for an access to a port or MSR of which some machine's map says something else than when the maps were composed: they
 * are composed anew. */
int nv_nested_remap(struct nv_nested *nested);

#endif
