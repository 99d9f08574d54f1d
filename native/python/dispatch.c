#include "dispatch.h"

#include <stddef.h>
#include <structmember.h>

#include "answer.h"
#include "effects.h"
#include "object.h"
#include "presenter.h"
#include "state.h"
#include "vcpu.h"

/* The loop does what is ordinary: a handler that has handled an event of one element at most. All else it leaves to
 * nestvmm/nesting/runner.py, which goes on from `event` and `result`. */
struct dispatch {
	PyObject_HEAD
	PyObject *owner;               /* of the vCPU's memory */
	struct nv_vcpu *vcpu;
	int (*run)(struct nv_vcpu *vcpu);      /* nv_vcpu_run and nv_vcpu_finish, which are in another extension */
	void (*finish)(struct nv_vcpu *vcpu);
	struct nv_state *state;
	struct nv_effects *effects;
	struct nv_presenter presenter;
	PyTypeObject *result_type;
	PyObject *handled;             /* the outcome of an event that is done */
	PyObject *handlers;            /* by slot; None: no handler in Python */
	PyObject *event;               /* as its handler saw it, NULL when none was asked */
	PyObject *result;              /* the handler's answer, whatever it is */
	char stale;                    /* the table is not that of the claims any more */
	char in_parts;                 /* the pending event may be the rest of another one */
	char listened;                 /* somebody wants to hear of effects */
	char running;
};

static struct dispatch *of(PyObject *self)
{
	return (struct dispatch *)self;
}

/* The handler whose turn it is; NULL: it is not in Python. */
static PyObject *handler_of(const struct dispatch *self)
{
	uint16_t slot = self->vcpu->event.slot;
	PyObject *handler;

	if (slot >= PyTuple_GET_SIZE(self->handlers))
		return NULL;
	handler = PyTuple_GET_ITEM(self->handlers, slot);
	return handler == Py_None ? NULL : handler;
}

/* Nobody was asked. */
static void forget(struct dispatch *self)
{
	PyObject *event = self->event;

	self->event = NULL;
	nv_presenter_take(&self->presenter, event);
	Py_CLEAR(self->result);
}

