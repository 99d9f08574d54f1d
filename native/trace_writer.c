#include "trace_writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (256 * 1024)
/* A hole takes one byte of a text, and becomes at most this many. */
#define HOLE_MAX 24
/* So often a writer that found nothing looks again; the ring holds what comes meanwhile. */
#define PAUSE_NS 1000000

static void pause_a_little(void)
{
	struct timespec time = {.tv_nsec = PAUSE_NS};

	nanosleep(&time, NULL);
}

static char *put_decimal(char *to, uint64_t number)
{
	char digits[20];
	int count = 0;

	do {
		digits[count++] = '0' + number % 10;
		number /= 10;
	} while (number);
	while (count)
		*to++ = digits[--count];
	return to;
}

static char *put_hex(char *to, uint64_t number)
{
	int shift = number ? (63 - __builtin_clzll(number)) / 4 * 4 : 0;

	*to++ = '0';
	*to++ = 'x';
	for (; shift >= 0; shift -= 4)
		*to++ = "0123456789abcdef"[number >> shift & 15];
	return to;
}

static char *put_us(char *to, uint64_t ns)
{
	to = put_decimal(to, ns / 1000);
	*to++ = '.';
	*to++ = '0' + ns / 100 % 10;
	*to++ = '0' + ns / 10 % 10;
	*to++ = '0' + ns % 10;
	return to;
}

static char *put_word(char *to, const char *word)
{
	size_t length = strlen(word);

	memcpy(to, word, length);
	return to + length;
}

/* Nanoseconds since the start. Durations are differences of these, so that what ends together ends at the same nanosecond. */
static uint64_t since_start(const struct nv_trace_writer *writer, uint64_t ticks)
{
	return ticks > writer->start ? (uint64_t)((double)(ticks - writer->start) * writer->ns) : 0;
}

static uint64_t span(const struct nv_trace_writer *writer, const struct nv_trace_record *record, int which)
{
	const uint64_t points[] = {
		record->entered, record->event.ticks, record->decoded, record->routed, record->handled, record->done,
	};
	int total = which == NV_HOLE_TOTAL - NV_HOLE_GUEST;
	uint64_t from = since_start(writer, points[total ? 1 : which]);
	uint64_t to = since_start(writer, points[total ? 5 : which + 1]);

	/* the TSC of another processor may be a little behind */
	return to > from ? to - from : 0;
}

static uint64_t value_of(const struct nv_event *event)
{
	return event->size && event->size < 8 ? event->value & ((1ull << 8 * event->size) - 1) : event->value;
}

static char *fill_hole(const struct nv_trace_writer *writer, const struct nv_trace_record *record, uint8_t hole, char *to)
{
	const struct nv_event *event = &record->event;

	switch (hole) {
	case NV_HOLE_SEQUENCE:
		return put_decimal(to, record->sequence);
	case NV_HOLE_TICKS:
		return put_decimal(to, event->ticks);
	case NV_HOLE_QUALIFIER:
		return put_decimal(to, event->qualifier);
	case NV_HOLE_QUALIFIER_HEX:
		return put_hex(to, event->qualifier);
	case NV_HOLE_VALUE:
		return put_decimal(to, value_of(event));
	case NV_HOLE_COUNT:
		return put_decimal(to, event->count);
	case NV_HOLE_INFO:
		return put_decimal(to, event->info);
	case NV_HOLE_IN_C:
		return put_word(to, event->served ? "true" : "false");
	case NV_HOLE_ENTRIES:
		return put_decimal(to, record->entries);
	case NV_HOLE_AT_ENTERED:
		return put_us(to, since_start(writer, record->entered));
	case NV_HOLE_AT_EXIT:
		return put_us(to, since_start(writer, event->ticks));
	case NV_HOLE_AT_ROUTED:
		return put_us(to, since_start(writer, record->routed));
	case NV_HOLE_GUEST ... NV_HOLE_TOTAL:
		return put_us(to, span(writer, record, hole - NV_HOLE_GUEST));
	case NV_HOLE_GUEST + NV_HOLE_IN_NS ... NV_HOLE_TOTAL + NV_HOLE_IN_NS:
		return put_decimal(to, span(writer, record, hole - NV_HOLE_GUEST - NV_HOLE_IN_NS));
	default:
		return to;
	}
}

