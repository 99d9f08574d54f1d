/* Ordinary C: floating point in three widths, SSE2 strings, a sort, checksums. A guest where there is no C library,
 * else a Linux program. */
#include <emmintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "work.h"

#if __STDC_HOSTED__
#include <stdio.h>
#include <stdlib.h>
#else
#include "printf.h"
#include "qsort.h"
#endif

enum { BODIES = 5, NUMBERS = 500, TEXT = 2000, WIDTH = 32 };

static char text[TEXT + 16];
static double numbers[NUMBERS];

static uint64_t seed;

static uint32_t next_random(void)
{
	seed = seed * 6364136223846793005 + 1442695040888963407;
	return (uint32_t)(seed >> 33);
}

static void show_double(const char *what, double value)
{
	union {
		double value;
		uint64_t bits;
	} u = {value};

	printf("%s %016lx\n", what, (unsigned long)u.bits);
}

static void show_float(const char *what, float value)
{
	union {
		float value;
		uint32_t bits;
	} u = {value};

	printf("%s %08x\n", what, u.bits);
}

static void show_long_double(const char *what, long double value)
{
	union {
		long double value;
		struct {
			uint64_t mantissa;
			uint16_t exponent;
		} bits;
	} u = {value};

	printf("%s %04x%016lx\n", what, u.bits.exponent, (unsigned long)u.bits.mantissa);
}

static double root(double value)
{
	return _mm_cvtsd_f64(_mm_sqrt_sd(_mm_setzero_pd(), _mm_set_sd(value)));
}

static void bodies(void)
{
	double place[BODIES][3], speed[BODIES][3] = {0}, energy = 0;

	for (int i = 0; i < BODIES; i++)
		for (int k = 0; k < 3; k++)
			place[i][k] = next_random() / 2147483648.0 * 10;
	for (int step = 0; step < 50; step++) {
		for (int i = 0; i < BODIES; i++) {
			for (int j = 0; j < BODIES; j++) {
				double d[3], square = 0.01;

				for (int k = 0; k < 3; k++) {
					d[k] = place[j][k] - place[i][k];
					square += d[k] * d[k];
				}
				for (int k = 0; k < 3; k++)
					speed[i][k] += 0.001 * d[k] / (square * root(square));
			}
		}
		for (int i = 0; i < BODIES; i++)
			for (int k = 0; k < 3; k++)
				place[i][k] += 0.001 * speed[i][k];
	}
	for (int i = 0; i < BODIES; i++)
		for (int k = 0; k < 3; k++)
			energy += speed[i][k] * speed[i][k];
	show_double("bodies", energy);
}

static void mandelbrot(void)
{
	unsigned long inside = 0;
	float last = 0;

	for (int y = 0; y < WIDTH; y++) {
		for (int x = 0; x < WIDTH; x++) {
			float a = (float)x * 3 / WIDTH - 2, b = (float)y * 2 / WIDTH - 1, re = 0, im = 0;
			int n;

			for (n = 0; n < 30 && re * re + im * im < 4; n++) {
				float t = re * re - im * im + a;

				im = 2 * re * im + b;
				re = t;
			}
			inside += (unsigned long)n;
			last += re;
		}
	}
	printf("mandelbrot %lu\n", inside);
	show_float("mandelbrot", last);
}

static void harmonic(void)
{
	long double sum = 0, product = 1;

	for (int i = 1; i <= 300; i++) {
		sum += 1.0L / i;
		product *= 1 + sum / (i * i);
	}
	show_long_double("harmonic", sum);
	show_long_double("product", product);
	printf("rounded %ld\n", (long)(product * 1000));
}

static int lowest(unsigned int mask)
{
	return __builtin_ctz(mask);
}

static size_t length(const char *s)
{
	const __m128i zero = _mm_setzero_si128();

	for (size_t i = 0;; i += 16) {
		__m128i block = _mm_loadu_si128((const __m128i *)(s + i));
		int mask = _mm_movemask_epi8(_mm_cmpeq_epi8(block, zero));

		if (mask)
			return i + (size_t)lowest((unsigned int)mask);
	}
}

static size_t count(const char *s, char c, size_t size)
{
	const __m128i wanted = _mm_set1_epi8(c);
	size_t found = 0;

	for (size_t i = 0; i + 16 <= size; i += 16) {
		int mask = _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(s + i)), wanted));

		for (; mask; mask &= mask - 1)
			found++;
	}
	return found;
}

static void strings(void)
{
	for (int i = 0; i < TEXT; i++)
		text[i] = (char)('a' + next_random() % 26);
	text[TEXT - 77] = 0;
	printf("length %lu\n", (unsigned long)length(text));
	for (char c = 'a'; c <= 'e'; c++)
		printf("%c %lu\n", c, (unsigned long)count(text, c, TEXT));
}

static int compare(const void *left, const void *right)
{
	const double *a = left, *b = right;

	return (*a > *b) - (*a < *b);
}

static void sorting(void)
{
	double weighted = 0;
	int wrong = 0;

	for (int i = 0; i < NUMBERS; i++)
		numbers[i] = (next_random() - 1073741824.0) / 1000;
	qsort(numbers, NUMBERS, sizeof *numbers, compare);
	for (int i = 0; i < NUMBERS; i++) {
		wrong += i && numbers[i - 1] > numbers[i];
		weighted += numbers[i] * i;
	}
	printf("misplaced %d\n", wrong);
	show_double("sorted", weighted);
}

static void checksums(void)
{
	uint32_t crc = 0xffffffff, a = 1, b = 0;
	uint64_t fnv = 0xcbf29ce484222325;

	for (int i = 0; i < TEXT; i++) {
		uint8_t byte = (uint8_t)text[i];

		crc ^= byte;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
		a = (a + byte) % 65521;
		b = (b + a) % 65521;
		fnv = (fnv ^ byte) * 0x100000001b3;
	}
	printf("crc32 %08x adler32 %08x fnv %016lx\n", ~crc, b << 16 | a, (unsigned long)fnv);
}

void work(void)
{
	seed = 42;
	bodies();
	mandelbrot();
	harmonic();
	strings();
	sorting();
	checksums();
}

#if __STDC_HOSTED__
int main(void)
{
	work();
	return 0;
}
#endif
