/* Each event that the `direct` engine traps, once, with a value that both sides know. One line each on the serial port;
 * the exit status is the number of failed checks. README.md has the protocol and the options. */
#include "events.h"
#include "option.h"
#include "printf.h"
#include "start.h"
#include "trap.h"

unsigned int failed;

void check(const char *what, uint64_t address, unsigned int size, uint64_t got, uint64_t expected)
{
	printf("%-9s 0x%lx %u -> 0x%lx ", what, address, size, got);
	if (got == expected) {
		printf("ok\n");
		return;
	}
	printf("FAILED, expected 0x%lx\n", expected);
	failed++;
}

void check_word(const char *what, const char *got, const char *expected)
{
	printf("%-9s -> %s ", what, got);
	if (option_is(got, expected)) {
		printf("ok\n");
		return;
	}
	printf("FAILED, expected %s\n", expected);
	failed++;
}

const char *trap_name(int vector)
{
	switch (vector) {
	case TRAP_NONE: return "none";
	case TRAP_UD: return "#UD";
	case TRAP_GP: return "#GP";
	case TRAP_PF: return "#PF";
	default: return "exception";
	}
}

int main(uint64_t ram)
{
	uint64_t areas = option_number("areas", AREAS);

	(void)ram;
	for (unsigned int area = 0; area < areas && area < AREAS; area++) {
		ports_events(area);
		hole_events(area);
		msr_events(area);
	}
	if (option_word("popcnt"))
		popcnt_event();
	if (option_text("breakpoint"))
		breakpoint_event(option_is(option_text("breakpoint"), "monitor") ? "monitor" : "guest");
	if (option_text("readonly"))
		read_only_event(option_number("readonly", 0));
	if (option_text("fault"))
		fault_event(option_number("fault", 0));
	if (option_word("interrupt"))
		interrupt_event();
	if (option_word("hlt"))
		hlt_event();
	printf("events: %u failed\n", failed);
	if (option_word("shutdown"))
		shutdown_event();
	return (int)failed;
}
