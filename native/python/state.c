#include "state.h"

#include <string.h>
#include <stddef.h>
#include <structmember.h>

#include "object.h"
#include "registers.h"

PyTypeObject *nv_state_type;

/* Where the mailbox has them: by the numbers of the instruction encoding. */
static const uint8_t in_mailbox[NV_REGS] = {
	NV_REG_RAX, NV_REG_RBX, NV_REG_RCX, NV_REG_RDX, 6, 7, NV_REG_RSP, 5, 8, 9, 10, 11, 12, 13, 14, 15, NV_REG_RIP, NV_REG_RFLAGS,
};

static int outside(const struct nv_state *state)
{
	return state->mailbox && state->mailbox->state == NV_SWITCHER_OUTSIDE;
}

int nv_state_touched(const struct nv_state *state)
{
	return state->known || state->more;
}

int nv_state_changed(const struct nv_state *state)
{
	return state->changes || state->more;
}

int nv_state_settles(const struct nv_state *state)
{
	return !state->more && (!state->changes || outside(state));
}

void nv_state_write(const struct nv_state *state)
{
	for (uint32_t left = state->changes; left; left &= left - 1) {
		int number = __builtin_ctz(left);

		state->mailbox->regs[in_mailbox[number]] = state->now[number];
	}
}

void nv_state_forget(struct nv_state *state)
{
	state->changes = 0;
	state->known = state->more = 0;
}

/* The registers as the engine gives them: of a vCPU that KVM holds. */
static int ask_engine(struct nv_state *state)
{
	PyObject *regs;

	if (!state->engine) {
		PyErr_SetString(PyExc_RuntimeError, "this state is of no engine");
		return -1;
	}
	regs = PyObject_CallMethod(state->engine, "regs", NULL);
	if (!regs)
		return -1;
	if (!PyObject_TypeCheck(regs, nv_registers_type)) {
		PyErr_Format(PyExc_TypeError, "an engine's registers are a nestvmm.kvm.Regs, not a %s", Py_TYPE(regs)->tp_name);
		Py_DECREF(regs);
		return -1;
	}
	memcpy(state->seen, ((struct nv_registers *)regs)->words, sizeof state->seen);
	Py_DECREF(regs);
	return 0;
}

static int look(struct nv_state *state)
{
	if (state->known)
		return 0;
	if (outside(state)) {
#pragma GCC unroll 18
		for (int number = 0; number < NV_REGS; number++)
			state->seen[number] = state->mailbox->regs[in_mailbox[number]];
	} else if (ask_engine(state)) {
		return -1;
	}
	state->known = 1;
	return 0;
}

PyObject *nv_state_regs(struct nv_state *state)
{
	const uint64_t *words = state->changes ? state->now : state->seen;

	if (look(state))
		return NULL;
	if (state->lent && Py_REFCNT(state->lent) == 1) {
		nv_registers_set(state->lent, words);
		return Py_NewRef(state->lent);
	}
	Py_XSETREF(state->lent, nv_registers_of(state->kind, words));
	return Py_XNewRef(state->lent);
}

PyObject *nv_state_set_regs(struct nv_state *state, PyObject *regs)
{
	/* what was lent is most often what comes back; to find a base class takes longer */
	if (!Py_IS_TYPE(regs, state->kind) && !PyObject_TypeCheck(regs, nv_registers_type)) {
		PyErr_Format(PyExc_TypeError, "registers are a nestvmm.kvm.Regs, not a %s", Py_TYPE(regs)->tp_name);
		return NULL;
	}
	if (look(state))
		return NULL;
	memcpy(state->now, ((struct nv_registers *)regs)->words, sizeof state->now);
	/* what was changed before stays changed, though it may be as it was again */
#pragma GCC unroll 18
	for (int number = 0; number < NV_REGS; number++)
		state->changes |= (uint32_t)(state->now[number] != state->seen[number]) << number;
	Py_RETURN_NONE;
}

static PyObject *regs(PyObject *self, PyObject *Py_UNUSED(nothing))
{
	return nv_state_regs((struct nv_state *)self);
}

static PyObject *set_regs(PyObject *self, PyObject *regs)
{
	return nv_state_set_regs((struct nv_state *)self, regs);
}

