/* The newest effect of each handler on what it handled: nestvmm/nesting/propagation.py says what for. */
#ifndef NV_PYTHON_EFFECTS_H
#define NV_PYTHON_EFFECTS_H

#include <Python.h>
#include <stdint.h>

#define NV_EFFECTS 4096 /* a guest chooses the qualifiers: what it can make L0 keep; a power of two below 2^16 */

/* What an effect is of. */
struct nv_effect_key {
	uint64_t qualifier;
	uint16_t reason;
	uint8_t write;
	uint8_t handler;         /* the level that handled it */
	uint8_t cause;           /* the level whose software caused it */
};

struct nv_effect {
	struct nv_effect_key key;
	uint64_t value;
	uint64_t sequence;       /* its number among all effects */
	uint16_t next;           /* of those with the same hash: its index plus one; 0: the last */
};

struct nv_effects {
	PyObject_HEAD
	struct nv_effect *kept;  /* a ring: when it is full, what is new takes the place of the key that is there longest */
	uint64_t keys;           /* how many there ever were */
	uint64_t sequence;
	uint16_t heads[NV_EFFECTS]; /* by hash: as `next` */
};

extern PyTypeObject *nv_effects_type;

void nv_effects_record(struct nv_effects *effects, const struct nv_effect_key *key, uint64_t value);

int nv_effects_add(PyObject *module);

#endif
