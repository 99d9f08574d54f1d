/* A Linux program that boots a Linux kernel in a VM through /dev/kvm: as small as can be, for a Linux at level 1 whose guest is another
 * one. The kernel is an ELF64 vmlinux, entered by the 64-bit boot protocol (Documentation/arch/x86/boot.rst). The VM has KVM's interrupt
 * controllers and PIT, and of a PC else only what an early console needs: a 16550 that takes bytes, at 0x3f8, and the keyboard
 * controller's reset. What its kernel says goes to standard output.
 * usage: vm_linux VMLINUX INITRD MEBIBYTES COMMAND-LINE
 * Exit status 0 when it resets itself, 1 for wrong arguments, 2 for a wrong file or a failed system call, 3 for an unexpected exit. */
#include <asm/bootparam.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "program.h"

#define MIB (1ul << 20)
#define LARGE_PAGE (2 * MIB)

enum {
	GDT = 0x500, TABLES = 0x9000, PARAMETERS = 0x10000, COMMAND_LINE = 0x20000, LOW_END = 0x9fc00,
	INITRD = 128 * MIB, /* behind the kernel and what it needs before it knows of the initrd */
	CS = 0x10, DS = 0x18, CPUID_MAX = 100,
	MEBIBYTES_MAX = 3072, /* below the APICs */
	COMMAND_LINE_MAX = 2048, /* COMMAND_LINE_SIZE of Linux */
	UART = 0x3f8, UART_STATUS = UART + 5, UART_EMPTY = 0x60, KEYBOARD = 0x64, KEYBOARD_RESET = 0xfe,
};
#define CR0 0x80000031 /* PG, NE, ET, PE */
#define CR4 0x20 /* PAE */
#define EFER 0x500 /* LMA, LME */
#define TSC_DEADLINE (1u << 24)
#define HYPERVISOR (1u << 31)

static uint8_t *ram;
static uint64_t size;

static uint32_t load_initrd(const char *path)
{
	uint64_t length;
	const uint8_t *file = map_file(path, &length);

	if (!length || size < INITRD || length > size - INITRD)
		wrong(path, "no initrd that fits behind the kernel's 128 MiB");
	memcpy(ram + INITRD, file, length);
	return length;
}

static void write_parameters(uint32_t initrd_size, const char *command_line)
{
	struct boot_params *parameters = (void *)(ram + PARAMETERS);

	strcpy((char *)ram + COMMAND_LINE, command_line);
	parameters->hdr.boot_flag = 0xaa55;
	parameters->hdr.header = 0x53726448;
	parameters->hdr.type_of_loader = 0xff;
	parameters->hdr.cmd_line_ptr = COMMAND_LINE;
	parameters->hdr.cmdline_size = strlen(command_line);
	parameters->hdr.ramdisk_image = INITRD;
	parameters->hdr.ramdisk_size = initrd_size;
	parameters->e820_table[0] = (struct boot_e820_entry){0, LOW_END, 1};
	parameters->e820_table[1] = (struct boot_e820_entry){MIB, size - MIB, 1};
	parameters->e820_entries = 2;
}

/* The first GiB mapped to itself. */
static void write_tables(void)
{
	uint64_t *root = (void *)(ram + TABLES), *pointers = root + 512, *pages = root + 1024;

	root[0] = (TABLES + 0x1000) | 3;
	pointers[0] = (TABLES + 0x2000) | 3;
	for (uint64_t i = 0; i < 512; i++)
		pages[i] = i * LARGE_PAGE | 0x83;
}

static void set_registers(int vcpu, uint64_t entry)
{
	static const uint64_t gdt[] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};
	struct kvm_segment code = {.limit = ~0u, .selector = CS, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {.limit = ~0u, .selector = DS, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_regs regs = {.rip = entry, .rsi = PARAMETERS, .rflags = 2};
	struct kvm_sregs sregs;

	memcpy(ram + GDT, gdt, sizeof gdt);
	check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "sregs");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = data;
	sregs.gdt.base = GDT;
	sregs.gdt.limit = sizeof gdt - 1;
	sregs.cr0 = CR0;
	sregs.cr3 = TABLES;
	sregs.cr4 = CR4;
	sregs.efer = EFER;
	check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "sregs");
	check(ioctl(vcpu, KVM_SET_REGS, &regs), "regs");
}

