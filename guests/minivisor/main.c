/* A small hypervisor: it loads the image that lies behind it as its guest, and serves it for ever.
 * Options: level=N (the level that it is at; 1), extras (by VMX: see extras.h), traps (it intercepts #DB of its guest). */
#include "guest.h"
#include "memory.h"
#include "minivisor.h"
#include "next.h"
#include "option.h"
#include "service.h"
#include "start.h"
#include "vendor.h"

uint64_t level;

static void handle(const struct exit *exit)
{
	switch (exit->reason) {
	case EXIT_CPUID:
		serve_cpuid(&guest_registers);
		break;
	case EXIT_HYPERCALL:
		if (!serve_hypercall(&guest_registers)) {
			vendor_undefined();
			return;
		}
		break;
	case EXIT_PORT:
		serve_port(&guest_registers, exit);
		break;
	case EXIT_TRAP:
		vendor_trap();
		return;
	case EXIT_OUTSIDE:
		stop(STATUS_OUTSIDE, "its guest touched 0x%lx at 0x%lx, which is not its memory", exit->address, exit->rip);
	case EXIT_REFUSED:
		stop(STATUS_REFUSED, "the processor refuses its guest at 0x%lx, %s error 0x%lx", exit->rip, vendor_name, exit->code);
	case EXIT_SHUTDOWN:
		stop(STATUS_STOPPED, "its guest shut down at 0x%lx", exit->rip);
	case EXIT_OTHER:
		stop(STATUS_STOPPED, "its guest stopped at 0x%lx, %s exit 0x%lx", exit->rip, vendor_name, exit->code);
	}
	vendor_skip();
}

int main(uint64_t ram)
{
	const struct next *next;
	struct guest_start start;
	struct exit exit;

	level = option_number("level", 1);
	if (level < 1 || level > LEVEL_MAX)
		stop(STATUS_USAGE, "level is 1 to %u", LEVEL_MAX);
	next = next_find();
	memory_init(next_end(next), ram);
	guest_load(next, &start);
	service_init();
	vendor_init(&start);
	printf("minivisor %lu: %s, its guest has 0x%lx bytes at 0x%lx\n", level, vendor_name, memory_size(), memory_offset());
	for (;;) {
		vendor_run(&exit);
		handle(&exit);
	}
}
