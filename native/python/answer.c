#include "answer.h"

#include "object.h"

/* Functions that a class has as attributes. CPython looks up a static method at each call, but a built-in function once. */
struct answer {
	PyObject_HEAD
	PyObject *like;          /* the tuple */
	PyObject *lent;          /* what `read` gave last; it is given again when nobody holds it any more */
};

static struct answer *of(PyObject *self)
{
	return (struct answer *)self;
}

static PyObject *same(PyObject *self, PyObject *Py_UNUSED(nothing))
{
	return Py_NewRef(of(self)->like);
}

/* Another tuple like `like`. */
static PyObject *copy(PyObject *like)
{
	Py_ssize_t count = PyTuple_GET_SIZE(like);
	PyObject *made = Py_TYPE(like)->tp_alloc(Py_TYPE(like), count);

	for (Py_ssize_t field = 0; made && field < count; field++)
		PyTuple_SET_ITEM(made, field, Py_NewRef(PyTuple_GET_ITEM(like, field)));
	return made;
}

static PyObject *with_value(PyObject *self, PyObject *value)
{
	PyObject *old, *made = of(self)->lent;

	if (!made || Py_REFCNT(made) != 1) {
		made = copy(of(self)->like);
		if (!made)
			return NULL;
		Py_XSETREF(of(self)->lent, made);
	}
	nv_tuple_forget_hash(made);
	Py_INCREF(made);
	old = PyTuple_GET_ITEM(made, NV_ANSWER_VALUE);
	PyTuple_SET_ITEM(made, NV_ANSWER_VALUE, Py_NewRef(value));
	Py_DECREF(old);
	return made;
}

static PyObject *make(PyTypeObject *type, PyObject *args, PyObject *named)
{
	static char *names[] = {"like", NULL};
	PyObject *like, *made;

	if (!PyArg_ParseTupleAndKeywords(args, named, "O!", names, &PyTuple_Type, &like))
		return NULL;
	if (PyTuple_GET_SIZE(like) < NV_ANSWER_LOOKED_AT) {
		PyErr_SetString(PyExc_ValueError, "an answer has an outcome and a value");
		return NULL;
	}
	made = type->tp_alloc(type, 0);
	if (made)
		of(made)->like = Py_NewRef(like);
	return made;
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(self));
	Py_VISIT(of(self)->like);
	Py_VISIT(of(self)->lent);
	return 0;
}

static int clear(PyObject *self)
{
	/* `like` stays: a function that is still there may be called; a tuple breaks no cycle anyway */
	Py_CLEAR(of(self)->lent);
	return 0;
}

static void release(PyObject *self)
{
	PyObject_GC_UnTrack(self);
	clear(self);
	Py_CLEAR(of(self)->like);
	nv_free(self);
}

static PyMethodDef methods[] = {
	{"same", same, METH_NOARGS, "The answer itself."},
	{"read", with_value, METH_O, "The answer with this value: what the guest reads, truncated to the event's size, repeated per element."},
	{NULL},
};

static PyType_Slot slots[] = {
	{Py_tp_doc, "The functions that give an answer.\n\nlike:  a Result"},
	{Py_tp_new, make},
	{Py_tp_traverse, traverse},
	{Py_tp_clear, clear},
	{Py_tp_dealloc, release},
	{Py_tp_methods, methods},
	{0, NULL},
};

static PyType_Spec spec = {
	.name = "nestvmm._dispatch.Answer",
	.basicsize = sizeof(struct answer),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
	.slots = slots,
};

int nv_answer_add(PyObject *module)
{
	PyTypeObject *type = nv_type_add(module, &spec);

	Py_XDECREF(type);
	if (!type || PyModule_AddIntMacro(module, NV_ANSWER_OUTCOME) || PyModule_AddIntMacro(module, NV_ANSWER_VALUE))
		return -1;
	return 0;
}
