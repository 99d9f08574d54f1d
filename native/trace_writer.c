#define _GNU_SOURCE
#include "trace_writer.h"

#include <emmintrin.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "trace_file.h"

#define BUFFER (256 * 1024)
/* A hole takes one byte of a text, and becomes at most this many. */
#define HOLE_MAX 24
/* So often a writer that found nothing looks again; the ring holds what comes meanwhile. */
#define PAUSE_NS 10000000
#define PAUSES 10
/* The least urgent thread may keep a processor until the next tick, which level n has to wait for then. */
#define RECORDS_AT_ONCE 16

_Static_assert(sizeof(pthread_mutex_t) <= sizeof(((struct nv_trace_writer *)0)->lock), "the lock's room");

static void pause_a_little(void)
{
	struct timespec time = {.tv_nsec = PAUSE_NS};

	nanosleep(&time, NULL);
}

/* Two digits of a number below 100. */
static inline void put_pair(char *to, uint32_t number)
{
	static const char pairs[] = "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849"
				    "5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

	memcpy(to, &pairs[2 * number], 2);
}

static unsigned int count_digits(uint64_t number)
{
	unsigned int digits = 1;

	for (; number >= 10000; number /= 10000)
		digits += 4;
	return digits + (number >= 10) + (number >= 100) + (number >= 1000);
}

static inline char *put_decimal(char *to, uint64_t number)
{
	char *end, *at;
	uint32_t rest;

	if (number < 10) {
		*to = '0' + number;
		return to + 1;
	}
	at = end = to + count_digits(number);
	for (; number > UINT32_MAX; number /= 100)
		put_pair(at -= 2, number % 100);
	/* most are short, and dividing those costs half as much */
	for (rest = number; rest >= 100; rest /= 100)
		put_pair(at -= 2, rest % 100);
	if (rest >= 10)
		put_pair(at - 2, rest);
	else
		at[-1] = '0' + rest;
	return end;
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
	uint32_t part = ns % 1000;

	to = put_decimal(to, ns / 1000);
	to[0] = '.';
	to[1] = '0' + part / 100;
	put_pair(to + 2, part % 100);
	return to + 4;
}

static char *put_word(char *to, const char *word)
{
	size_t length = strlen(word);

	memcpy(to, word, length);
	return to + length;
}

/* Nanoseconds since the start, in the order of time. Durations are differences of these, so that what ends together ends at the same
 * nanosecond. */
enum { ENTERED, EXITED, DECODED, ROUTED, HANDLED, DONE, POINTS };

static uint64_t since_start(const struct nv_trace_writer *writer, uint64_t ticks)
{
	return ticks > writer->start ? (int64_t)((double)(int64_t)(ticks - writer->start) * writer->ns) : 0;
}

static void set_points(const struct nv_trace_writer *writer, const struct nv_trace_record *record, uint64_t points[POINTS])
{
	points[ENTERED] = since_start(writer, record->entered);
	points[EXITED] = since_start(writer, record->event.ticks);
	points[DECODED] = since_start(writer, record->decoded);
	points[ROUTED] = since_start(writer, record->routed);
	points[HANDLED] = since_start(writer, record->handled);
	points[DONE] = since_start(writer, record->done);
}

static uint64_t span(const uint64_t points[POINTS], int which)
{
	int total = which == NV_HOLE_TOTAL - NV_HOLE_GUEST;
	uint64_t from = points[total ? EXITED : which], to = points[total ? DONE : which + 1];

	/* the TSC of another processor may be a little behind */
	return to > from ? to - from : 0;
}

static uint64_t value_of(const struct nv_event *event)
{
	return event->size && event->size < 8 ? event->value & ((1ull << 8 * event->size) - 1) : event->value;
}

static char *fill_hole(const struct nv_trace_record *record, const uint64_t points[POINTS], uint8_t hole, char *to)
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
		return put_us(to, points[ENTERED]);
	case NV_HOLE_AT_EXIT:
		return put_us(to, points[EXITED]);
	case NV_HOLE_AT_ROUTED:
		return put_us(to, points[ROUTED]);
	case NV_HOLE_GUEST ... NV_HOLE_TOTAL:
		return put_us(to, span(points, hole - NV_HOLE_GUEST));
	case NV_HOLE_GUEST + NV_HOLE_IN_NS ... NV_HOLE_TOTAL + NV_HOLE_IN_NS:
		return put_decimal(to, span(points, hole - NV_HOLE_GUEST - NV_HOLE_IN_NS));
	default:
		return to;
	}
}