/* Calls it, and a method's function at once: with an object of its own for both, that costs as much as ten instructions of a handler. */
static PyObject *call(PyObject *handler, PyObject *event)
{
	PyObject *arguments[3] = {NULL, NULL, event};

	if (!Py_IS_TYPE(handler, &PyMethod_Type))
		return PyObject_Vectorcall(handler, &arguments[2], 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
	arguments[1] = PyMethod_GET_SELF(handler);
	return PyObject_Vectorcall(PyMethod_GET_FUNCTION(handler), &arguments[1], 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

/* Asks the handler. When it raises, `event` says what it was asked. */
static int ask(struct dispatch *self)
{
	PyObject *handler = Py_XNewRef(handler_of(self));

	forget(self);
	if (!handler) {
		PyErr_SetString(PyExc_RuntimeError, "no handler in Python has the pending event");
		return -1;
	}
	/* the event stays while its handler runs: `running` sees to that */
	self->event = nv_present(&self->presenter, &self->vcpu->event, self->vcpu->event.handler);
	if (self->event)
		self->result = call(handler, self->event);
	Py_DECREF(handler);
	return self->result ? 0 : -1;
}

/* Whether the answer is one that the loop gives itself. A value that has to be asked for its number might change registers. */
static int ordinary(const struct dispatch *self)
{
	const struct nv_event *event = &self->vcpu->event;

	return Py_IS_TYPE(self->result, self->result_type) && PyTuple_GET_SIZE(self->result) >= NV_ANSWER_LOOKED_AT &&
	       PyTuple_GET_ITEM(self->result, NV_ANSWER_OUTCOME) == self->handled &&
	       PyLong_Check(PyTuple_GET_ITEM(self->result, NV_ANSWER_VALUE)) && !self->stale &&
	       !(event->size && (event->count != 1 || self->listened)) && nv_state_settles(self->state);
}

/* The value that moved: what a write has, or what a read gets of `value`. -1: an exception is set. */
static int take(struct nv_event *event, PyObject *value, uint64_t *moved)
{
	*moved = event->value;
	if (event->count == 1 && event->direction == NV_WRITE)
		return 0;
	*moved = PyLong_AsUnsignedLongLongMask(value);
	if (*moved == ~0ull && PyErr_Occurred())
		return -1;
	if (event->size < 8)
		*moved &= (1ull << 8 * event->size) - 1;
	if (event->count == 1)
		event->value = *moved;
	return 0;
}

/* Gives level n the answer, and keeps the effect. */
static int complete(struct dispatch *self, PyObject *value, uint64_t *moved)
{
	struct nv_event *event = &self->vcpu->event;
	const struct nv_effect_key key = {
		.qualifier = self->presenter.key,
		.reason = event->reason,
		.write = event->direction == NV_WRITE,
		.handler = event->handler,
		.cause = event->level,
	};

	if (take(event, value, moved))
		return -1;
	if (!event->retry)
		nv_effects_record(self->effects, &key, *moved);
	return 0;
}

/* Carries what the handler changed of the registers to level n, after the event's own answer. */
static void settle(struct dispatch *self)
{
	if (nv_state_changed(self->state)) {
		self->finish(self->vcpu);
		nv_state_write(self->state);
	}
	nv_state_forget(self->state);
}

static int loop(struct dispatch *self)
{
	uint64_t moved;
	int status;

	for (;;) {
		forget(self);
		Py_BEGIN_ALLOW_THREADS
		status = self->run(self->vcpu);
		Py_END_ALLOW_THREADS
		if (status || self->in_parts || !handler_of(self))
			return status;
		if (ask(self))
			return -1;
		if (!ordinary(self))
			return status;
		if (self->vcpu->event.size && complete(self, PyTuple_GET_ITEM(self->result, NV_ANSWER_VALUE), &moved))
			return -1;
		settle(self);
	}
}

/* A handler that runs the loop which runs it would take away its own event. */
static int begin(struct dispatch *self)
{
	if (!self->vcpu || self->running) {
		PyErr_SetString(PyExc_RuntimeError, self->vcpu ? "a handler cannot run what runs it" : "no vCPU is given");
		return -1;
	}
	self->running = 1;
	return 0;
}

static PyObject *run(PyObject *self, PyObject *Py_UNUSED(nothing))
{
	int status;

	if (begin(of(self)))
		return NULL;
	status = loop(of(self));
	of(self)->running = 0;
	return PyErr_Occurred() ? NULL : PyLong_FromLong(status);
}

static PyObject *ask_again(PyObject *self, PyObject *Py_UNUSED(nothing))
{
	int status;

	if (begin(of(self)))
		return NULL;
	status = ask(of(self));
	of(self)->running = 0;
	return status ? NULL : Py_NewRef(Py_None);
}

static PyObject *present_at(PyObject *self, PyObject *level)
{
	long number = PyLong_AsLong(level);

	if (number == -1 && PyErr_Occurred())
		return NULL;
	if (!of(self)->vcpu || number < 0 || number >= UINT8_MAX)
		return PyErr_Format(PyExc_ValueError, "level %ld is not within 0 to 254, or no vCPU is given", number);
	return nv_present(&of(self)->presenter, &of(self)->vcpu->event, number);
}

static PyObject *complete_with(PyObject *self, PyObject *value)
{
	uint64_t moved;

	if (!of(self)->vcpu) {
		PyErr_SetString(PyExc_RuntimeError, "no vCPU is given");
		return NULL;
	}
	return complete(of(self), value, &moved) ? NULL : PyLong_FromUnsignedLongLong(moved);
}

static PyObject *get_handlers(PyObject *self, void *Py_UNUSED(nothing))
{
	return Py_NewRef(of(self)->handlers ? of(self)->handlers : Py_None);
}

static int set_handlers(PyObject *self, PyObject *handlers, void *Py_UNUSED(nothing))
{
	if (!handlers || !PyTuple_CheckExact(handlers)) {
		PyErr_SetString(PyExc_TypeError, "the handlers by slot are a tuple");
		return -1;
	}
	Py_XSETREF(of(self)->handlers, Py_NewRef(handlers));
	return 0;
}

/* Addresses of what the other extension has come as integers. */
static int init(PyObject *self, PyObject *args, PyObject *named)
{
	static char *names[] = {"owner", "vcpu", "run", "finish", "state", "effects", "event", "result",
				"handled", "reasons", "carries", "carry", NULL};
	unsigned long long vcpu, run, finish;
	PyObject *owner, *state, *effects, *event, *result, *handled, *reasons, *carries, *carry;
	struct dispatch *dispatch = of(self);

	if (dispatch->vcpu) {
		PyErr_SetString(PyExc_RuntimeError, "a Dispatch is for one vCPU");
		return -1;
	}
	if (!PyArg_ParseTupleAndKeywords(args, named, "OKKKO!O!O!O!OO!O!O", names, &owner, &vcpu, &run, &finish, nv_state_type,
					 &state, nv_effects_type, &effects, &PyType_Type, &event, &PyType_Type, &result,
					 &handled, &PyTuple_Type, &reasons, &PyTuple_Type, &carries, &carry))
		return -1;
	if (!PyType_IsSubtype((PyTypeObject *)event, &PyTuple_Type) || !PyType_IsSubtype((PyTypeObject *)result, &PyTuple_Type) ||
	    PyTuple_GET_SIZE(reasons) != PyTuple_GET_SIZE(carries) || !vcpu || !run || !finish) {
		PyErr_SetString(PyExc_ValueError, "events and results are tuples, each reason is carried or not, and none is NULL");
		return -1;
	}
	dispatch->handlers = PyTuple_New(0);
	if (!dispatch->handlers)
		return -1;
	dispatch->owner = Py_NewRef(owner);
	dispatch->run = (int (*)(struct nv_vcpu *))(uintptr_t)run;
	dispatch->finish = (void (*)(struct nv_vcpu *))(uintptr_t)finish;
	dispatch->state = (struct nv_state *)Py_NewRef(state);
	dispatch->effects = (struct nv_effects *)Py_NewRef(effects);
	dispatch->presenter.type = (PyTypeObject *)Py_NewRef(event);
	dispatch->result_type = (PyTypeObject *)Py_NewRef(result);
	dispatch->handled = Py_NewRef(handled);
	dispatch->presenter.reasons = Py_NewRef(reasons);
	dispatch->presenter.carries = Py_NewRef(carries);
	dispatch->presenter.carry = Py_NewRef(carry);
	dispatch->vcpu = (struct nv_vcpu *)(uintptr_t)vcpu;
	return 0;
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
	const struct dispatch *dispatch = of(self);

	Py_VISIT(Py_TYPE(self));
	Py_VISIT(dispatch->owner);
	Py_VISIT(dispatch->state);
	Py_VISIT(dispatch->effects);
	Py_VISIT(dispatch->presenter.type);
	Py_VISIT(dispatch->presenter.spare);
	Py_VISIT(dispatch->result_type);
	Py_VISIT(dispatch->handled);
	Py_VISIT(dispatch->presenter.reasons);
	Py_VISIT(dispatch->presenter.carries);
	Py_VISIT(dispatch->presenter.carry);
	Py_VISIT(dispatch->handlers);
	Py_VISIT(dispatch->event);
	Py_VISIT(dispatch->result);
	return 0;
}

static int clear(PyObject *self)
{
	struct dispatch *dispatch = of(self);

	/* what says that the rest is there */
	dispatch->vcpu = NULL;
	Py_CLEAR(dispatch->owner);
	Py_CLEAR(dispatch->state);
	Py_CLEAR(dispatch->effects);
	Py_CLEAR(dispatch->presenter.type);
	Py_CLEAR(dispatch->presenter.spare);
	Py_CLEAR(dispatch->result_type);
	Py_CLEAR(dispatch->handled);
	Py_CLEAR(dispatch->presenter.reasons);
	Py_CLEAR(dispatch->presenter.carries);
	Py_CLEAR(dispatch->presenter.carry);
	Py_CLEAR(dispatch->handlers);
	Py_CLEAR(dispatch->event);
	Py_CLEAR(dispatch->result);
	return 0;
}

static void release(PyObject *self)
{
	PyObject_GC_UnTrack(self);
	clear(self);
	nv_free(self);
}

static PyMethodDef methods[] = {
	{"run", run, METH_NOARGS,
	 "Runs level n, and has Python handlers handle its events, until a RunStatus.\n\n"
	 "After EVENT, `event` and `result` are None where nobody was asked yet. Raises what a handler raised to `event`, which\n"
	 "is None when it is another error."},
	{"ask", ask_again, METH_NOARGS, "Asks the handler whose turn it is, for `event` and `result`. Raises as `run`."},
	{"present", present_at, METH_O,
	 "The pending event as caused by this level + 1, in the coordinates of the hypervisor at this level."},
	{"complete", complete_with, METH_O,
	 "Gives level n the answer to the event that was asked about, unless it is a string, and keeps the effect.\n\n"
	 "value:  what a read gets; of a string, what its last element has. Gives what moved."},
	{NULL},
};

static PyMemberDef members[] = {
	{"event", T_OBJECT, offsetof(struct dispatch, event), READONLY, "The pending event as its handler was asked; or None."},
	{"result", T_OBJECT, offsetof(struct dispatch, result), READONLY, "The handler's answer, whatever it is; or None."},
	{"stale", T_BOOL, offsetof(struct dispatch, stale), 0, "Whether the claims are others than the table's: `run` comes back."},
	{"in_parts", T_BOOL, offsetof(struct dispatch, in_parts), 0, "Whether the next event may be the rest of the last one."},
	{"listened", T_BOOL, offsetof(struct dispatch, listened), 0, "Whether somebody wants to hear of effects."},
	{NULL},
};

static PyGetSetDef getters[] = {
	{"handlers", get_handlers, set_handlers, "A tuple of the handlers by slot; None: that is not served in Python.", NULL},
	{NULL},
};

static PyType_Slot slots[] = {
	{Py_tp_doc, "The run loop of a vCPU whose events Python handles.\n\n"
		    "owner:    keeps alive the struct nv_vcpu at the address `vcpu`\n"
		    "run, finish:  the addresses of nv_vcpu_run and nv_vcpu_finish\n"
		    "state:    the RegisterState of the pending event\n"
		    "effects:  an EffectTable\n"
		    "event, result:  the classes; `handled` is the outcome of an event that is done\n"
		    "reasons:  by number; and in `carries`, whether an event's qualifier is an address in some level's terms\n"
		    "carry:    (space, address, level) gives it as that level sees it, or None"},
	{Py_tp_init, init},
	{Py_tp_traverse, traverse},
	{Py_tp_clear, clear},
	{Py_tp_dealloc, release},
	{Py_tp_methods, methods},
	{Py_tp_members, members},
	{Py_tp_getset, getters},
	{0, NULL},
};

static PyType_Spec spec = {
	.name = "nestvmm._dispatch.Dispatch",
	.basicsize = sizeof(struct dispatch),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
	.slots = slots,
};

int nv_dispatch_add(PyObject *module)
{
	PyTypeObject *type = nv_type_add(module, &spec);

	Py_XDECREF(type);
	return type ? 0 : -1;
}
