/* What handlers answer: nestvmm.x86.event.Result. */
#ifndef NV_PYTHON_ANSWER_H
#define NV_PYTHON_ANSWER_H

#include <Python.h>

/* What is looked at of a Result; tests/nesting/test_dispatch.py holds it against the class. */
enum { NV_ANSWER_OUTCOME, NV_ANSWER_VALUE, NV_ANSWER_LOOKED_AT };

int nv_answer_add(PyObject *module);

#endif
