/* Bits of registers, and the vectors of exceptions: AMD APM vol. 2, 3.1 and 8.2; Intel SDM vol. 3, 2.3 to 2.5 and 6.3. */
#ifndef NV_REGISTERS_H
#define NV_REGISTERS_H

#include <stdint.h>

#define CR0_PE (1ull << 0)
#define CR0_MP (1ull << 1)
#define CR0_EM (1ull << 2)
#define CR0_TS (1ull << 3)
#define CR0_NE (1ull << 5)
#define CR0_WP (1ull << 16)
#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)
#define CR0_PG (1ull << 31)

#define CR4_PSE (1ull << 4)
#define CR4_PAE (1ull << 5)
#define CR4_OSFXSR (1ull << 9)
#define CR4_LA57 (1ull << 12)
#define CR4_VMXE (1ull << 13)
#define CR4_OSXSAVE (1ull << 18)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define CR4_PKE (1ull << 22)
#define CR4_CET (1ull << 23)
#define CR4_PKS (1ull << 24)

#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)
#define EFER_SVME (1ull << 12)

#define RFLAGS_TF (1ull << 8)
#define RFLAGS_IF (1ull << 9)
#define RFLAGS_IOPL 12           /* the lower of its two bits */
#define RFLAGS_RF (1ull << 16)
#define RFLAGS_VM (1ull << 17)
#define RFLAGS_AC (1ull << 18)

#define DR6_CAUSES 0x200full     /* breakpoints and access to debug registers */
#define DR6_BD (1ull << 13)
#define DR6_BS (1ull << 14)
#define DR6_STEPPED 0xffff4ff0ull /* BS, and the bits that are always set */

enum { DB = 1, NMI = 2, BP = 3, OF = 4, BR = 5, UD = 6, NM = 7, DF = 8, GP = 13, PF = 14 };

/* Of four levels of tables. */
static inline int is_canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

/* Whether a value of PAT has only types of memory that there are: 0, 1, 4 to 7. */
static inline int is_pat(uint64_t value)
{
	uint64_t odd = value >> 1 & ~(value >> 2); /* bit 0 of each byte: 2 or 3 */

	return !(value & 0xf8f8f8f8f8f8f8f8) && !(odd & 0x0101010101010101);
}

#endif
