/* The members of the family, by file. Each returns the exit status of a guest that survived it, or never returns. */
#ifndef WILD_H
#define WILD_H

#include <stdint.h>

/* A linear congruential generator's next number: the same ones in each run. */
uint32_t next_random(void);

/* Where RAM ends: the first address above 1 MiB that no level below gave us. */
extern uint64_t ram_end;

/* stop.c: not going on, or dying at once */
int loop(void);
int halt(void);
int triple_fault(void);
int exit_value(void);
int reset_keyboard(void);
int reset_cf9(void);

/* memory.c: addresses that are not ours, stacks and page tables that cannot work */
int jump_out(void);
int write_beyond(void);
int string_beyond(void);
int mmio_storm(void);
int stack_overflow(void);
int stack_hole(void);
int cr3_outside(void);
int cr3_self(void);
int reserved_bits(void);

/* io.c: ports */
int io_storm(void);
int serial_storm(void);
int serial_registers(void);
int string_wrap(void);
int string_endless(void);
int port_sweep(void);

/* cpu.c: instructions */
int self_modify(void);
int msr_storm(void);
int exception_storm(void);
int garbage(void);

/* mode.c: control registers */
int bad_modes(void);
int real_mode(void);

#endif
