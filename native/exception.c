#include "exception.h"
#include "registers.h"

/* One whose delivery does not survive another one; 29 and 30 are AMD's alone. */
static int contributory(int vector)
{
	return vector == 0 || (vector >= 10 && vector <= 13) || vector == 21 || vector == 29 || vector == 30;
}

int nv_exception_has_error_code(int vector)
{
	return vector == DF || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30;
}

enum nv_combined nv_exception_combine(int first, int second)
{
	if (first == DF && (contributory(second) || second == PF))
		return NV_COMBINED_SHUTDOWN;
	if ((contributory(first) && contributory(second)) || (first == PF && (second == PF || contributory(second))))
		return NV_COMBINED_DOUBLE_FAULT;
	return NV_COMBINED_SECOND;
}
