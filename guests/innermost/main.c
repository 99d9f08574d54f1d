/* The guest on top of minivisors: asks each of them for all that it offers, checks the answers, and tells what one costs.
 * Options: level=N (its own; 1), below=MASK (bit x: a minivisor at level x; all levels below), walk=MIB, count=N (measure),
 * beyond[=ADDRESS] (touches what is not its memory; the first address behind it). Exit status: the number of wrong answers. */
#include "below.h"
#include "offer.h"
#include "option.h"
#include "printf.h"
#include "sample.h"
#include "start.h"
#include "walk.h"

#define STATUS_USAGE 2
#define WRONG_MAX 100

static unsigned int check_memory(uint64_t ram)
{
	uint64_t most = option_number("walk", RAM_BELOW_4G_MAX >> 20) << 20;
	uint64_t first = ((uint64_t)image_end + PAGE - 1) & -PAGE, last = ram & -PAGE, failed;

	if (last > first && last - first > most)
		last = first + most;
	failed = walk(first, last);
	printf("memory 0x%lx to 0x%lx of 0x%lx: %s\n", first, last, ram, failed < last ? "wrong" : "right");
	return failed < last;
}

/* Its hypervisor does not let it return. */
static unsigned int go_beyond(uint64_t address)
{
	uint64_t value;

	printf("beyond: 0x%lx\n", address);
	value = *(volatile uint64_t *)address;
	printf("beyond: there is 0x%lx\n", value);
	return 1;
}

int main(uint64_t ram)
{
	uint64_t level = option_number("level", 1), count = option_number("count", 0);
	uint64_t mask = option_number("below", (1ull << level) - 2), own = 0;
	unsigned int wrong = 0;

	if (level < 1 || level > LEVEL_MAX || mask >= 1ull << level || count > SAMPLES_MAX) {
		printf("innermost: level is 1 to %u, below names lower levels, count is at most %u\n", LEVEL_MAX, SAMPLES_MAX);
		return STATUS_USAGE;
	}
	wrong += below_marks(mask, level);
	/* whoever shares our memory does not survive this */
	wrong += check_memory(ram);
	wrong += below_hypercalls(mask);
	wrong += below_ports(mask);
	for (uint64_t below = 1; below < level; below++)
		if (mask >> below & 1)
			own = below;
	if (own && count)
		below_measure(own, count);
	if (option_word("beyond") || option_text("beyond"))
		wrong += go_beyond(option_number("beyond", ram));
	printf("level %lu: %u wrong\n", level, wrong);
	return (int)(wrong < WRONG_MAX ? wrong : WRONG_MAX);
}
