/* A Linux program that makes a VM through /dev/kvm and runs a guest in it, which uses a port, CPUID, MMIO, and HLT with timer
 * interrupts. For a Linux at level 1 or above: its KVM is what is tested. Prints one line of what both sides saw; exit status 0, 2 for
 * a failed system call, 3 for an unexpected exit. */
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "program.h"

enum {
	RAM = 0x10000, CODE = 0x1000, STACK = 0x8000,
	PORT_VALUE = 0x800, CPUID_VALUE = 0x804, MMIO_VALUE = 0x808, TICKS = 0x80c, START = 0x820, END = 0x824, /* what the guest keeps */
	ROUNDS = 20,
};

/* Real mode. The memory hole is at 0xd0000; the PIC's vectors are from 0x20 on, the PIT ticks at 100 Hz. The handler returns with
 * IF clear, so that a tick comes at the HLT behind STI and nowhere else: there are five, however slow the machine is. */
extern const char guest[], guest_end[];
asm(".pushsection .rodata\n"
    ".code16\n"
    "guest:\n"
    "	mov $0x5000, %dx; mov $0x42, %al; out %al, %dx; in %dx, %al; mov %al, 0x800\n"
    "	mov $0x4e570000, %eax; xor %ecx, %ecx; cpuid; mov %eax, 0x804\n"
    "	mov $0xd000, %ax; mov %ax, %fs; movl $0x1234567, %eax; mov %eax, %fs:0; mov %fs:4, %eax; mov %eax, 0x808\n"
    "	rdtsc; mov %eax, 0x820; mov $20, %bp\n"
    "1:	mov $0x4e570000, %eax; cpuid; dec %bp; jnz 1b\n"
    "	rdtsc; mov %eax, 0x824\n"
    "	mov $0x11, %al; out %al, $0x20; out %al, $0xa0; mov $0x20, %al; out %al, $0x21; mov $0x28, %al; out %al, $0xa1\n"
    "	mov $4, %al; out %al, $0x21; mov $2, %al; out %al, $0xa1; mov $1, %al; out %al, $0x21; out %al, $0xa1\n"
    "	mov $0xfe, %al; out %al, $0x21; mov $0xff, %al; out %al, $0xa1\n"
    "	mov $0x34, %al; out %al, $0x43; mov $0x9c, %al; out %al, $0x40; mov $0x2e, %al; out %al, $0x40\n"
    "	movw $(handler - guest) + 0x1000, 0x80; movw $0, 0x82\n"
    "2:	sti; hlt; cmpb $5, 0x80c; jb 2b\n"
    "	mov $0x5001, %dx; out %al, %dx; hlt\n"
    "handler: push %bp; mov %sp, %bp; andb $~2, 7(%bp); incb 0x80c; mov $0x20, %al; out %al, $0x20; pop %bp; iret\n"
    "guest_end:\n"
    ".code64\n"
    ".popsection");

static uint32_t word(const uint8_t *ram, int at)
{
	uint32_t value;

	memcpy(&value, ram + at, sizeof value);
	return value;
}

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR), vm, vcpu;
	check(kvm, "/dev/kvm");
	check(vm = ioctl(kvm, KVM_CREATE_VM, 0), "vm");
	check(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000), "tss");
	check(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "irqchip");
	struct kvm_pit_config pit = {0};
	check(ioctl(vm, KVM_CREATE_PIT2, &pit), "pit");
	uint8_t *ram = mmap(0, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(ram + CODE, guest, guest_end - guest);
	struct kvm_userspace_memory_region r = {.memory_size = RAM, .userspace_addr = (uintptr_t)ram};
	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r), "memory");
	check(vcpu = ioctl(vm, KVM_CREATE_VCPU, 0), "vcpu");
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 entries[2]; } cpuid = {.head.nent = 2};
	cpuid.entries[0] = (struct kvm_cpuid_entry2){.function = 0x4e570000, .eax = 0xabcd1234};
	cpuid.entries[1] = (struct kvm_cpuid_entry2){.function = 0, .eax = 1, .ebx = 0x68747541, .edx = 0x69746e65, .ecx = 0x444d4163};
	check(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), "cpuid");
	struct kvm_sregs sregs;
	check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "sregs");
	sregs.cs.base = 0, sregs.cs.selector = 0;
	check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "sregs");
	struct kvm_regs regs = {.rip = CODE, .rsp = STACK, .rflags = 2};
	check(ioctl(vcpu, KVM_SET_REGS, &regs), "regs");
	struct kvm_run *run = mmap(0, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	unsigned io = 0, mmio_written = 0;
	for (;;) {
		check(ioctl(vcpu, KVM_RUN, 0), "run");
		uint8_t *data = (uint8_t *)run + run->io.data_offset;
		if (run->exit_reason == KVM_EXIT_IO && run->io.port == 0x5000) {
			if (run->io.direction == KVM_EXIT_IO_OUT)
				io = *data;
			else
				*data = 0x37;
		} else if (run->exit_reason == KVM_EXIT_MMIO) {
			if (run->mmio.is_write)
				memcpy(&mmio_written, run->mmio.data, 4);
			else
				memcpy(run->mmio.data, &(uint32_t){0xfeedbeef}, 4);
		} else if (run->exit_reason == KVM_EXIT_IO && run->io.port == 0x5001) {
			printf("port %x %x mmio %x %x cpuid %x ticks %u cycles %u\n", io, ram[PORT_VALUE], mmio_written,
			       word(ram, MMIO_VALUE), word(ram, CPUID_VALUE), ram[TICKS],
			       (word(ram, END) - word(ram, START)) / ROUNDS);
			return 0;
		} else {
			ioctl(vcpu, KVM_GET_REGS, &regs);
			printf("exit %u suberror %u rip %llx\n", run->exit_reason, run->internal.suberror, regs.rip);
			return 3;
		}
	}
}
