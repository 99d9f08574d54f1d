/* Makes nestvmm.x86.event.Event of a struct nv_event. */
#ifndef NV_PYTHON_PRESENTER_H
#define NV_PYTHON_PRESENTER_H

#include <Python.h>
#include <stdint.h>

#include "event.h"

struct nv_presenter {
	PyTypeObject *type;      /* Event: a tuple with names */
	PyObject *reasons;       /* by number */
	PyObject *carries;       /* by number: whether a qualifier is an address, which each level sees in its own way */
	PyObject *carry;         /* and what carries it: (space, address, level) gives the address or None */
	PyObject *spare;         /* an event that nobody holds any more: the next one differs from it in little */
	PyObject *shown;         /* the event that was made last: not held, to be compared only */
	struct nv_event of;      /* what it shows, */
	int level;               /* to this level */
	uint64_t key;            /* what the last one is about, as effects are kept */
};

/* The event as caused by level `level` + 1, in the coordinates of the hypervisor at `level`. NULL: an exception is set. */
PyObject *nv_present(struct nv_presenter *presenter, const struct nv_event *event, int level);

/* Gives up a reference to an event that was made here; NULL: to none. */
void nv_presenter_take(struct nv_presenter *presenter, PyObject *made);

#endif