/* What stands before the text's first hole, eight bytes at a time; the buffer has room for seven too many. */
static const char *put_words(const char *text, const char *end, char **to)
{
	uint64_t word, holes;

	while ((size_t)(end - text) >= sizeof word) {
		memcpy(&word, text, sizeof word);
		memcpy(*to, &word, sizeof word);
		holes = word & 0x8080808080808080ull;
		if (holes) {
			*to += __builtin_ctzll(holes) / 8;
			return text + __builtin_ctzll(holes) / 8;
		}
		text += sizeof word;
		*to += sizeof word;
	}
	while (text < end && !(*text & 0x80))
		*(*to)++ = *text++;
	return text;
}

static char *put_record(const struct nv_trace_writer *writer, const struct nv_trace_record *record, char *to)
{
	const struct nv_trace_site *site = &writer->trace->sites[record->site];
	const char *text = site->text, *end = text + site->length;

	for (;;) {
		text = put_words(text, end, &to);
		if (text == end)
			return to;
		to = fill_hole(writer, record, *text++, to);
	}
}

/* All of it at this place; without a place, behind what was written before. */
static int write_all(const struct nv_trace_writer *writer, const char *bytes, size_t length, uint64_t offset, int placed)
{
	while (length) {
		ssize_t written = placed ? pwrite(writer->fd, bytes, length, offset) : write(writer->fd, bytes, length);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return written ? -errno : -EIO;
		bytes += written;
		length -= written;
		offset += written;
	}
	return 0;
}

/* Writes the buffer's first `length` bytes over the closing text, and that behind them; the buffer has room for it. */
static int flush(struct nv_trace_writer *writer, char *buffer, size_t length, int placed)
{
	int result;

	if (!length)
		return 0;
	if (placed)
		memcpy(buffer + length, writer->closing, writer->closing_length);
	result = write_all(writer, buffer, length + (placed ? writer->closing_length : 0), writer->offset, placed);
	if (!result) {
		writer->offset += length;
	} else if (placed && !ftruncate(writer->fd, writer->offset)) {
		/* what there was before had room */
		write_all(writer, writer->closing, writer->closing_length, writer->offset, 1);
	}
	return result;
}

static int write_rest(struct nv_trace_writer *writer, char *buffer, int placed)
{
	struct nv_trace *trace = writer->trace;
	char *to = buffer, *limit = buffer + BUFFER;
	int result;

	for (;;) {
		/* first: what was there when somebody said that nothing more will come */
		int stopping = __atomic_load_n(&writer->stopping, __ATOMIC_ACQUIRE);
		uint64_t head = __atomic_load_n(&trace->head, __ATOMIC_ACQUIRE), tail = trace->tail;

		while (tail != head && to < limit) {
			to = put_record(writer, &trace->record[tail & (trace->size - 1)], to);
			__atomic_store_n(&trace->tail, ++tail, __ATOMIC_RELEASE);
		}
		result = flush(writer, buffer, to - buffer, placed);
		if (result)
			return result;
		to = buffer;
		if (tail != head)
			continue;
		if (stopping)
			return placed ? 0 : write_all(writer, writer->closing, writer->closing_length, 0, 0);
		pause_a_little();
	}
}

int nv_trace_write(struct nv_trace_writer *writer)
{
	char *buffer = malloc(BUFFER + (size_t)NV_TRACE_TEXT_MAX * HOLE_MAX);
	int placed = lseek(writer->fd, 0, SEEK_CUR) >= 0;
	int result = buffer ? write_rest(writer, buffer, placed) : -ENOMEM;

	free(buffer);
	__atomic_store_n(&writer->error, -result, __ATOMIC_RELEASE);
	return result;
}

void nv_trace_wait(const struct nv_trace_writer *writer, uint64_t left)
{
	const struct nv_trace *trace = writer->trace;

	for (int pauses = 0; pauses < 100; pauses++) {
		if (trace->head - __atomic_load_n(&trace->tail, __ATOMIC_ACQUIRE) <= left ||
		    __atomic_load_n(&writer->error, __ATOMIC_ACQUIRE))
			return;
		pause_a_little();
	}
}
