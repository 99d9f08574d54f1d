#include "serial.h"
#include "io.h"

enum { DATA = 0, INTERRUPT_ENABLE = 1, FIFO_CONTROL = 2, LINE_CONTROL = 3, MODEM_CONTROL = 4, LINE_STATUS = 5 };
enum { DIVISOR_ACCESS = 0x80, EIGHT_BITS = 3, FIFO_ENABLE_AND_CLEAR = 7, DTR_RTS_OUT2 = 0xb, FIFO_EMPTY = 0x20, IDLE = 0x40 };
enum { FIFO_SIZE = 16 };

static unsigned int room; /* bytes that the transmitter's FIFO surely takes */

static void wait_for(uint8_t status)
{
	while (!(inb(SERIAL + LINE_STATUS) & status))
		;
}

void serial_init(void)
{
	wait_for(IDLE);
	outb(SERIAL + INTERRUPT_ENABLE, 0);
	outb(SERIAL + LINE_CONTROL, DIVISOR_ACCESS);
	outb(SERIAL + DATA, 1); /* 115200 baud */
	outb(SERIAL + INTERRUPT_ENABLE, 0);
	outb(SERIAL + LINE_CONTROL, EIGHT_BITS);
	outb(SERIAL + FIFO_CONTROL, FIFO_ENABLE_AND_CLEAR);
	outb(SERIAL + MODEM_CONTROL, DTR_RTS_OUT2);
}

void serial_put(char c)
{
	if (!room) {
		wait_for(FIFO_EMPTY);
		room = FIFO_SIZE;
	}
	room--;
	outb(SERIAL + DATA, (uint8_t)c);
}
