#include <stddef.h>

#include "option.h"

static const char *line = "";

void option_init(const char *command_line)
{
	if (command_line)
		line = command_line;
}

/* Behind the prefix, NULL when the text does not begin with it. */
static const char *behind(const char *text, const char *prefix)
{
	while (*prefix)
		if (*text++ != *prefix++)
			return NULL;
	return text;
}

static bool ends(const char *p)
{
	return !*p || *p == ' ';
}

static const char *next_word(const char *p)
{
	while (!ends(p))
		p++;
	while (*p == ' ')
		p++;
	return p;
}

static const char *first_word(void)
{
	return *line == ' ' ? next_word(line) : line;
}

bool option_is(const char *value, const char *word)
{
	const char *rest = value ? behind(value, word) : NULL;

	return rest && ends(rest);
}

bool option_word(const char *name)
{
	for (const char *word = first_word(); *word; word = next_word(word))
		if (option_is(word, name))
			return true;
	return false;
}

const char *option_text(const char *name)
{
	for (const char *word = first_word(); *word; word = next_word(word)) {
		const char *rest = behind(word, name);

		if (rest && *rest == '=')
			return rest + 1;
	}
	return NULL;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 16;
}

uint64_t option_number(const char *name, uint64_t otherwise)
{
	const char *p = option_text(name);
	unsigned int base = 10;
	uint64_t value = 0;

	if (!p)
		return otherwise;
	if (p[0] == '0' && (p[1] | 0x20) == 'x')
		base = 16, p += 2;
	while ((unsigned int)digit(*p) < base)
		value = value * base + (unsigned int)digit(*p++);
	return value;
}

const char *option_first(void)
{
	for (const char *word = first_word(); *word; word = next_word(word)) {
		const char *p = word;

		while (!ends(p) && *p != '=')
			p++;
		if (ends(p))
			return word;
	}
	return "";
}
