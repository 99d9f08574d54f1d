#include "effects.h"

#include "object.h"

PyTypeObject *nv_effects_type;

static uint32_t hash(const struct nv_effect_key *key)
{
	uint64_t word = key->qualifier ^ (uint64_t)key->reason << 48 ^ (uint64_t)key->write << 40 ^
			(uint64_t)key->handler << 32 ^ (uint64_t)key->cause << 24;

	return word * 0x9e3779b97f4a7c15ull >> 32 & (NV_EFFECTS - 1);
}

static int same(const struct nv_effect_key *one, const struct nv_effect_key *other)
{
	return one->qualifier == other->qualifier && one->reason == other->reason && one->write == other->write &&
	       one->handler == other->handler && one->cause == other->cause;
}

static struct nv_effect *find(const struct nv_effects *effects, const struct nv_effect_key *key)
{
	for (uint16_t index = effects->heads[hash(key)]; index; index = effects->kept[index - 1].next)
		if (same(&effects->kept[index - 1].key, key))
			return &effects->kept[index - 1];
	return NULL;
}

/* Takes the effect with this index out of the list of its hash. */
static void drop(struct nv_effects *effects, uint16_t index)
{
	struct nv_effect *effect = &effects->kept[index - 1];
	uint16_t *link = &effects->heads[hash(&effect->key)];

	while (*link != index)
		link = &effects->kept[*link - 1].next;
	*link = effect->next;
}

static struct nv_effect *add(struct nv_effects *effects, const struct nv_effect_key *key)
{
	uint16_t index = effects->keys % NV_EFFECTS + 1, *head = &effects->heads[hash(key)];
	struct nv_effect *effect = &effects->kept[index - 1];

	if (effects->keys++ >= NV_EFFECTS)
		drop(effects, index);
	effect->key = *key;
	effect->next = *head;
	*head = index;
	return effect;
}

void nv_effects_record(struct nv_effects *effects, const struct nv_effect_key *key, uint64_t value)
{
	struct nv_effect *effect = find(effects, key);

	if (!effect)
		effect = add(effects, key);
	effect->sequence = ++effects->sequence;
	effect->value = value;
}

static PyObject *record(PyObject *self, PyObject *args, PyObject *named)
{
	static char *names[] = {"reason", "qualifier", "write", "handler", "cause", "value", NULL};
	unsigned long long qualifier, value;
	struct nv_effect_key key;
	int write;

	if (!PyArg_ParseTupleAndKeywords(args, named, "HKpbbK", names, &key.reason, &qualifier, &write, &key.handler, &key.cause,
					 &value))
		return NULL;
	key.qualifier = qualifier;
	key.write = write;
	nv_effects_record((struct nv_effects *)self, &key, value);
	Py_RETURN_NONE;
}

static PyObject *newest(PyObject *self, PyObject *args)
{
	const struct nv_effect *effect;
	struct nv_effect_key key;
	PyObject *qualifier;
	int write;

	if (!PyArg_ParseTuple(args, "HO!pbb", &key.reason, &PyLong_Type, &qualifier, &write, &key.handler, &key.cause))
		return NULL;
	key.qualifier = PyLong_AsUnsignedLongLong(qualifier);
	if (PyErr_Occurred()) {
		/* no event has such a one */
		PyErr_Clear();
		Py_RETURN_NONE;
	}
	key.write = write;
	effect = find((struct nv_effects *)self, &key);
	if (!effect)
		Py_RETURN_NONE;
	return Py_BuildValue("KK", (unsigned long long)effect->sequence, (unsigned long long)effect->value);
}

static PyObject *make(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(named))
{
	struct nv_effects *effects = (struct nv_effects *)type->tp_alloc(type, 0);

	if (!effects)
		return NULL;
	effects->kept = PyMem_Calloc(NV_EFFECTS, sizeof *effects->kept);
	if (!effects->kept) {
		Py_DECREF(effects);
		return PyErr_NoMemory();
	}
	return (PyObject *)effects;
}

static void release(PyObject *self)
{
	PyMem_Free(((struct nv_effects *)self)->kept);
	nv_free(self);
}

static PyMethodDef methods[] = {
	{"record", (PyCFunction)(void (*)(void))record, METH_VARARGS | METH_KEYWORDS,
	 "Level `handler` handled this event of level `cause` with this value: it holds for the levels between."},
	{"newest", newest, METH_VARARGS,
	 "(reason, qualifier, write, handler, cause): its newest effect's number among all, and the value; None: there is none."},
	{NULL},
};

static PyType_Slot slots[] = {
	{Py_tp_doc, "The newest effect of each handler on each (reason, qualifier, whether it was a write), of NV_EFFECTS at most."},
	{Py_tp_new, make},
	{Py_tp_dealloc, release},
	{Py_tp_methods, methods},
	{0, NULL},
};

static PyType_Spec spec = {
	.name = "nestvmm._dispatch.EffectTable",
	.basicsize = sizeof(struct nv_effects),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
	.slots = slots,
};

int nv_effects_add(PyObject *module)
{
	nv_effects_type = nv_type_add(module, &spec);
	return nv_effects_type ? PyModule_AddIntMacro(module, NV_EFFECTS) : -1;
}
