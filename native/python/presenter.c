#include "presenter.h"

#include <string.h>

#include "object.h"

/* The fields of Event, in their order. */
enum { REASON, LEVEL, QUALIFIER, DIRECTION, SIZE, COUNT, VALUE, DATA, INFO, RAW, INSTRUCTION, LENGTH, FIELDS };

/* The address that is the event's qualifier, at `level`. */
static PyObject *carry(struct nv_presenter *presenter, const struct nv_event *event, int level)
{
	PyObject *space = PyLong_FromLong(event->space), *address = PyLong_FromUnsignedLongLong(event->qualifier);
	PyObject *to = PyLong_FromLong(level), *arguments[] = {NULL, space, address, to}, *carried = NULL;

	if (space && address && to)
		carried = PyObject_Vectorcall(presenter->carry, &arguments[1], 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
	if (carried == Py_None)
		Py_SETREF(carried, Py_NewRef(address));
	Py_XDECREF(space);
	Py_XDECREF(address);
	Py_XDECREF(to);
	return carried;
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

static int same_data(const struct nv_event *one, const struct nv_event *other)
{
	if (one->direction != NV_WRITE || other->direction != NV_WRITE)
		return one->direction != NV_WRITE && other->direction != NV_WRITE;
	return one->count == 1 && other->count == 1 && one->size == other->size && one->value == other->value;
}

/* Of the bytes of the instruction. */
static int known(const struct nv_event *event)
{
	return event->instruction_length < NV_INSTRUCTION_MAX ? event->instruction_length : NV_INSTRUCTION_MAX;
}

static int same_instruction(const struct nv_event *one, const struct nv_event *other)
{
	return known(one) == known(other) && (!known(one) || !memcmp(one->instruction, other->instruction, known(one)));
}

static PyObject *instruction_of(const struct nv_event *event)
{
	return PyBytes_FromStringAndSize((const char *)event->instruction, known(event));
}

/* An event that nobody holds, and what it shows; or one without items. */
static PyObject *blank(struct nv_presenter *presenter, const struct nv_event **of)
{
	PyObject *made = presenter->spare;

	if (!made)
		return presenter->type->tp_alloc(presenter->type, FIELDS);
	if (made == presenter->shown)
		*of = &presenter->of;
	presenter->spare = NULL;
	nv_tuple_forget_hash(made);
	return made;
}

/* Gives it an item, which may be NULL: -1. */
static int put(PyObject *made, int field, PyObject *item)
{
	PyObject *old = PyTuple_GET_ITEM(made, field);

	if (!item)
		return -1;
	PyTuple_SET_ITEM(made, field, item);
	Py_XDECREF(old);
	return 0;
}

#define DIFFERS(field) (!of || of->field != event->field)

/* Gives an event that shows `of` the items in which `event` is another; all of them, without `of`. -1: an exception is set. The level and
 * the qualifier are as somebody sees them, and not here. */
static int fill(const struct nv_presenter *presenter, PyObject *made, const struct nv_event *of, const struct nv_event *event)
{
	if ((DIFFERS(reason) && put(made, REASON, Py_NewRef(PyTuple_GET_ITEM(presenter->reasons, event->reason)))) ||
	    (DIFFERS(direction) && put(made, DIRECTION, PyLong_FromLong(event->direction))) ||
	    (DIFFERS(size) && put(made, SIZE, PyLong_FromLong(event->size))) ||
	    (DIFFERS(count) && put(made, COUNT, PyLong_FromUnsignedLong(event->count))) ||
	    (DIFFERS(value) && put(made, VALUE, PyLong_FromUnsignedLongLong(event->value))) ||
	    ((!of || !same_data(of, event)) && put(made, DATA, data_of(event))) ||
	    (DIFFERS(info) && put(made, INFO, PyLong_FromUnsignedLongLong(event->info))) ||
	    (DIFFERS(raw) && put(made, RAW, PyLong_FromUnsignedLong(event->raw))) ||
	    ((!of || !same_instruction(of, event)) && put(made, INSTRUCTION, instruction_of(event))) ||
	    (DIFFERS(length) && put(made, LENGTH, PyLong_FromLong(event->length))))
		return -1;
	return 0;
}

PyObject *nv_present(struct nv_presenter *presenter, const struct nv_event *event, int level)
{
	const struct nv_event *of = NULL;
	PyObject *carried = NULL, *made;

	if (event->reason >= PyTuple_GET_SIZE(presenter->reasons))
		return PyErr_Format(PyExc_ValueError, "there is no reason %d", event->reason);
	presenter->key = event->qualifier;
	if (PyTuple_GET_ITEM(presenter->carries, event->reason) != Py_False) {
		presenter->key |= (uint64_t)event->space << NV_SPACE_SHIFT;
		carried = carry(presenter, event, level + 1);
		if (!carried)
			return NULL;
	}
	made = blank(presenter, &of);
	if (!made) {
		Py_XDECREF(carried);
		return NULL;
	}
	if (((carried || DIFFERS(reason) || DIFFERS(qualifier)) &&
	     put(made, QUALIFIER, carried ? carried : PyLong_FromUnsignedLongLong(event->qualifier))) ||
	    ((!of || presenter->level != level) && put(made, LEVEL, PyLong_FromLong(level + 1))) ||
	    fill(presenter, made, of, event)) {
		Py_DECREF(made);
		return NULL;
	}
	presenter->shown = made;
	presenter->of = *event;
	presenter->level = level;
	return made;
}

void nv_presenter_take(struct nv_presenter *presenter, PyObject *made)
{
	if (made && !presenter->spare && Py_REFCNT(made) == 1)
		presenter->spare = made;
	else
		Py_XDECREF(made);
}
