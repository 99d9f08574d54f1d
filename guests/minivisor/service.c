#include "service.h"
#include "minivisor.h"

#define EVENT_KIND_AND_VECTOR 0x2ff /* of interrupts and NMIs */

static uint8_t stored, count;
static uint32_t mark_edx;

void service_init(void)
{
	mark_edx = vendor_name[0] == 'S' ? MARK_EDX_SVM : MARK_EDX_VMX;
}

void serve_cpuid(struct registers *registers)
{
	uint32_t eax = (uint32_t)registers->rax, ebx = MARK_EBX, ecx = (uint32_t)registers->rcx, edx = mark_edx;

	if (eax == MARK_LEAF(level)) {
		eax = (uint32_t)level;
		ecx = MARK_ECX;
	} else {
		asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	}
	registers->rax = eax;
	registers->rbx = ebx;
	registers->rcx = ecx;
	registers->rdx = edx;
}

bool serve_hypercall(struct registers *registers)
{
	uint64_t number = registers->rax, wanted = registers->rbx;

	if (number != HYPERCALL && number != HYPERCALL_EVENT && number != HYPERCALL_FLAGS)
		return false;
	if (!wanted || wanted > level) {
		registers->rax = HYPERCALL_NOBODY;
	} else if (wanted < level) {
		registers->rax = vendor_hypercall(number, wanted, registers->rcx);
	} else if (number == HYPERCALL) {
		registers->rax = hypercall_answer(level, registers->rcx);
	} else if (number == HYPERCALL_FLAGS) {
		registers->rax = vendor_flags();
	} else {
		vendor_inject(registers->rcx & EVENT_KIND_AND_VECTOR);
		registers->rax = 0;
	}
	return true;
}

/* What a wider access at this port, or one that reaches into it, gets from below. */
static uint32_t pass_in(uint16_t port, uint8_t size)
{
	return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}

static void pass_out(uint16_t port, uint8_t size, uint32_t value)
{
	if (size == 1)
		outb(port, (uint8_t)value);
	else if (size == 2)
		outw(port, (uint16_t)value);
	else
		outl(port, value);
}

static void refuse_string(const struct exit *exit)
{
	if (exit->address)
		stop(STATUS_STOPPED, "its guest uses port 0x%x by a string instruction at 0x%lx, memory at 0x%lx", exit->port, exit->rip,
		     exit->address);
	stop(STATUS_STOPPED, "its guest uses port 0x%x by a string instruction at 0x%lx", exit->port, exit->rip);
}

void serve_port(struct registers *registers, const struct exit *exit)
{
	bool own = exit->port == OWN_PORT(level) && exit->size == 1;
	uint32_t value;

	if (exit->string)
		refuse_string(exit);
	if (!exit->in) {
		value = (uint32_t)registers->rax;
		if (own)
			stored = (uint8_t)value, count = 0;
		else
			pass_out(exit->port, exit->size, value);
		return;
	}
	value = own ? port_answer(level, stored, count++) : pass_in(exit->port, exit->size);
	if (exit->size == 4)
		registers->rax = value;
	else if (exit->size == 2)
		registers->rax = (registers->rax & ~0xfffful) | value;
	else
		registers->rax = (registers->rax & ~0xfful) | value;
}
