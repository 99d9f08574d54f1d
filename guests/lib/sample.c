#include "sample.h"
#include "printf.h"

uint32_t sample[SAMPLES_MAX];

/* Shell's sort. */
static void sort(uint64_t count)
{
	for (uint64_t gap = count / 2; gap; gap /= 2) {
		for (uint64_t i = gap; i < count; i++) {
			uint32_t value = sample[i];
			uint64_t j = i;

			for (; j >= gap && sample[j - gap] > value; j -= gap)
				sample[j] = sample[j - gap];
			sample[j] = value;
		}
	}
}

void sample_list(const char *name, uint64_t count)
{
	printf("rtt %s cycles", name);
	for (uint64_t i = 0; i < count; i++)
		printf(" %u", sample[i]);
	printf("\n");
}

void sample_print(const char *name, uint64_t count)
{
	sort(count);
	printf("rtt %s count %lu min %u median %u cycles\n", name, count, sample[0], sample[count / 2]);
}
