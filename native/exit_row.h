/* One row of an engine's table of exit codes: how an exit of the processor reads in the neutral vocabulary.
 * nestvmm/x86/exit_row.py has the same with names and explanations (compared by tests/x86/test_exit_tables.py). */
#ifndef NV_EXIT_ROW_H
#define NV_EXIT_ROW_H

#include <stdint.h>

/* Where an event's qualifier is. "Information" is EXITINFO1 of SVM, the exit qualification of VMX. */
#define NV_FROM_NOTHING 0
#define NV_FROM_ROW 1      /* the row's value */
#define NV_FROM_CODE 2     /* the exit code */
#define NV_FROM_CODE_4 3   /* its bits 3:0 */
#define NV_FROM_CODE_5 4   /* its bits 4:0 */
#define NV_FROM_RAX 5
#define NV_FROM_EAX 6
#define NV_FROM_ECX 7
#define NV_FROM_INFORMATION 8
#define NV_FROM_PORT 9     /* bits 31:16 of the information */
#define NV_FROM_SELECTOR 10 /* bits 15:0 of the information */
#define NV_FROM_OFFSET 11  /* bits 11:0 of the information */
#define NV_FROM_VECTOR 12  /* bits 7:0 of the information; VMX exceptions: of the interruption information */
#define NV_FROM_REGISTER 13 /* VMX: bits 3:0 of the information */
#define NV_FROM_TABLE 14   /* VMX: the row's value + bit 28 of the instruction information */
#define NV_FROM_PHYSICAL 15 /* SVM: EXITINFO2; VMX: the guest-physical address */

struct nv_exit_row {
	uint8_t reason;          /* enum nv_reason; NV_REASON_UNKNOWN for codes without a row */
	uint8_t other;           /* the reason when the information says so: a write, or an NMI; 0: there is none */
	uint8_t direction;       /* NV_READ until the information says what, where it does */
	uint8_t source;          /* NV_FROM_* */
	uint8_t length;          /* bytes of the instruction's shortest form; 0: the exit is no instruction's */
	uint32_t value;
};

#endif
