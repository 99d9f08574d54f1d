#include <stddef.h>

#include "trap.h"
#include "io.h"
#include "printf.h"

struct fixup {
	uint64_t at, go_on;
};

struct gate {
	uint16_t offset_low, selector;
	uint8_t stack, type;
	uint16_t offset_middle;
	uint32_t offset_high, zero;
};

extern const struct fixup fixup_first[], fixup_last[];
extern const char vectors[];

static struct gate idt[TRAP_VECTORS];
static trap_fn handlers[TRAP_VECTORS];
static volatile int last_vector = TRAP_NONE;
static volatile uint64_t last_error;

static void load_idt(uint16_t limit)
{
	const struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} pointer = {limit, (uint64_t)idt};

	asm volatile("lidt %0" :: "m"(pointer));
}

void trap_init(void)
{
	for (unsigned int i = 0; i < TRAP_VECTORS; i++) {
		uint64_t entry = (uint64_t)vectors + 16 * i;

		idt[i] = (struct gate){
			.offset_low = (uint16_t)entry,
			.offset_middle = (uint16_t)(entry >> 16),
			.selector = 8,
			.type = 0x8e, /* present, interrupt gate */
		};
	}
	load_idt(sizeof idt - 1);
}

void trap_drop(void)
{
	load_idt(0);
}

void trap_handle(unsigned int vector, trap_fn handler)
{
	handlers[vector] = handler;
}

void trap_clear(void)
{
	last_vector = TRAP_NONE;
}

int trap_vector(void)
{
	return last_vector;
}

uint64_t trap_error(void)
{
	return last_error;
}

void trap_dispatch(struct trap_frame *frame);

void trap_dispatch(struct trap_frame *frame)
{
	uint64_t cr2;

	if (handlers[frame->vector]) {
		handlers[frame->vector](frame);
		return;
	}
	for (const struct fixup *fixup = fixup_first; fixup < fixup_last; fixup++) {
		if (fixup->at == frame->rip) {
			last_vector = (int)frame->vector;
			last_error = frame->error;
			frame->rip = fixup->go_on;
			return;
		}
	}
	asm volatile("mov %%cr2, %0" : "=r"(cr2));
	printf("unexpected exception %lu, error 0x%lx, at 0x%lx, CR2 0x%lx, RSP 0x%lx\n",
	       frame->vector, frame->error, frame->rip, cr2, frame->rsp);
	debug_exit(TRAP_STATUS);
}
