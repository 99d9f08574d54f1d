/* #UD that an engine intercepted, as an event: instructions that the processor lacks are emulated, those of a level's choice are its. */
#ifndef NV_UNDEFINED_H
#define NV_UNDEFINED_H

#include "fetch.h"
#include "table.h"

/* event: exception 6 at `code`. It becomes an emulation failure with the instruction's bytes if a level, or an emulator of L0's, claims
 * that of such an instruction; else it stays what it is, with the bytes. */
void nv_undefined(const struct nv_table *table, struct nv_paging *paging, const struct nv_code *code, struct nv_event *event);

#endif
