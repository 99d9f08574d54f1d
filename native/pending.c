#include "pending.h"

void nv_pending_interrupt(struct nv_pending *pending, uint8_t vector)
{
	__atomic_fetch_or(&pending->interrupts[vector / 64], 1ull << vector % 64, __ATOMIC_SEQ_CST);
}

void nv_pending_nmi(struct nv_pending *pending)
{
	__atomic_store_n(&pending->nmi, 1, __ATOMIC_SEQ_CST);
}

int nv_pending_highest(const struct nv_pending *pending)
{
	for (int i = 3; i >= 0; i--) {
		uint64_t word = __atomic_load_n(&pending->interrupts[i], __ATOMIC_SEQ_CST);

		if (word)
			return 64 * i + 63 - __builtin_clzll(word);
	}
	return -1;
}

int nv_pending_another(const struct nv_pending *pending, int vector)
{
	for (int i = 0; i < 4; i++) {
		uint64_t word = __atomic_load_n(&pending->interrupts[i], __ATOMIC_SEQ_CST);

		if (word & ~(vector >= 0 && vector / 64 == i ? 1ull << vector % 64 : 0))
			return 1;
	}
	return 0;
}

int nv_pending_any(const struct nv_pending *pending)
{
	uint64_t any = __atomic_load_n(&pending->nmi, __ATOMIC_SEQ_CST);

	for (int i = 0; i < 4; i++)
		any |= __atomic_load_n(&pending->interrupts[i], __ATOMIC_SEQ_CST);
	return !!any;
}

void nv_pending_taken(struct nv_pending *pending, uint8_t vector)
{
	__atomic_fetch_and(&pending->interrupts[vector / 64], ~(1ull << vector % 64), __ATOMIC_SEQ_CST);
}

void nv_pending_nmi_taken(struct nv_pending *pending)
{
	__atomic_store_n(&pending->nmi, 0, __ATOMIC_SEQ_CST);
}