static PyObject *changes(PyObject *self, PyObject *Py_UNUSED(nothing))
{
	const struct nv_state *state = (struct nv_state *)self;
	PyObject *found = PyDict_New();

	for (uint32_t left = state->changes; found && left; left &= left - 1) {
		int number = __builtin_ctz(left);
		PyObject *value = PyLong_FromUnsignedLongLong(state->now[number]);

		if (!value || PyDict_SetItemString(found, nv_register_name(number), value))
			Py_CLEAR(found);
		Py_XDECREF(value);
	}
	return found;
}

static PyObject *forget(PyObject *self, PyObject *Py_UNUSED(nothing))
{
	nv_state_forget((struct nv_state *)self);
	Py_RETURN_NONE;
}

static PyObject *touched(PyObject *self, void *Py_UNUSED(nothing))
{
	return PyBool_FromLong(nv_state_touched((struct nv_state *)self));
}

static PyObject *changed(PyObject *self, void *Py_UNUSED(nothing))
{
	return PyBool_FromLong(nv_state_changed((struct nv_state *)self));
}

static int init(PyObject *self, PyObject *args, PyObject *named)
{
	static char *names[] = {"engine", "kind", "mailbox", NULL};
	struct nv_state *state = (struct nv_state *)self;
	unsigned long long mailbox = 0;
	PyObject *engine, *kind;

	if (!PyArg_ParseTupleAndKeywords(args, named, "OO!K", names, &engine, &PyType_Type, &kind, &mailbox))
		return -1;
	if (!PyType_IsSubtype((PyTypeObject *)kind, nv_registers_type)) {
		PyErr_SetString(PyExc_TypeError, "the kind of registers must be derived from Registers");
		return -1;
	}
	Py_XSETREF(state->engine, Py_NewRef(engine));
	Py_XSETREF(state->kind, (PyTypeObject *)Py_NewRef(kind));
	Py_CLEAR(state->lent);
	state->mailbox = (struct nv_mailbox *)(uintptr_t)mailbox;
	return 0;
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
	const struct nv_state *state = (struct nv_state *)self;

	Py_VISIT(Py_TYPE(self));
	Py_VISIT(state->engine);
	Py_VISIT(state->kind);
	Py_VISIT(state->lent);
	return 0;
}

static int clear(PyObject *self)
{
	struct nv_state *state = (struct nv_state *)self;

	/* `kind` stays: a handler that still has the state may ask */
	Py_CLEAR(state->engine);
	Py_CLEAR(state->lent);
	return 0;
}

static void release(PyObject *self)
{
	PyObject_GC_UnTrack(self);
	clear(self);
	Py_CLEAR(((struct nv_state *)self)->kind);
	nv_free(self);
}

static PyMethodDef methods[] = {
	{"regs", regs, METH_NOARGS, "General registers with the changes so far; a copy."},
	{"set_regs", set_regs, METH_O, "Keeps what differs from the registers at the exit."},
	{"changes", changes, METH_NOARGS, "What is to be written, by name."},
	{"forget", forget, METH_NOARGS, "Drops what was read and what was to be written: the next event starts afresh."},
	{NULL},
};

static PyMemberDef members[] = {
	{"more", T_BOOL, offsetof(struct nv_state, more), 0, "Whether other state than these registers is to be written."},
	{NULL},
};

static PyGetSetDef getters[] = {
	{"touched", touched, NULL, "Whether a handler looked at registers or changed something.", NULL},
	{"changed", changed, NULL, "Whether something is to be written.", NULL},
	{NULL},
};

static PyType_Slot slots[] = {
	{Py_tp_doc, "Level n's registers during one event, of an engine: read once when a handler asks, written back once.\n\n"
		    "kind:     what handlers get: derived from Registers\n"
		    "mailbox:  the address of the switcher's struct nv_mailbox, 0 for an engine without one"},
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
	.name = "nestvmm._dispatch.RegisterState",
	.basicsize = sizeof(struct nv_state),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
	.slots = slots,
};

int nv_state_add(PyObject *module)
{
	nv_state_type = nv_type_add(module, &spec);
	return nv_state_type ? 0 : -1;
}
