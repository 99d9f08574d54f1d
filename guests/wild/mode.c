/* Control registers. */
#include "wild.h"
#include "printf.h"
#include "trap.h"

enum { CR0_PE = 1, CR4_PAE = 1 << 5, EFER = 0xc0000080, EFER_LME = 1 << 8 };
enum { CR0_NW = 1u << 29, CR0_CD = 1u << 30, CR0_PG = 1u << 31 };

#define READ(register) ({ uint64_t value_; asm volatile("mov %%" register ", %0" : "=r"(value_)); value_; })

/* Tries a value that the architecture refuses, and puts the old one back if it was taken: 1 unless there was a #GP. */
#define REFUSED(register, bad) ({ \
	uint64_t old_ = READ(register), bad_ = (bad); \
	trap_clear(); \
	asm volatile(TRY("mov %0, %%" register) :: "r"(bad_) : "memory"); \
	if (trap_vector() != TRAP_GP) { \
		asm volatile("mov %0, %%" register :: "r"(old_) : "memory"); \
		printf("%s takes 0x%lx\n", register, bad_); \
	} \
	trap_vector() != TRAP_GP; })

/* Combinations that must be refused by #GP in long mode (AMD APM vol. 2, 3.1 and 14.6; Intel SDM vol. 3, 2.5). None has a
 * bit above 31: where KVM emulates MOV to CR0 or CR4 it drops those instead. */
int bad_modes(void)
{
	uint64_t cr0 = READ("cr0"), cr4 = READ("cr4"), efer = try_rdmsr(EFER);
	int taken = 0;

	taken += REFUSED("cr0", cr0 & ~(uint64_t)CR0_PG);
	taken += REFUSED("cr0", cr0 & ~(uint64_t)CR0_PE);
	taken += REFUSED("cr0", (cr0 & ~(uint64_t)CR0_CD) | CR0_NW);
	taken += REFUSED("cr4", cr4 & ~(uint64_t)CR4_PAE);
	taken += REFUSED("cr4", cr4 | 1 << 15);
	taken += REFUSED("cr8", 16);
	taken += try_wrmsr(EFER, efer & ~(uint64_t)EFER_LME) != TRAP_GP;
	taken += try_wrmsr(EFER, efer | 1UL << 63) != TRAP_GP;
	printf("%d of 8 taken\n", taken);
	return taken;
}

/* From long mode through compatibility mode down to real mode, where an exception finds no IDT. */
int real_mode(void)
{
	trap_drop();
	asm volatile("push $0x18\n"
		     "push $1f\n"
		     "lretq\n"
		     ".code32\n"
		     "1: mov %%cr0, %%eax\n"
		     "and $0x7fffffff, %%eax\n"
		     "mov %%eax, %%cr0\n"       /* paging off: long mode ends */
		     "mov $0xc0000080, %%ecx\n"
		     "xor %%eax, %%eax\n"
		     "xor %%edx, %%edx\n"
		     "wrmsr\n"                  /* EFER = 0 */
		     "mov %%cr0, %%eax\n"
		     "and $0xfffffffe, %%eax\n"
		     "mov %%eax, %%cr0\n"       /* real mode, with the segments of before */
		     "ud2\n"
		     "hlt\n"
		     ".code64\n"
		     ::: "rax", "rcx", "rdx", "memory");
	return 1;
}
