/* printf to the serial port: %c %s %d %u %x %%, with l, a width and a leading 0 for zeros; %-Ns pads on the right. */
#ifndef GUEST_PRINTF_H
#define GUEST_PRINTF_H

void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
