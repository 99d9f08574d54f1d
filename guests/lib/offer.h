/* What a minivisor at some level offers its guest, for both sides. */
#ifndef OFFER_H
#define OFFER_H

#include <stdint.h>

#define LEVEL_MAX 63

/* CPUID leaf: EAX = the level, EBX ECX EDX = "minivisorSVM" or "minivisorVMX". */
#define MARK_LEAF(level) (0x4e560000 + (uint32_t)(level))
#define MARK_EBX 0x696e696d
#define MARK_ECX 0x6f736976
#define MARK_EDX_SVM 0x4d565372
#define MARK_EDX_VMX 0x584d5672

/* VMMCALL or VMCALL: RAX = this, RBX = the level that is to answer, RCX = any value; RAX = its answer. */
#define HYPERCALL 0x4e56
#define HYPERCALL_NOBODY (~0ull)

/* The same with this: the level injects RCX into its guest, a vector and, from bit 8 on, 0 for an external interrupt or 2 for an NMI. */
#define HYPERCALL_EVENT 0x4e58

/* The same with this: the answer is RFLAGS of the level's guest, as its control block has them. */
#define HYPERCALL_FLAGS 0x4e59

static inline uint64_t hypercall_answer(uint64_t level, uint64_t value)
{
	return value * 31 + level;
}

/* A byte port: IN gives this; OUT stores a value and begins the count of INs anew. */
#define OWN_PORT(level) ((uint16_t)(0x5600 + (level)))

static inline uint8_t port_answer(uint64_t level, uint8_t stored, uint8_t count)
{
	return (uint8_t)(stored * 31 + level + count);
}

#endif
