/* Every first three bytes, and random ones behind likely prefixes, each in a buffer of exactly their number. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "instruction.h"
#include "length.h"

static void feed(const uint8_t *bytes, unsigned int count)
{
	static const int bits[] = {16, 32, 64};
	uint8_t *exact = malloc(count ? count : 1);

	memcpy(exact, bytes, count);
	for (int i = 0; i < 3; i++) {
		int length = nv_instruction_length(exact, count, bits[i]);

		if (length > (int)count || length > 15 || !length)
			abort();
	}
	nv_instruction_key(exact, count < 15 ? count : 15);
	free(exact);
}

int main(void)
{
	static const uint8_t likely[] = {0x66, 0x67, 0xf2, 0xf3, 0x48, 0x2e, 0x0f, 0x38, 0x82, 0x01, 0xcd, 0xe4, 0x04, 0x84, 0x25};
	uint8_t bytes[20];

	for (unsigned int first = 0; first < 1 << 16; first++) {
		bytes[0] = first >> 8;
		bytes[1] = first;
		bytes[2] = first * 7;
		for (unsigned int count = 0; count <= 3; count++)
			feed(bytes, count);
	}
	srand(1);
	for (int round = 0; round < 200000; round++) {
		unsigned int count = rand() % (sizeof bytes + 1);

		for (unsigned int i = 0; i < count; i++)
			bytes[i] = rand() % 8 ? likely[rand() % sizeof likely] : rand();
		feed(bytes, count);
	}
	puts("done");
	return 0;
}
