/* Random accesses to every device in C, each with exactly the bytes that it moves: for the sanitizers. */
#include <stdio.h>
#include <stdlib.h>

#include "debugcon.h"
#include "ignore.h"
#include "table.h"
#include "uart.h"

static const uint8_t sizes[] = {1, 2, 4, 8, 0};

static void fill(struct nv_event *event)
{
	size_t length;

	event->size = sizes[rand() % sizeof sizes];
	event->count = rand() % 3 ? 1 : rand() % (4096 / (event->size ? event->size : 1) + 1);
	event->direction = rand() % 3;
	length = (size_t)event->size * event->count;
	event->data = malloc(length ? length : 1);
	if (!event->data)
		abort();
	for (size_t i = 0; i < length; i++)
		event->data[i] = rand();
}

int main(void)
{
	struct nv_uart *uart = nv_uart_new(-1, -1, 4);
	struct nv_debugcon debugcon = {.out = -1};
	unsigned int handled = 0;

	if (!uart)
		abort();
	srand(1);
	for (int i = 0; i < 100000; i++) {
		uint64_t offset = (uint64_t)(rand() % 50 ? rand() % 10 : -1 - rand() % 4);
		struct nv_event event = {0};
		uint8_t typed[64] = {0};

		fill(&event);
		handled += nv_uart_serve(uart, offset, &event) == NV_HANDLED;
		handled += nv_debugcon_serve(&debugcon, offset, &event) == NV_HANDLED;
		handled += nv_ignore_serve(NULL, offset, &event) == NV_HANDLED;
		free(event.data);
		if (nv_uart_receive(uart, typed, rand() % (sizeof typed + 1)) > sizeof typed)
			abort();
	}
	nv_uart_free(uart);
	printf("%s\n", handled > 100000 ? "done" : "nothing was handled");
	return 0;
}
