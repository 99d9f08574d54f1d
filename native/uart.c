#include "uart.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "table.h"

/* National Semiconductor PC16550D, registers and their bits. */
enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
enum { IER_RX = 1, IER_TX = 2, IER_LINE = 4, IER_MODEM = 8 };
enum { IIR_NONE = 1, IIR_TX = 2, IIR_RX = 4, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10 };
enum { LSR_DATA = 1, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

#define QUEUE 4096u /* a power of two; what the host sends ahead of the guest */

struct nv_uart {
	pthread_mutex_t lock;    /* the vCPU's thread against the one that receives */
	uint64_t lost;
	int out;
	int vm;
	unsigned int irq;
	int line;
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	uint8_t tx_event;        /* the transmitter became empty and nobody read IIR since */
	unsigned int head, tail;
	uint8_t queue[QUEUE];
};

static int received(const struct nv_uart *uart)
{
	return uart->head != uart->tail;
}

static uint8_t identify(const struct nv_uart *uart)
{
	uint8_t fifo = uart->fcr & FCR_ENABLE ? IIR_FIFO : 0;

	if (uart->ier & IER_RX && received(uart))
		return fifo | IIR_RX;
	if (uart->ier & IER_TX && uart->tx_event)
		return fifo | IIR_TX;
	return fifo | IIR_NONE;
}

/* On a PC the interrupt reaches the line only through OUT2. */
static void update_line(struct nv_uart *uart)
{
	int line = !(identify(uart) & IIR_NONE) && uart->mcr & MCR_OUT2;

	if (line == uart->line)
		return;
	uart->line = line;
	if (uart->vm >= 0) {
		struct kvm_irq_level level = {.irq = uart->irq, .level = line};

		ioctl(uart->vm, KVM_IRQ_LINE, &level);
	}
}

static void transmit(struct nv_uart *uart, const uint8_t *bytes, size_t count)
{
	while (uart->out >= 0 && count) {
		ssize_t written = write(uart->out, bytes, count);

		if (written < 0) {
			/* EINTR: a kick must end the run even when nobody reads our output */
			uart->lost += count;
			return;
		}
		bytes += written;
		count -= written;
	}
}

static unsigned int enqueue(struct nv_uart *uart, const uint8_t *bytes, unsigned int count)
{
	unsigned int free = QUEUE - (uart->head - uart->tail);

	if (count > free)
		count = free;
	for (unsigned int i = 0; i < count; i++)
		uart->queue[uart->head++ % QUEUE] = bytes[i];
	return count;
}

static uint8_t modem_status(const struct nv_uart *uart)
{
	if (uart->mcr & MCR_LOOP)
		return (uart->mcr & MCR_RTS ? MSR_CTS : 0) | (uart->mcr & MCR_DTR ? MSR_DSR : 0) |
		       (uart->mcr & MCR_OUT1 ? MSR_RI : 0) | (uart->mcr & MCR_OUT2 ? MSR_DCD : 0);
	return MSR_CTS | MSR_DSR | MSR_DCD;
}

static uint8_t read_register(struct nv_uart *uart, unsigned int offset)
{
	uint8_t value;

	switch (offset) {
	case DATA:
		if (uart->lcr & LCR_DLAB)
			return uart->dll;
		return received(uart) ? uart->queue[uart->tail++ % QUEUE] : 0;
	case IER:
		return uart->lcr & LCR_DLAB ? uart->dlm : uart->ier;
	case IIR:
		value = identify(uart);
		if ((value & 0xf) == IIR_TX)
			uart->tx_event = 0;
		return value;
	case LCR:
		return uart->lcr;
	case MCR:
		return uart->mcr;
	case LSR:
		return LSR_THRE | LSR_TEMT | (received(uart) ? LSR_DATA : 0);
	case MSR:
		return modem_status(uart);
	default:
		return uart->scr;
	}
}

static void write_register(struct nv_uart *uart, unsigned int offset, const uint8_t *bytes, size_t count)
{
	uint8_t value = bytes[count - 1];

	switch (offset) {
	case DATA:
		if (uart->lcr & LCR_DLAB) {
			uart->dll = value;
		} else if (uart->mcr & MCR_LOOP) {
			enqueue(uart, bytes, count);
		} else {
			transmit(uart, bytes, count);
			uart->tx_event = 1;
		}
		break;
	case IER:
		if (uart->lcr & LCR_DLAB) {
			uart->dlm = value;
			break;
		}
		/* enabling the transmitter's interrupt while it is empty raises it */
		if (value & IER_TX && !(uart->ier & IER_TX))
			uart->tx_event = 1;
		uart->ier = value & 0xf;
		break;
	case IIR:
		uart->fcr = value;
		if (value & FCR_CLEAR_RX)
			uart->tail = uart->head;
		break;
	case LCR:
		uart->lcr = value;
		break;
	case MCR:
		uart->mcr = value & 0x1f;
		break;
	case SCR:
		uart->scr = value;
		break;
	default:
		break;
	}
}

int nv_uart_serve(void *device, uint64_t offset, struct nv_event *event)
{
	struct nv_uart *uart = device;
	size_t count = event->count;

	if (offset > SCR)
		return NV_DECLINED;
	pthread_mutex_lock(&uart->lock);
	if (event->direction == NV_WRITE && event->size == 1) {
		write_register(uart, offset, event->data, count);
	} else {
		/* a wider access is one to each register that it covers */
		for (size_t element = 0; element < count; element++) {
			uint8_t *bytes = event->data + element * event->size;

			for (unsigned int i = 0; i < event->size; i++) {
				if (offset + i > SCR)
					bytes[i] = event->direction == NV_WRITE ? bytes[i] : 0xff;
				else if (event->direction == NV_WRITE)
					write_register(uart, offset + i, bytes + i, 1);
				else
					bytes[i] = read_register(uart, offset + i);
			}
		}
		if (event->direction != NV_WRITE) {
			event->value = 0;
			__builtin_memcpy(&event->value, event->data, event->size < 8 ? event->size : 8);
		}
	}
	update_line(uart);
	pthread_mutex_unlock(&uart->lock);
	return NV_HANDLED;
}

unsigned int nv_uart_receive(struct nv_uart *uart, const uint8_t *bytes, unsigned int count)
{
	pthread_mutex_lock(&uart->lock);
	count = enqueue(uart, bytes, count);
	update_line(uart);
	pthread_mutex_unlock(&uart->lock);
	return count;
}

int nv_uart_line(const struct nv_uart *uart)
{
	return uart->line;
}

uint64_t nv_uart_lost(const struct nv_uart *uart)
{
	return uart->lost;
}

struct nv_uart *nv_uart_new(int out, int vm, unsigned int irq)
{
	struct nv_uart *uart = calloc(1, sizeof *uart);

	if (!uart)
		return NULL;
	pthread_mutex_init(&uart->lock, NULL);
	uart->out = out;
	uart->vm = vm;
	uart->irq = irq;
	uart->dll = 1; /* 115200 baud */
	return uart;
}

void nv_uart_free(struct nv_uart *uart)
{
	if (uart)
		pthread_mutex_destroy(&uart->lock);
	free(uart);
}
