#include "uart.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "output.h"
#include "table.h"

/* National Semiconductor PC16550D, section 8: the registers and their bits. */
enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
enum { IER_RX = 1, IER_TX = 2, IER_LINE = 4, IER_MODEM = 8 };
enum { IIR_MODEM = 0, IIR_NONE = 1, IIR_TX = 2, IIR_RX = 4, IIR_LINE = 6, IIR_TIMEOUT = 0xc, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_TRIGGER = 0xc0 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10 };
enum { LSR_DATA = 1, LSR_OVERRUN = 2, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum { MSR_DCTS = 1, MSR_DDSR = 2, MSR_TERI = 4, MSR_DDCD = 8, MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

#define FIFO 16u
#define BACKLOG 4096u /* what the host sends ahead of the guest; a power of two */

struct nv_uart {
	pthread_mutex_t lock;    /* the vCPU's thread against the one that receives; holds all below */
	uint64_t lost;
	int out;
	int vm;
	unsigned int irq;
	int line;
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	uint8_t overrun;
	uint8_t tx_event;        /* the transmitter became empty, and nobody read that in IIR since */
	uint8_t modem_delta;     /* MSR's lower half */
	unsigned int fifo_head, fifo_tail;
	uint8_t fifo[FIFO];      /* arrived: the guest can read it and clear it */
	unsigned int backlog_head, backlog_tail;
	uint8_t backlog[BACKLOG]; /* still on the wire */
};

static unsigned int received(const struct nv_uart *uart)
{
	return uart->fifo_head - uart->fifo_tail;
}

/* Without its FIFO the receiver holds one byte. */
static unsigned int depth(const struct nv_uart *uart)
{
	return uart->fcr & FCR_ENABLE ? FIFO : 1;
}

/* The wire waits while the receiver is full, so nothing from the host overruns it; in loopback the wire is cut. */
static void arrive(struct nv_uart *uart)
{
	while (!(uart->mcr & MCR_LOOP) && uart->backlog_head != uart->backlog_tail && received(uart) < depth(uart))
		uart->fifo[uart->fifo_head++ % FIFO] = uart->backlog[uart->backlog_tail++ % BACKLOG];
}

static uint8_t take(struct nv_uart *uart)
{
	return received(uart) ? uart->fifo[uart->fifo_tail++ % FIFO] : 0;
}

/* A full FIFO keeps what it has; a lone receiver buffer is overwritten. */
static void loop_back(struct nv_uart *uart, uint8_t byte)
{
	if (received(uart) == depth(uart)) {
		uart->overrun = 1;
		if (uart->fcr & FCR_ENABLE)
			return;
		uart->fifo_tail = uart->fifo_head;
	}
	uart->fifo[uart->fifo_head++ % FIFO] = byte;
}

/* Below the trigger level the data sheet waits four character times before it reports a timeout; here no time passes on the wire. */
static uint8_t identify_received(const struct nv_uart *uart)
{
	static const uint8_t triggers[] = {1, 4, 8, 14};

	if (uart->fcr & FCR_ENABLE && received(uart) < triggers[(uart->fcr & FCR_TRIGGER) >> 6])
		return IIR_TIMEOUT;
	return IIR_RX;
}

/* The pending interrupt of the highest priority. */
static uint8_t identify(const struct nv_uart *uart)
{
	if (uart->ier & IER_LINE && uart->overrun)
		return IIR_LINE;
	if (uart->ier & IER_RX && received(uart))
		return identify_received(uart);
	if (uart->ier & IER_TX && uart->tx_event)
		return IIR_TX;
	if (uart->ier & IER_MODEM && uart->modem_delta)
		return IIR_MODEM;
	return IIR_NONE;
}

/* A PC's boards pass the interrupt on only while OUT2 is set. QEMU's does always, and images made for it leave OUT2 clear: so do we. */
static void update_line(struct nv_uart *uart)
{
	int line = identify(uart) != IIR_NONE;

	if (line == uart->line)
		return;
	__atomic_store_n(&uart->line, line, __ATOMIC_RELAXED);
	if (uart->vm >= 0) {
		struct kvm_irq_level level = {.irq = uart->irq, .level = line};

		ioctl(uart->vm, KVM_IRQ_LINE, &level);
	}
}

/* The modem's four lines; in loopback they are our own outputs. */
static uint8_t modem_lines(const struct nv_uart *uart)
{
	if (uart->mcr & MCR_LOOP)
		return (uart->mcr & MCR_RTS ? MSR_CTS : 0) | (uart->mcr & MCR_DTR ? MSR_DSR : 0) |
		       (uart->mcr & MCR_OUT1 ? MSR_RI : 0) | (uart->mcr & MCR_OUT2 ? MSR_DCD : 0);
	return MSR_CTS | MSR_DSR | MSR_DCD;
}

static void control_modem(struct nv_uart *uart, uint8_t value)
{
	uint8_t before = modem_lines(uart), changed;

	uart->mcr = value & (MCR_DTR | MCR_RTS | MCR_OUT1 | MCR_OUT2 | MCR_LOOP);
	changed = before ^ modem_lines(uart);
	uart->modem_delta |= changed >> 4 & (MSR_DCTS | MSR_DDSR | MSR_DDCD);
	if (changed & before & MSR_RI)
		uart->modem_delta |= MSR_TERI;
}

static void control_fifo(struct nv_uart *uart, uint8_t value)
{
	/* without the enable bit the others are not programmed; changing it empties the FIFO */
	if ((value ^ uart->fcr) & FCR_ENABLE || (value & FCR_ENABLE && value & FCR_CLEAR_RX))
		uart->fifo_tail = uart->fifo_head;
	uart->fcr = value & FCR_ENABLE ? value & (FCR_ENABLE | FCR_TRIGGER) : 0;
}

/* Unlocked meanwhile: who receives must not wait for whoever reads our output. */
static void transmit(struct nv_uart *uart, const uint8_t *bytes, size_t count)
{
	uint64_t lost;

	pthread_mutex_unlock(&uart->lock);
	lost = nv_output(uart->out, bytes, count);
	pthread_mutex_lock(&uart->lock);
	__atomic_store_n(&uart->lost, uart->lost + lost, __ATOMIC_RELAXED);
	uart->tx_event = 1;
}

static uint8_t read_register(struct nv_uart *uart, unsigned int offset)
{
	uint8_t value;

	switch (offset) {
	case DATA:
		return uart->lcr & LCR_DLAB ? uart->dll : take(uart);
	case IER:
		return uart->lcr & LCR_DLAB ? uart->dlm : uart->ier;
	case IIR:
		value = identify(uart);
		if (value == IIR_TX)
			uart->tx_event = 0;
		return value | (uart->fcr & FCR_ENABLE ? IIR_FIFO : 0);
	case LCR:
		return uart->lcr;
	case MCR:
		return uart->mcr;
	case LSR:
		value = LSR_THRE | LSR_TEMT | (uart->overrun ? LSR_OVERRUN : 0) | (received(uart) ? LSR_DATA : 0);
		uart->overrun = 0;
		return value;
	case MSR:
		value = modem_lines(uart) | uart->modem_delta;
		uart->modem_delta = 0;
		return value;
	case SCR:
		return uart->scr;
	default:
		return 0xff;
	}
}

static void write_register(struct nv_uart *uart, unsigned int offset, uint8_t value)
{
	switch (offset) {
	case DATA:
		if (uart->lcr & LCR_DLAB) {
			uart->dll = value;
		} else if (uart->mcr & MCR_LOOP) {
			loop_back(uart, value);
			uart->tx_event = 1;
		} else {
			transmit(uart, &value, 1);
		}
		break;
	case IER:
		if (uart->lcr & LCR_DLAB) {
			uart->dlm = value;
			break;
		}
		/* enabling the interrupt of a transmitter that is empty raises it */
		if (value & IER_TX && !(uart->ier & IER_TX))
			uart->tx_event = 1;
		uart->ier = value & (IER_RX | IER_TX | IER_LINE | IER_MODEM);
		break;
	case IIR:
		control_fifo(uart, value);
		break;
	case LCR:
		uart->lcr = value;
		break;
	case MCR:
		control_modem(uart, value);
		break;
	case SCR:
		uart->scr = value;
		break;
	default:
		break;
	}
}

/* One element: a wider one than a byte is an access to each register that it covers, and to nothing behind the last. */
static void access_element(struct nv_uart *uart, unsigned int offset, struct nv_event *event, uint8_t *bytes)
{
	for (unsigned int i = 0; i < event->size; i++) {
		if (event->direction == NV_WRITE)
			write_register(uart, offset + i, bytes[i]);
		else
			bytes[i] = read_register(uart, offset + i);
		arrive(uart);
	}
}

int nv_uart_serve(void *device, uint64_t offset, struct nv_event *event)
{
	struct nv_uart *uart = device;
	size_t size = event->size;

	if (offset > SCR)
		return NV_DECLINED;
	pthread_mutex_lock(&uart->lock);
	if (event->direction == NV_WRITE && offset == DATA && size == 1 && !(uart->lcr & LCR_DLAB || uart->mcr & MCR_LOOP)) {
		transmit(uart, event->data, event->count);
	} else {
		for (size_t at = 0; at < size * event->count; at += size)
			access_element(uart, offset, event, event->data + at);
		if (event->direction != NV_WRITE && event->count) {
			event->value = 0;
			memcpy(&event->value, event->data, size < sizeof event->value ? size : sizeof event->value);
		}
	}
	update_line(uart);
	pthread_mutex_unlock(&uart->lock);
	return NV_HANDLED;
}

unsigned int nv_uart_receive(struct nv_uart *uart, const uint8_t *bytes, unsigned int count)
{
	unsigned int taken;

	pthread_mutex_lock(&uart->lock);
	for (taken = 0; taken < count && uart->backlog_head - uart->backlog_tail < BACKLOG; taken++) {
		uart->backlog[uart->backlog_head++ % BACKLOG] = bytes[taken];
		arrive(uart);
	}
	update_line(uart);
	pthread_mutex_unlock(&uart->lock);
	return taken;
}

int nv_uart_line(const struct nv_uart *uart)
{
	return __atomic_load_n(&uart->line, __ATOMIC_RELAXED);
}

uint64_t nv_uart_lost(const struct nv_uart *uart)
{
	return __atomic_load_n(&uart->lost, __ATOMIC_RELAXED);
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
	if (!uart)
		return;
	pthread_mutex_destroy(&uart->lock);
	free(uart);
}
