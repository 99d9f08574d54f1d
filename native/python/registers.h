/* The general registers as a Python object. */
#ifndef NV_PYTHON_REGISTERS_H
#define NV_PYTHON_REGISTERS_H

#include <Python.h>
#include <stdint.h>

#include "switcher/mailbox.h"

/* 18 words instead of 18 integers: a copy of them is one object, and an integer is made only of what somebody looks at. */
struct nv_registers {
	PyObject_HEAD
	uint64_t words[NV_REGS]; /* in the order of struct kvm_regs */
	uint8_t wraps;           /* takes any integer modulo 2^64, as a register does; else one that does not fit is an error */
};

extern PyTypeObject *nv_registers_type;

/* The name of a word. */
const char *nv_register_name(size_t number);

/* A new object of `type`, which is nv_registers_type or derived from it, that wraps. NULL: an exception is set. */
PyObject *nv_registers_of(PyTypeObject *type, const uint64_t words[NV_REGS]);

/* Makes one what nv_registers_of would give. */
void nv_registers_set(PyObject *registers, const uint64_t words[NV_REGS]);

int nv_registers_add(PyObject *module);

#endif
