/* A 16550A on a PC's serial port. It sees register offsets 0 to 7; its output goes to a file descriptor, its interrupt to a line that
 * its owner reads or, when there is an in-kernel irqchip, that it drives itself. */
#ifndef NV_UART_H
#define NV_UART_H

#include "event.h"

struct nv_uart;

/* out: where transmitted bytes go, -1 to drop them. vm: descriptor of the VM whose irqchip has the line, -1 for none. irq: its GSI. */
struct nv_uart *nv_uart_new(int out, int vm, unsigned int irq);
void nv_uart_free(struct nv_uart *uart);

/* An nv_serve_fn; the device is a struct nv_uart. */
int nv_uart_serve(void *uart, uint64_t offset, struct nv_event *event);

/* Queues received bytes, as many as fit: gives how many. From any thread. */
unsigned int nv_uart_receive(struct nv_uart *uart, const uint8_t *bytes, unsigned int count);

/* The level of its interrupt line, 0 or 1. From any thread. */
int nv_uart_line(const struct nv_uart *uart);

/* Bytes that could not be written to out. From any thread. */
uint64_t nv_uart_lost(const struct nv_uart *uart);

#endif
