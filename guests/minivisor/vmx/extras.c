#include "extras.h"
#include "minivisor.h"
#include "msr.h"
#include "option.h"
#include "vmcs.h"

#define MSR_STAR 0xc0000081u
#define OWN_STAR (0x4e560000ull + level)
#define TIMER_MAX 0xffffffffull
#define VPID 1

/* An element of a list (25.7.2). */
struct element {
	uint32_t index, reserved;
	uint64_t value;
} __attribute__((aligned(16)));

/* STAR is the guest's while that runs, and minivisor's otherwise. */
static struct element guests = {MSR_STAR, 0, 0}, own = {MSR_STAR, 0, 0};
static uint64_t timer;           /* as the entry found it */
static bool wanted;

bool extras_wanted(void)
{
	return option_word("extras");
}

/* Of all VPIDs (table 31-2). */
static bool forget_linear_addresses(void)
{
	const uint64_t descriptor[2] = {0, 0};
	bool took;

	asm volatile("invvpid %1, %2" : "=@cca"(took) : "m"(descriptor), "r"(2ul) : "memory");
	return took;
}

void extras_init(void)
{
	wanted = extras_wanted();
	vmwrite(VMCS_EXIT_MSR_STORES, wanted);
	vmwrite(VMCS_EXIT_MSR_LOADS, wanted);
	vmwrite(VMCS_ENTRY_MSR_LOADS, wanted);
	if (!wanted)
		return;
	guests.value = rdmsr(MSR_STAR);
	own.value = OWN_STAR;
	wrmsr(MSR_STAR, OWN_STAR);
	vmwrite(VMCS_EXIT_MSR_STORE_LIST, (uintptr_t)&guests);
	vmwrite(VMCS_EXIT_MSR_LOAD_LIST, (uintptr_t)&own);
	vmwrite(VMCS_ENTRY_MSR_LOAD_LIST, (uintptr_t)&guests);
	vmwrite(VMCS_VPID, VPID);
	vmwrite(VMCS_TIMER, timer);
	if (!forget_linear_addresses())
		stop(STATUS_USAGE, "the processor does not take INVVPID");
}

/* The first entry ends at once, and all others leave less of the timer. */
bool extras_exit(uint64_t code)
{
	uint64_t left;

	if (!wanted)
		return false;
	if (rdmsr(MSR_STAR) != OWN_STAR)
		stop(STATUS_EXTRAS, "an exit leaves it 0x%lx in STAR", rdmsr(MSR_STAR));
	if ((code == CODE_TIMER) != !timer)
		stop(STATUS_EXTRAS, "exit 0x%lx of its guest, with 0x%lx in its timer", code, timer);
	left = timer ? vmread(VMCS_TIMER) : TIMER_MAX;
	if (timer && left >= timer)
		stop(STATUS_EXTRAS, "an exit leaves 0x%lx of 0x%lx in its timer", left, timer);
	timer = left;
	vmwrite(VMCS_TIMER, timer);
	return code == CODE_TIMER;
}