/* What stands before the text's first hole, sixteen bytes at a time; the buffer has room for fifteen too many. */
static const char *put_words(const char *text, const char *end, char **to)
{
	while (end - text >= 16) {
		__m128i word = _mm_loadu_si128((const __m128i *)text);
		int holes = _mm_movemask_epi8(word);

		_mm_storeu_si128((__m128i *)*to, word);
		if (holes) {
			*to += __builtin_ctz(holes);
			return text + __builtin_ctz(holes);
		}
		text += 16;
		*to += 16;
	}
	while (text < end && !(*text & 0x80))
		*(*to)++ = *text++;
	return text;
}

static char *put_record(const struct nv_trace_writer *writer, const struct nv_trace_record *record, char *to)
{
	const struct nv_trace_site *site = &writer->trace->sites[record->site];
	const char *text = site->text, *end = text + site->length;
	uint64_t points[POINTS];

	set_points(writer, record, points);
	for (;;) {
		text = put_words(text, end, &to);
		if (text == end)
			return to;
		to = fill_hole(record, points, *text++, to);
	}
}

/* Whether one can go back in the file. */
static int is_placed(const struct nv_trace_writer *writer)
{
	return lseek(writer->fd, 0, SEEK_CUR) >= 0;
}

/* Writes the buffer's first `length` bytes over the closing text, and that behind them; the buffer has room for it. */
static int flush(struct nv_trace_writer *writer, size_t length)
{
	int result;

	if (!is_placed(writer))
		return nv_trace_file_append(writer->fd, writer->buffer, length);
	memcpy(writer->buffer + length, writer->closing, writer->closing_length);
	result = nv_trace_file_put(writer->fd, writer->buffer, length + writer->closing_length, writer->offset);
	if (!result) {
		writer->offset += length;
	} else if (!ftruncate(writer->fd, writer->offset)) {
		/* what there was before had room */
		nv_trace_file_put(writer->fd, writer->closing, writer->closing_length, writer->offset);
	}
	return result;
}

/* As many records as the buffer takes: 1 when there were any, -errno of a write that failed, now or before. Lets others have the processor
 * after each few records if it yields. */
static int write_block(struct nv_trace_writer *writer, int yields)
{
	struct nv_trace *trace = writer->trace;
	uint64_t head = __atomic_load_n(&trace->head, __ATOMIC_ACQUIRE), tail = trace->tail;
	char *to, *limit;
	int result;

	if (writer->error)
		return -writer->error;
	if (tail == head)
		return 0;
	if (!writer->buffer)
		writer->buffer = malloc(BUFFER + (size_t)NV_TRACE_TEXT_MAX * HOLE_MAX);
	if (!writer->buffer)
		return -ENOMEM;
	to = writer->buffer;
	limit = to + BUFFER;
	while (tail != head && to < limit) {
		to = put_record(writer, &trace->record[tail & (trace->size - 1)], to);
		__atomic_store_n(&trace->tail, ++tail, __ATOMIC_RELEASE);
		if (yields && tail % RECORDS_AT_ONCE == 0)
			sched_yield();
	}
	result = flush(writer, to - writer->buffer);
	return result ? result : 1;
}

static int write_block_alone(struct nv_trace_writer *writer, int yields)
{
	pthread_mutex_t *lock = (pthread_mutex_t *)writer->lock;
	int result;

	pthread_mutex_lock(lock);
	result = write_block(writer, yields);
	if (result < 0)
		__atomic_store_n(&writer->error, -result, __ATOMIC_RELEASE);
	pthread_mutex_unlock(lock);
	return result;
}

static int write_all(struct nv_trace_writer *writer)
{
	for (;;) {
		/* first: what was there when somebody said that nothing more will come */
		int stopping = __atomic_load_n(&writer->stopping, __ATOMIC_ACQUIRE);
		int result = write_block_alone(writer, 1);

		if (result < 0)
			return result;
		if (result)
			continue;
		if (stopping)
			return is_placed(writer) ? 0 : nv_trace_file_append(writer->fd, writer->closing, writer->closing_length);
		pause_a_little();
	}
}

int nv_trace_write(struct nv_trace_writer *writer)
{
	int result;

	/* on Linux it is the calling thread's alone, and needs no privilege */
	sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0});
	result = write_all(writer);
	free(writer->buffer);
	writer->buffer = NULL;
	__atomic_store_n(&writer->error, -result, __ATOMIC_RELEASE);
	return result;
}

void nv_trace_relieve(struct nv_trace_writer *writer, uint64_t left)
{
	const struct nv_trace *trace = writer->trace;
	int placed = is_placed(writer), pauses = 0;

	while (trace->head - __atomic_load_n(&trace->tail, __ATOMIC_ACQUIRE) > left && !__atomic_load_n(&writer->error, __ATOMIC_ACQUIRE)) {
		if (placed)
			write_block_alone(writer, 0);
		else if (pauses++ < PAUSES)
			pause_a_little();
		else
			return;
	}
}
