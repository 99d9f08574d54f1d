#include "view.h"

#include "object.h"
#include "state.h"

/* Every level has the registers of level n: a view only leads to them, without a call in Python. */
struct view {
	PyObject_HEAD
	struct nv_state *state;
};

static struct nv_state *state_of(PyObject *self)
{
	struct nv_state *state = ((struct view *)self)->state;

	if (!state)
		PyErr_SetString(PyExc_RuntimeError, "this view is of no registers");
	return state;
}

static PyObject *regs(PyObject *self, void *Py_UNUSED(nothing))
{
	struct nv_state *state = state_of(self);

	return state ? nv_state_regs(state) : NULL;
}

static PyObject *set_regs(PyObject *self, PyObject *regs)
{
	struct nv_state *state = state_of(self);

	return state ? nv_state_set_regs(state, regs) : NULL;
}

static int init(PyObject *self, PyObject *args, PyObject *named)
{
	static char *names[] = {"state", NULL};
	PyObject *state;

	if (!PyArg_ParseTupleAndKeywords(args, named, "O!", names, nv_state_type, &state))
		return -1;
	Py_XSETREF(((struct view *)self)->state, (struct nv_state *)Py_NewRef(state));
	return 0;
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(self));
	Py_VISIT(((struct view *)self)->state);
	return 0;
}

static int clear(PyObject *self)
{
	Py_CLEAR(((struct view *)self)->state);
	return 0;
}

static void release(PyObject *self)
{
	PyObject_GC_UnTrack(self);
	clear(self);
	nv_free(self);
}

static PyGetSetDef getters[] = {
	{"regs", regs, NULL, "General registers: a copy, whose values wrap at 64 bits.", NULL},
	{NULL},
};

static PyMethodDef methods[] = {
	{"set_regs", set_regs, METH_O, "Replaces the general registers, RIP and RFLAGS."},
	{NULL},
};

static PyType_Slot slots[] = {
	{Py_tp_doc, "The general registers of a RegisterState."},
	{Py_tp_init, init},
	{Py_tp_traverse, traverse},
	{Py_tp_clear, clear},
	{Py_tp_dealloc, release},
	{Py_tp_getset, getters},
	{Py_tp_methods, methods},
	{0, NULL},
};

static PyType_Spec spec = {
	.name = "nestvmm._dispatch.RegisterView",
	.basicsize = sizeof(struct view),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
	.slots = slots,
};

int nv_view_add(PyObject *module)
{
	PyTypeObject *type = nv_type_add(module, &spec);

	Py_XDECREF(type);
	return type ? 0 : -1;
}
