/* Level n's registers during one event. */
#ifndef NV_PYTHON_STATE_H
#define NV_PYTHON_STATE_H

#include <Python.h>
#include <stdint.h>

#include "switcher/mailbox.h"

/* Read once when a handler asks, written once when the event is done, and only what a handler changed. In a switcher's mailbox that is
 * done here; else the engine is asked, in Python. */
struct nv_state {
	PyObject_HEAD
	PyObject *engine;
	PyTypeObject *kind;          /* what handlers get: derived from nv_registers_type */
	PyObject *lent;              /* what a handler got last; it is lent again when nobody holds it any more */
	struct nv_mailbox *mailbox;  /* NULL: this engine has none */
	uint64_t seen[NV_REGS];      /* at the exit, in the order of struct kvm_regs */
	uint64_t now[NV_REGS];       /* with the changes, if there are any */
	uint32_t changes;            /* one bit for each register that a handler set otherwise */
	char known;                  /* seen is filled in */
	char more;                   /* other state than these registers is to be written, too: Python knows what */
};

extern PyTypeObject *nv_state_type;

/* General registers with the changes so far: a copy. NULL: an exception is set. */
PyObject *nv_state_regs(struct nv_state *state);

/* Keeps what differs from the registers at the exit. Gives None; NULL: an exception is set. */
PyObject *nv_state_set_regs(struct nv_state *state, PyObject *regs);

/* Whether nv_state_write can carry the changes to level n, if there are any. */
int nv_state_settles(const struct nv_state *state);

/* Whether a handler looked at registers or changed something. */
int nv_state_touched(const struct nv_state *state);

/* Whether something is to be written. */
int nv_state_changed(const struct nv_state *state);

/* Writes the changes; the pending event is completed. */
void nv_state_write(const struct nv_state *state);

/* The next event starts afresh. */
void nv_state_forget(struct nv_state *state);

int nv_state_add(PyObject *module);

#endif
