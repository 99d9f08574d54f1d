/* A family of guests that do what no guest should, one member by its name on the command line. README.md has the members
 * and the exit status that each one must end with. A member that survives what it did returns its status itself. */
#include "wild.h"
#include "option.h"
#include "printf.h"
#include "start.h"

#define STATUS_USAGE 2

uint64_t ram_end;

static uint64_t state; /* of next_random */

static const struct member {
	const char *name;
	int (*run)(void);
} members[] = {
	{"loop", loop},
	{"halt", halt},
	{"triple-fault", triple_fault},
	{"exit-value", exit_value},
	{"reset-keyboard", reset_keyboard},
	{"reset-cf9", reset_cf9},
	{"jump-out", jump_out},
	{"write-beyond", write_beyond},
	{"string-beyond", string_beyond},
	{"mmio-storm", mmio_storm},
	{"stack-overflow", stack_overflow},
	{"stack-hole", stack_hole},
	{"cr3-outside", cr3_outside},
	{"cr3-self", cr3_self},
	{"reserved-bits", reserved_bits},
	{"io-storm", io_storm},
	{"serial-storm", serial_storm},
	{"serial-registers", serial_registers},
	{"string-wrap", string_wrap},
	{"string-endless", string_endless},
	{"port-sweep", port_sweep},
	{"self-modify", self_modify},
	{"msr-storm", msr_storm},
	{"exception-storm", exception_storm},
	{"garbage", garbage},
	{"bad-modes", bad_modes},
	{"real-mode", real_mode},
};

uint32_t next_random(void)
{
	state = state * 6364136223846793005 + 1442695040888963407;
	return (uint32_t)(state >> 32);
}

int main(uint64_t ram)
{
	const char *name = option_first();

	state = option_number("seed", 1);
	ram_end = ram <= RAM_BELOW_4G_MAX ? ram : FOUR_GIB + ram - RAM_BELOW_4G_MAX;
	for (const struct member *member = members; member < members + sizeof members / sizeof *members; member++) {
		if (option_is(name, member->name)) {
			printf("wild %s\n", member->name);
			return member->run();
		}
	}
	printf("wild: name a member:");
	for (const struct member *member = members; member < members + sizeof members / sizeof *members; member++)
		printf(" %s", member->name);
	printf("\n");
	return STATUS_USAGE;
}
