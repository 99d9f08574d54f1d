/* What a guest defines, and what start-up code gives it. */
#ifndef GUEST_START_H
#define GUEST_START_H

#include <stdint.h>

/* Where devices' addresses begin and RAM below 4 GiB ends at the latest; what is left of RAM begins at 4 GiB. */
#define RAM_BELOW_4G_MAX 0xc0000000UL
#define FOUR_GIB 0x100000000UL

extern char image_end[];

/* ram: bytes of RAM. Its result is the run's exit status. */
int main(uint64_t ram);

#endif
