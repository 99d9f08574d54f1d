/* Not going on, or dying at once. */
#include "wild.h"
#include "io.h"
#include "trap.h"

int loop(void)
{
	for (;;)
		asm volatile("cli");
}

int halt(void)
{
	for (;;)
		asm volatile("cli; hlt");
}

int triple_fault(void)
{
	trap_drop();
	asm volatile("ud2");
	return 1;
}

/* Does not fit an exit status. */
int exit_value(void)
{
	outl(0xf4, 0x12a);
	return 1;
}

int reset_keyboard(void)
{
	outb(0x64, 0xfe);
	return 1;
}

int reset_cf9(void)
{
	outb(0xcf9, 0x02);
	outb(0xcf9, 0x06);
	return 1;
}
