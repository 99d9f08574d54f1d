/* A Linux program that runs an image of guests/ through /dev/kvm: `launcher IMAGE [WORD]...`, the words being its command line.
 * For a Linux at level 1 or above, so that the same image measures itself one level higher. It has 64 MiB, a serial port that can
 * be written, the debug exit, and an in-kernel APIC; other ports and addresses read as all ones. Exit status: the guest's; 2 for a
 * wrong image or a failed system call, 3 for an unexpected exit. */
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "program.h"

enum { RAM = 64 << 20, TSS = 0xfffbd000, CPUID_MAX = 256 };
/* The guest's first MiB: six page tables, its command line, a stack. */
enum { PAGE = 4096, TABLES = 0x1000, DIRECTORIES = 4, COMMAND_LINE = 0x8000, COMMAND_MAX = PAGE, STACK = 0x10000 };
enum { CODE = 0x08, DATA = 0x10, PRESENT = 3, LARGE = 0x83 };
/* While the line control has DIVISOR, the data port is the baud rate's. */
enum { SERIAL = 0x3f8, LINE_CONTROL = SERIAL + 3, DIVISOR = 0x80, LINE_STATUS = SERIAL + 5, READY = 0x60, DEBUG_EXIT = 0xf4 };

static uint8_t *ram;
static uint8_t line_control;

static void make_tables(void)
{
	uint64_t *table = (uint64_t *)(ram + TABLES);
	uint64_t *pages = table + 2 * PAGE / sizeof *table;

	table[0] = (TABLES + PAGE) | PRESENT;
	for (uint64_t i = 0; i < DIRECTORIES; i++)
		table[PAGE / sizeof *table + i] = (TABLES + (2 + i) * PAGE) | PRESENT;
	for (uint64_t i = 0; i < DIRECTORIES * PAGE / sizeof *pages; i++)
		pages[i] = i << 21 | LARGE;
}

/* Long mode, CPL 0, interrupts off: what guests/README.md promises. */
static void enter(int vcpu, uint64_t entry)
{
	struct kvm_segment code = {.selector = CODE, .type = 11, .limit = ~0u, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {.selector = DATA, .type = 3, .limit = ~0u, .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_regs regs = {.rip = entry, .rsp = STACK, .rdi = COMMAND_LINE, .rsi = RAM, .rflags = 2};
	struct kvm_sregs sregs;

	check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = TABLES;
	sregs.cr4 = 0x20;        /* PAE */
	sregs.efer = 0x500;      /* LMA, LME */
	sregs.cr0 = 0x80000031;  /* PG, NE, ET, PE */
	check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	check(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static void serve_port(const struct kvm_run *run, uint8_t *data)
{
	uint32_t size = run->io.size * run->io.count;

	if (run->io.direction == KVM_EXIT_IO_IN) {
		memset(data, 0xff, size);
		if (run->io.port == LINE_STATUS)
			*data = READY;
	} else if (run->io.port == LINE_CONTROL) {
		line_control = *data;
	} else if (run->io.port == SERIAL && !(line_control & DIVISOR)) {
		fwrite(data, 1, size, stdout);
	} else if (run->io.port == DEBUG_EXIT) {
		exit(*data);
	}
}

int main(int argc, char **argv)
{
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 entries[CPUID_MAX]; } cpuid = {.head.nent = CPUID_MAX};
	struct kvm_userspace_memory_region region = {.memory_size = RAM};
	int kvm, vm, vcpu;
	struct kvm_run *run;
	uint64_t entry;
	char *line;

	if (argc < 2)
		wrong("launcher", "name an image");
	kvm = check(open("/dev/kvm", O_RDWR), "/dev/kvm");
	vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	check(ioctl(vm, KVM_SET_TSS_ADDR, TSS), "KVM_SET_TSS_ADDR");
	check(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(ram == MAP_FAILED ? -1 : 0, "memory");
	entry = load_elf64(argv[1], ram, RAM);
	make_tables();
	line = (char *)ram + COMMAND_LINE;
	for (int i = 2; i < argc; i++) {
		if (strlen(line) + strlen(argv[i]) + 2 > COMMAND_MAX)
			wrong(argv[1], "its command line is too long");
		strcat(strcat(line, argv[i]), " ");
	}
	region.userspace_addr = (uintptr_t)ram;
	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
	vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	check(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
	check(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
	enter(vcpu, entry);
	run = mmap(NULL, (size_t)check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "size"), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	check(run == MAP_FAILED ? -1 : 0, "kvm_run");
	for (;;) {
		check(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
		if (run->exit_reason == KVM_EXIT_IO) {
			serve_port(run, (uint8_t *)run + run->io.data_offset);
		} else if (run->exit_reason == KVM_EXIT_MMIO) {
			memset(run->mmio.data, 0xff, sizeof run->mmio.data);
		} else {
			fprintf(stderr, "launcher: exit %u, %u\n", run->exit_reason, run->internal.suberror);
			return 3;
		}
	}
}
