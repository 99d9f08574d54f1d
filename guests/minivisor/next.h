/* The next image: `nestvmm.loaders.stack` puts it behind this one, on the first page after image_end. */
#ifndef NEXT_H
#define NEXT_H

#include <stdint.h>

#define NEXT_MAGIC 0x7478656e6d6d766e /* "nvmmnext" */

struct next {
	uint64_t magic;
	uint64_t size;            /* bytes of the image */
	char command_line[4080];  /* ends in NUL */
	uint8_t image[];          /* an ELF64 executable */
};

/* Stops when there is none. */
const struct next *next_find(void);

/* The first address behind it. */
uint64_t next_end(const struct next *next);

#endif
