/* The 16550 at 0x3f8, by polling. */
#ifndef GUEST_SERIAL_H
#define GUEST_SERIAL_H

#define SERIAL 0x3f8

/* Waits until what is on its way is out; 115200 baud, FIFO on, no interrupts. */
void serial_init(void);
void serial_put(char c);

#endif
