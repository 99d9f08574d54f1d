/* The Multiboot 1 twin of hello: a line, what the loader said about memory, modules and the command line, debug exit.
 * Runs under nestvmm and under QEMU's -kernel alike. Exit status: 0, or 1 when no Multiboot loader started it. */
#include <stdint.h>

#include "printf.h"
#include "serial.h"

enum { LOADER_MAGIC = 0x2badb002, HAS_MEMORY = 1, HAS_COMMAND_LINE = 4, HAS_MODULES = 8, HAS_MEMORY_MAP = 64 };

/* The head of the Multiboot information structure (Multiboot Specification 0.6.96, 3.3). */
struct multiboot {
	uint32_t flags, memory_lower, memory_upper, boot_device, command_line, modules, module_list, symbols[4];
	uint32_t map_length, map;
};

/* Its size member does not count itself. */
struct range {
	uint32_t size;
	uint32_t base, base_high, length, length_high;
	uint32_t type;
} __attribute__((packed));

struct module {
	uint32_t first, end, text, pad;
};

int main(uint32_t magic, const struct multiboot *info);

int main(uint32_t magic, const struct multiboot *info)
{
	serial_init();
	printf("ello from multiboot\n"); /* its h is out already */
	if (magic != LOADER_MAGIC) {
		printf("magic 0x%x is not a Multiboot loader's\n", magic);
		return 1;
	}
	if (info->flags & HAS_MEMORY)
		printf("memory %u KiB below 1 MiB, %u KiB above\n", info->memory_lower, info->memory_upper);
	if (info->flags & HAS_COMMAND_LINE)
		printf("command line %s\n", (const char *)(uintptr_t)info->command_line);
	if (info->flags & HAS_MODULES) {
		const struct module *module = (const void *)(uintptr_t)info->module_list;

		for (uint32_t i = 0; i < info->modules; i++, module++)
			printf("module %u bytes, %s\n", module->end - module->first, (const char *)(uintptr_t)module->text);
	}
	if (info->flags & HAS_MEMORY_MAP) {
		for (uint32_t at = info->map; at < info->map + info->map_length;) {
			const struct range *range = (const void *)(uintptr_t)at;

			printf("range 0x%08x%08x size 0x%08x%08x type %u\n", range->base_high, range->base,
			       range->length_high, range->length, range->type);
			at += range->size + sizeof range->size;
		}
	}
	return 0;
}
