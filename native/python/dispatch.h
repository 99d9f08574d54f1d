/* The run loop above native/vcpu.c: each event goes to the Python handler whose turn it is. */
#ifndef NV_PYTHON_DISPATCH_H
#define NV_PYTHON_DISPATCH_H

#include <Python.h>

int nv_dispatch_add(PyObject *module);

#endif
