/* What the types have in common: they are made of a spec, so that each object counts as a reference to its type; and tuples that serve
 * again when nobody holds them any more. */
#ifndef NV_PYTHON_OBJECT_H
#define NV_PYTHON_OBJECT_H

#include <Python.h>

/* Makes a type and gives it to the module. NULL: an exception is set. The reference is the caller's to keep. */
static inline PyTypeObject *nv_type_add(PyObject *module, PyType_Spec *spec)
{
	PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(spec);

	if (type && PyModule_AddType(module, type))
		Py_CLEAR(type);
	return type;
}

/* The end of an object that holds nothing any more. */
static inline void nv_free(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);

	type->tp_free(self);
	Py_DECREF(type);
}

/* For a tuple that is to be given other items: it keeps its hash from Python 3.14 on. */
static inline void nv_tuple_forget_hash(PyObject *tuple)
{
#if PY_VERSION_HEX >= 0x030E0000
	((PyTupleObject *)tuple)->ob_hash = -1;
#else
	(void)tuple;
#endif
}

#endif
