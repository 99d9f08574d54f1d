#include <stdarg.h>

#include "printf.h"
#include "serial.h"

static void put_padding(int count, char c)
{
	while (count-- > 0)
		serial_put(c);
}

/* A negative width pads on the right. */
static void put_text(const char *text, int width)
{
	int length = 0;

	while (text[length])
		length++;
	put_padding(width - length, ' ');
	for (int i = 0; i < length; i++)
		serial_put(text[i]);
	put_padding(-width - length, ' ');
}

static void put_number(unsigned long value, unsigned int base, int negative, int width, char pad)
{
	char digit[24], *p = digit + sizeof digit;

	*--p = 0;
	do
		*--p = "0123456789abcdef"[value % base];
	while (value /= base);
	if (negative)
		*--p = '-';
	put_padding(width - (int)(digit + sizeof digit - 1 - p), pad);
	put_text(p, 0);
}

void printf(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	for (; *format; format++) {
		char pad = ' ';
		int width = 0, sign = 1, is_long = 0;
		long value;

		if (*format != '%') {
			serial_put(*format);
			continue;
		}
		if (*++format == '-')
			sign = -1, format++;
		if (*format == '0')
			pad = '0';
		for (; *format >= '0' && *format <= '9'; format++)
			width = 10 * width + *format - '0';
		if (*format == 'l')
			is_long = 1, format++;
		switch (*format) {
		case 'c':
			serial_put((char)va_arg(list, int));
			break;
		case 's':
			put_text(va_arg(list, const char *), sign * width);
			break;
		case 'd':
			value = is_long ? va_arg(list, long) : va_arg(list, int);
			put_number(value < 0 ? -(unsigned long)value : (unsigned long)value, 10, value < 0, width, pad);
			break;
		case 'u':
		case 'x':
			put_number(is_long ? va_arg(list, unsigned long) : va_arg(list, unsigned int),
				   *format == 'x' ? 16 : 10, 0, width, pad);
			break;
		default:
			serial_put(*format);
		}
	}
	va_end(list);
}
