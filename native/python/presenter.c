#include "presenter.h"

/* The fields of Event, in their order. */
enum { REASON, LEVEL, QUALIFIER, DIRECTION, SIZE, COUNT, VALUE, DATA, INFO, RAW, INSTRUCTION, LENGTH, FIELDS };

/* The qualifier at `level`; sets the key. */
static PyObject *qualifier_at(struct nv_presenter *presenter, const struct nv_event *event, int level)
{
	PyObject *carried;

	presenter->key = event->qualifier;
	if (PyTuple_GET_ITEM(presenter->carries, event->reason) == Py_False)
		return PyLong_FromUnsignedLongLong(event->qualifier);
	presenter->key |= (uint64_t)event->space << NV_SPACE_SHIFT;
	carried = PyObject_CallFunction(presenter->carry, "iKi", event->space, (unsigned long long)event->qualifier, level);
	if (carried != Py_None)
		return carried;
	Py_DECREF(carried);
	return PyLong_FromUnsignedLongLong(event->qualifier);
}

/* The bytes that a write moves. */
static PyObject *data_of(const struct nv_event *event)
{
	if (event->direction != NV_WRITE)
		return PyBytes_FromStringAndSize(NULL, 0);
	if (event->count != 1)
		return PyBytes_FromStringAndSize((const char *)event->data, event->data ? (Py_ssize_t)event->size * event->count : 0);
	return PyBytes_FromStringAndSize((const char *)&event->value, event->size < 8 ? event->size : 8);
}

/* An event without fields, or with those of another one. Tuples keep their hash from Python 3.14 on. */
static PyObject *blank(struct nv_presenter *presenter)
{
	PyObject *made = presenter->spare;

	if (made)
		presenter->spare = NULL;
	else
		made = presenter->type->tp_alloc(presenter->type, FIELDS);
#if PY_VERSION_HEX >= 0x030E0000
	if (made)
		((PyTupleObject *)made)->ob_hash = -1;
#endif
	return made;
}

PyObject *nv_present(struct nv_presenter *presenter, const struct nv_event *event, int level)
{
	int known = event->instruction_length < NV_INSTRUCTION_MAX ? event->instruction_length : NV_INSTRUCTION_MAX, all = 1;
	PyObject *fields[FIELDS] = {NULL}, *made;

	if (event->reason >= PyTuple_GET_SIZE(presenter->reasons))
		return PyErr_Format(PyExc_ValueError, "there is no reason %d", event->reason);
	fields[QUALIFIER] = qualifier_at(presenter, event, level + 1);
	if (!fields[QUALIFIER])
		return NULL;
	fields[REASON] = Py_NewRef(PyTuple_GET_ITEM(presenter->reasons, event->reason));
	fields[LEVEL] = PyLong_FromLong(level + 1);
	fields[DIRECTION] = PyLong_FromLong(event->direction);
	fields[SIZE] = PyLong_FromLong(event->size);
	fields[COUNT] = PyLong_FromUnsignedLong(event->count);
	fields[VALUE] = PyLong_FromUnsignedLongLong(event->value);
	fields[DATA] = data_of(event);
	fields[INFO] = PyLong_FromUnsignedLongLong(event->info);
	fields[RAW] = PyLong_FromUnsignedLong(event->raw);
	fields[INSTRUCTION] = PyBytes_FromStringAndSize((const char *)event->instruction, known);
	fields[LENGTH] = PyLong_FromLong(event->length);
	for (int field = 0; field < FIELDS; field++)
		all &= fields[field] != NULL;
	made = all ? blank(presenter) : NULL;
	for (int field = 0; field < FIELDS; field++) {
		PyObject *old = fields[field];

		if (made) {
			old = PyTuple_GET_ITEM(made, field);
			PyTuple_SET_ITEM(made, field, fields[field]);
		}
		Py_XDECREF(old);
	}
	return made;
}

void nv_presenter_take(struct nv_presenter *presenter, PyObject *made)
{
	if (made && !presenter->spare && Py_REFCNT(made) == 1)
		presenter->spare = made;
	else
		Py_XDECREF(made);
}
