/* What holds of exceptions whichever processor delivers them, and an event to deliver as EVENTINJ and VMX's interruption information
 * have it: AMD APM vol. 2, 8.2.9 and 15.20; Intel SDM vol. 3, 6.15 and 25.8.3. */
#ifndef NV_EXCEPTION_H
#define NV_EXCEPTION_H

#include <stdint.h>

/* Kinds of events. */
#define NV_EVENT_INTERRUPT 0
#define NV_EVENT_NMI 2
#define NV_EVENT_EXCEPTION 3
#define NV_EVENT_SOFTWARE_INTERRUPT 4
#define NV_EVENT_INT1 5         /* VMX's: INT1's #DB */

#define EVENT_VALID (1ull << 31)
#define EVENT_ERROR_CODE (1ull << 11)
#define EVENT_KIND 8
#define EVENT_VECTOR(event) ((uint8_t)(event))
#define EVENT_KIND_OF(event) ((int)((event) >> EVENT_KIND & 7))

/* Of an error code that names a selector (AMD APM vol. 2, 8.4.1). */
#define ERROR_EXTERNAL 1ull
#define ERROR_IDT 2

/* What an exception makes of one that was being delivered. */
enum nv_combined { NV_COMBINED_SECOND, NV_COMBINED_DOUBLE_FAULT, NV_COMBINED_SHUTDOWN };

int nv_exception_has_error_code(int vector);
enum nv_combined nv_exception_combine(int first, int second);

#endif
