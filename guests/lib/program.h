/* What the Linux programs share. They end with status 2 for a failed system call or a wrong file. */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <elf.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static inline int check(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(2);
	}
	return result;
}

static inline _Noreturn void wrong(const char *what, const char *why)
{
	fprintf(stderr, "%s: %s\n", what, why);
	exit(2);
}

/* The file's bytes; NULL for an empty one. */
static inline const uint8_t *map_file(const char *path, uint64_t *size)
{
	int file = check(open(path, O_RDONLY), path);
	struct stat found;
	void *at;

	check(fstat(file, &found), path);
	*size = (uint64_t)found.st_size;
	at = *size ? mmap(NULL, *size, PROT_READ, MAP_PRIVATE, file, 0) : NULL;
	check(at == MAP_FAILED ? -1 : 0, path);
	close(file);
	return at;
}

/* Loads an ELF64 executable at its physical addresses; gives its entry. */
static inline uint64_t load_elf64(const char *path, uint8_t *ram, uint64_t ram_size)
{
	uint64_t size;
	const uint8_t *file = map_file(path, &size);
	const Elf64_Ehdr *header = (const void *)file;
	const Elf64_Phdr *part, *end;

	if (size < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_ident[EI_CLASS] != ELFCLASS64 ||
	    header->e_phoff > size || header->e_phnum > (size - header->e_phoff) / sizeof *part)
		wrong(path, "no ELF64 image");
	part = (const void *)(file + header->e_phoff);
	for (end = part + header->e_phnum; part < end; part++) {
		if (part->p_type != PT_LOAD)
			continue;
		if (part->p_offset > size || part->p_filesz > size - part->p_offset || part->p_filesz > part->p_memsz ||
		    part->p_paddr > ram_size || part->p_memsz > ram_size - part->p_paddr)
			wrong(path, "does not fit");
		memcpy(ram + part->p_paddr, file + part->p_offset, part->p_filesz);
	}
	return header->e_entry;
}

#endif
