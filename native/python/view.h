/* The registers of its guest as a hypervisor has them: what a view of a level is derived from. */
#ifndef NV_PYTHON_VIEW_H
#define NV_PYTHON_VIEW_H

#include <Python.h>

int nv_view_add(PyObject *module);

#endif
