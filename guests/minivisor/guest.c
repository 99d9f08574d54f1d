#include <elf.h>

#include "guest.h"
#include "memory.h"
#include "minivisor.h"

/* Where things lie below the guest's first MiB: six page tables, the GDT, the command line, a stack. */
enum { TABLES = 0x1000, GDT = 0x7000, COMMAND_LINE = 0x8000, STACK = 0x9000, STACK_END = 0xd000, LOW_END = STACK_END };
enum { PAGE = 4096, DIRECTORIES = 4, TABLE = 3, LARGE_PAGE = 0x83 };

static const uint64_t gdt[] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};

static void put(uint64_t address, uint64_t value)
{
	memory_write(address, &value, sizeof value);
}

/* The first 4 GiB mapped to themselves. */
static void make_tables(void)
{
	memory_clear(TABLES, (2 + DIRECTORIES) * PAGE);
	put(TABLES, (TABLES + PAGE) | TABLE);
	for (uint64_t i = 0; i < DIRECTORIES; i++)
		put(TABLES + PAGE + 8 * i, (TABLES + (2 + i) * PAGE) | TABLE);
	for (uint64_t i = 0; i < DIRECTORIES * 512; i++)
		put(TABLES + 2 * PAGE + 8 * i, i << 21 | LARGE_PAGE);
}

static uint64_t load_elf(const uint8_t *image, uint64_t size)
{
	const Elf64_Ehdr *header = (const void *)image;

	if (size < sizeof *header || *(const uint32_t *)image != 0x464c457f || header->e_ident[EI_CLASS] != ELFCLASS64 ||
	    header->e_type != ET_EXEC || header->e_machine != EM_X86_64 || header->e_phentsize != sizeof(Elf64_Phdr) ||
	    header->e_phoff > size || header->e_phnum > (size - header->e_phoff) / sizeof(Elf64_Phdr))
		stop(STATUS_USAGE, "the next image is no ELF64 executable for x86-64");
	for (unsigned int i = 0; i < header->e_phnum; i++) {
		const Elf64_Phdr *part = (const Elf64_Phdr *)(image + header->e_phoff) + i;

		if (part->p_type != PT_LOAD || !part->p_memsz)
			continue;
		if (part->p_offset > size || part->p_filesz > size - part->p_offset || part->p_filesz > part->p_memsz)
			stop(STATUS_USAGE, "the next image's segment %u is truncated", i);
		if (part->p_paddr < LOW_END)
			stop(STATUS_USAGE, "the next image's segment %u lies at 0x%lx, its start-up state below 0x%x", i, part->p_paddr,
			     LOW_END);
		memory_write(part->p_paddr, image + part->p_offset, part->p_filesz);
		memory_clear(part->p_paddr + part->p_filesz, part->p_memsz - part->p_filesz);
	}
	return header->e_entry;
}

void guest_load(const struct next *next, struct guest_start *start)
{
	start->rip = load_elf(next->image, next->size);
	make_tables();
	memory_write(GDT, gdt, sizeof gdt);
	memory_write(COMMAND_LINE, next->command_line, sizeof next->command_line);
	start->rsp = STACK_END;
	start->rdi = COMMAND_LINE;
	start->rsi = memory_size();
	start->cr3 = TABLES;
	start->gdt_base = GDT;
	start->gdt_limit = sizeof gdt - 1;
}
