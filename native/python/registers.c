#include "registers.h"

#include <linux/kvm.h>
#include <stddef.h>
#include <string.h>

#include "object.h"

PyTypeObject *nv_registers_type;

static const char *const names[NV_REGS] = {
	"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8",
	"r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags",
};

_Static_assert(sizeof(struct kvm_regs) == NV_REGS * sizeof(uint64_t), "the registers are all of struct kvm_regs");
_Static_assert(offsetof(struct kvm_regs, rsp) == 6 * sizeof(uint64_t), "and in its order");
_Static_assert(offsetof(struct kvm_regs, rip) == 16 * sizeof(uint64_t), "and in its order");

const char *nv_register_name(size_t number)
{
	return names[number];
}

static PyObject *get(PyObject *self, void *number)
{
	return PyLong_FromUnsignedLongLong(((struct nv_registers *)self)->words[(uintptr_t)number]);
}

static int set(PyObject *self, PyObject *value, void *number)
{
	struct nv_registers *registers = (struct nv_registers *)self;
	const char *name = names[(uintptr_t)number];
	unsigned long long word;

	if (!value) {
		PyErr_Format(PyExc_AttributeError, "%s of registers cannot be deleted", name);
		return -1;
	}
	if (!registers->wraps && !PyLong_Check(value)) {
		PyErr_Format(PyExc_ValueError, "%s.%s: a %s cannot be stored", Py_TYPE(self)->tp_name, name, Py_TYPE(value)->tp_name);
		return -1;
	}
	word = registers->wraps ? PyLong_AsUnsignedLongLongMask(value) : PyLong_AsUnsignedLongLong(value);
	if (word == ~0ull && PyErr_Occurred()) {
		if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
			PyErr_Clear();
			PyErr_Format(PyExc_ValueError, "%s.%s: %R does not fit into 64 bits", Py_TYPE(self)->tp_name, name, value);
		}
		return -1;
	}
	registers->words[(uintptr_t)number] = word;
	return 0;
}

#define WORD(number, name) {name, get, set, "64 bits.", (void *)(uintptr_t)(number)}

static PyGetSetDef words[] = {
	WORD(0, "rax"),  WORD(1, "rbx"),  WORD(2, "rcx"),  WORD(3, "rdx"),  WORD(4, "rsi"),  WORD(5, "rdi"),
	WORD(6, "rsp"),  WORD(7, "rbp"),  WORD(8, "r8"),   WORD(9, "r9"),   WORD(10, "r10"), WORD(11, "r11"),
	WORD(12, "r12"), WORD(13, "r13"), WORD(14, "r14"), WORD(15, "r15"), WORD(16, "rip"), WORD(17, "rflags"),
	{NULL},
};

static void put(PyObject *self, const void *words, uint8_t wraps)
{
	struct nv_registers *registers = (struct nv_registers *)self;

	memcpy(registers->words, words, sizeof registers->words);
	registers->wraps = wraps;
}

void nv_registers_set(PyObject *registers, const uint64_t words[NV_REGS])
{
	put(registers, words, 1);
}

static PyObject *make(PyTypeObject *type, const void *words, uint8_t wraps)
{
	PyObject *made = type->tp_alloc(type, 0);

	if (made)
		put(made, words, wraps);
	return made;
}

PyObject *nv_registers_of(PyTypeObject *type, const uint64_t words[NV_REGS])
{
	return make(type, words, 1);
}

static PyObject *copy(PyObject *self, PyObject *Py_UNUSED(nothing))
{
	const struct nv_registers *registers = (struct nv_registers *)self;

	return make(Py_TYPE(self), registers->words, registers->wraps);
}

static PyObject *pack(PyObject *self, PyObject *Py_UNUSED(nothing))
{
	const struct nv_registers *registers = (struct nv_registers *)self;

	return PyBytes_FromStringAndSize((const char *)registers->words, sizeof registers->words);
}

static PyObject *unpack(PyObject *type, PyObject *packed)
{
	PyObject *made = NULL;
	Py_buffer buffer;

	if (PyObject_GetBuffer(packed, &buffer, PyBUF_SIMPLE))
		return NULL;
	if (buffer.len == sizeof(struct kvm_regs))
		made = make((PyTypeObject *)type, buffer.buf, 0);
	else
		PyErr_Format(PyExc_ValueError, "registers are %zu bytes, %zd were given", sizeof(struct kvm_regs), buffer.len);
	PyBuffer_Release(&buffer);
	return made;
}

static PyObject *compare(PyObject *self, PyObject *other, int how)
{
	int same;

	if ((how != Py_EQ && how != Py_NE) || !PyObject_TypeCheck(other, nv_registers_type))
		Py_RETURN_NOTIMPLEMENTED;
	same = !memcmp(((struct nv_registers *)self)->words, ((struct nv_registers *)other)->words,
		       sizeof ((struct nv_registers *)self)->words);
	return PyBool_FromLong(same == (how == Py_EQ));
}

static PyMethodDef methods[] = {
	{"copy", copy, METH_NOARGS, "Another one with the same values."},
	{"pack", pack, METH_NOARGS, "The bytes of a struct kvm_regs."},
	{"unpack", unpack, METH_O | METH_CLASS, "Those that stand in the bytes of a struct kvm_regs."},
	{NULL},
};

static PyType_Slot slots[] = {
	{Py_tp_doc, "The general registers, 64 bits each, under their names. Raises ValueError for a value that does not fit."},
	{Py_tp_dealloc, nv_free},
	{Py_tp_richcompare, compare},
	{Py_tp_getset, words},
	{Py_tp_methods, methods},
	{0, NULL},
};

static PyType_Spec spec = {
	.name = "nestvmm._dispatch.Registers",
	.basicsize = sizeof(struct nv_registers),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
	.slots = slots,
};

int nv_registers_add(PyObject *module)
{
	nv_registers_type = nv_type_add(module, &spec);
	return nv_registers_type ? 0 : -1;
}
