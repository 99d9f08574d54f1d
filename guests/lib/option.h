/* The command line: words divided by blanks, each `name` or `name=value`. */
#ifndef GUEST_OPTION_H
#define GUEST_OPTION_H

#include <stdbool.h>
#include <stdint.h>

/* Start-up code says where the command line is. */
void option_init(const char *command_line);

/* Is this word there? */
bool option_word(const char *name);

/* The value of name=, up to the end of the command line; NULL when it is not there. */
const char *option_text(const char *name);

/* The number of name=, decimal or 0x and hexadecimal; `otherwise` when it is not there. */
uint64_t option_number(const char *name, uint64_t otherwise);

/* Does the value's first word equal this one? False for NULL. */
bool option_is(const char *value, const char *word);

/* The first word that is not name=value; "" when there is none. */
const char *option_first(void);

#endif
