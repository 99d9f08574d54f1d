/* One line of greeting, then a walk over all RAM above this image: a pattern written to each page, then read back.
 * Options: level=N (whom to greet as), walk=MIB (walk no more than this). Exit status: 0, or 1 for memory that forgets. */
#include "option.h"
#include "printf.h"
#include "start.h"
#include "walk.h"

int main(uint64_t ram)
{
	uint64_t level = option_number("level", 0), most = option_number("walk", RAM_BELOW_4G_MAX >> 20) << 20;
	uint64_t first = ((uint64_t)image_end + PAGE - 1) & -PAGE, last = ram < RAM_BELOW_4G_MAX ? ram & -PAGE : RAM_BELOW_4G_MAX;
	uint64_t failed;

	if (level)
		printf("hello from level %lu\n", level);
	else
		printf("hello, world\n");
	if (last > first && last - first > most)
		last = first + most;
	failed = walk(first, last);
	if (failed < last) {
		printf("memory at 0x%lx forgets what was written\n", failed);
		return 1;
	}
	printf("memory 0x%lx to 0x%lx: %lu pages hold what was written\n", first, last, (last - first) / PAGE);
	return 0;
}
