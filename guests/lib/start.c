#include "start.h"
#include "io.h"
#include "option.h"
#include "serial.h"
#include "trap.h"

void start(const char *command_line, uint64_t ram);

void start(const char *command_line, uint64_t ram)
{
	option_init(command_line);
	serial_init();
	trap_init();
	debug_exit((uint8_t)main(ram));
}