/* All that KVM has, SVM included: its guest's KVM is to nest. */
static void set_cpuid(int kvm, int vcpu)
{
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[CPUID_MAX];
	} cpuid = {.head.nent = CPUID_MAX};

	check(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "supported cpuid");
	for (uint32_t i = 0; i < cpuid.head.nent; i++)
		if (cpuid.entries[i].function == 1)
			cpuid.entries[i].ecx |= TSC_DEADLINE | HYPERVISOR;
	check(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), "cpuid");
}

static int serve(struct kvm_run *run)
{
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	if (run->exit_reason == KVM_EXIT_MMIO) {
		if (!run->mmio.is_write)
			memset(run->mmio.data, 0xff, sizeof run->mmio.data);
		return 1;
	}
	if (run->exit_reason != KVM_EXIT_IO)
		return 0;
	if (run->io.direction == KVM_EXIT_IO_IN) {
		/* a keyboard controller that takes commands: its status is 0 */
		memset(data, run->io.port == UART_STATUS ? UART_EMPTY : run->io.port == KEYBOARD ? 0 : 0xff,
		       run->io.size * run->io.count);
	} else if (run->io.port == UART) {
		fwrite(data, 1, run->io.count, stdout);
		if (*data == '\n')
			fflush(stdout);
	} else if (run->io.port == KEYBOARD && *data == KEYBOARD_RESET) {
		exit(0);
	}
	return 1;
}

int main(int argc, char **argv)
{
	int kvm, vm, vcpu;
	struct kvm_pit_config pit = {0};
	struct kvm_userspace_memory_region region = {0};
	struct kvm_run *run;
	uint64_t entry;

	if (argc != 5) {
		fprintf(stderr, "usage: vm_linux VMLINUX INITRD MEBIBYTES COMMAND-LINE\n");
		return 1;
	}
	size = strtoul(argv[3], NULL, 10);
	if (size < 1 || size > MEBIBYTES_MAX) {
		fprintf(stderr, "vm_linux: %s MiB: must be 1 to %u\n", argv[3], MEBIBYTES_MAX);
		return 1;
	}
	size *= MIB;
	if (strlen(argv[4]) >= COMMAND_LINE_MAX) {
		fprintf(stderr, "vm_linux: COMMAND-LINE: at most %u bytes\n", COMMAND_LINE_MAX - 1);
		return 1;
	}
	kvm = check(open("/dev/kvm", O_RDWR), "/dev/kvm");
	vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "vm");
	check(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000), "tss");
	check(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "irqchip");
	check(ioctl(vm, KVM_CREATE_PIT2, &pit), "pit");
	ram = mmap(0, size + LARGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(ram == MAP_FAILED ? -1 : 0, "memory");
	/* few page faults, if pages are large and aligned as the guest's are */
	ram = (uint8_t *)(((uintptr_t)ram + LARGE_PAGE - 1) & -LARGE_PAGE);
	madvise(ram, size, MADV_HUGEPAGE);
	entry = load_elf64(argv[1], ram, size);
	write_parameters(load_initrd(argv[2]), argv[4]);
	write_tables();
	region.memory_size = size;
	region.userspace_addr = (uintptr_t)ram;
	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "memory");
	vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0), "vcpu");
	set_cpuid(kvm, vcpu);
	set_registers(vcpu, entry);
	run = mmap(0, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	check(run == MAP_FAILED ? -1 : 0, "run");
	do
		check(ioctl(vcpu, KVM_RUN, 0), "run");
	while (serve(run));
	printf("exit %u suberror %u\n", run->exit_reason, run->internal.suberror);
	return 3;
}
