/* nestvmm._dispatch: what of the path of an exit needs the interpreter. Beside nestvmm._native, which does not know it. */
#include <Python.h>

#include "answer.h"
#include "dispatch.h"
#include "effects.h"
#include "registers.h"
#include "state.h"
#include "view.h"

static int fill(PyObject *module)
{
	/* types that others are made of come first */
	if (nv_registers_add(module) || nv_state_add(module) || nv_view_add(module) || nv_effects_add(module))
		return -1;
	return nv_answer_add(module) || nv_dispatch_add(module) ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {
	{Py_mod_exec, fill},
	{0, NULL},
};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "nestvmm._dispatch",
	.m_doc = "The run loop of events that Python handles, and what it works on.",
	.m_slots = slots,
};

PyMODINIT_FUNC PyInit__dispatch(void);

PyMODINIT_FUNC PyInit__dispatch(void)
{
	return PyModuleDef_Init(&definition);
}
