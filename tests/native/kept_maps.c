/* What L0 keeps of the permissions maps that it has composed, while hypervisors change theirs without a word: the processor never lets pass what a
 * map asks for at the entry, and where it stops for what no map asks for any more, the guest does that again. */
#include <errno.h>
#include <stdarg.h>
#include <unistd.h>

#include "nested_level_svm.h"

/* Pages of the level's: blocks of machine 0 and 1, and their maps. Machine 1's memory is machine 0's, as there are no nested tables. */
enum { BLOCK = 1, BLOCK_1, PORTS = 10, PORTS_1 = 20, MSRS = 30, MSRS_1 = 40, PORT_PAGES = 3, MSR_PAGES = 2 };
enum { OUT_BYTE = 1 << 4, OUT_WORD = 2 << 4, PORT = 16, VMMCALL = 0x81 };
enum { LSTAR = 0xc0000082, LSTAR_BIT = 0x4000 + 2 * 0x82, STAR = 0xc0000081 };

static uint64_t stops_for, with;            /* the next exit, and its EXITINFO1 */

int ioctl(int fd, unsigned long request, ...)
{
	(void)fd;
	if (request != KVM_RUN)
		return 0;
	run->exit_reason = KVM_EXIT_IO;
	run->io.port = NV_DOORBELL;
	mailbox.state = NV_SWITCHER_RINGING;
	block->exit_code = stops_for;
	block->exit_info_1 = with;
	return 0;
}

static uint8_t *page(int number)
{
	return level + number * PAGE;
}

static void make_block(int number, int ports, int msrs)
{
	*(struct nv_vmcb *)page(number) = (struct nv_vmcb){
		.intercept = {0, 0, 0, 1u << EXIT_IOIO % 32 | 1u << EXIT_MSR % 32, 3, 0}, .asid = 1, .iopm = ports * PAGE, .msrpm = msrs * PAGE,
		LONG_MODE_STATE,
	};
}

static void leave(void)
{
	nv_nested_reflect(&nested, nested.active->parent, &(struct nv_nested_exit){.code = VMMCALL});
}

static void again(void)
{
	leave();
	enter_block(BLOCK);
}

static int passes(const uint8_t *map, unsigned int bit)
{
	return !(map[bit / 8] >> bit % 8 & 1);
}

/* Whether the processor lets the active machine at this port, or at this bit of the MSR map. */
static int port_passes(unsigned int port)
{
	return passes(nested.maps + (nested.active->depth - 1) * NV_NESTED_MAPS, port);
}

static int msr_passes(unsigned int bit)
{
	return passes(nested.maps + (nested.active->depth - 1) * NV_NESTED_MAPS + NV_NESTED_PORTS, bit);
}

static void set_bit(uint8_t *map, unsigned int bit, int to)
{
	map[bit / 8] = (map[bit / 8] & ~(1 << bit % 8)) | to << bit % 8;
}

/* An access of the active machine's that the processor stops: whether the guest does it again, under maps composed anew. */
static int again_after_port(unsigned int port, unsigned int size)
{
	block->exit_code = EXIT_IOIO;
	block->exit_info_1 = port << PORT | size;
	return nv_nested_remap(&nested);
}

static int again_after_msr(uint32_t index, int write)
{
	block->exit_code = EXIT_MSR;
	block->exit_info_1 = write;
	mailbox.regs[NV_REG_RCX] = index;
	return nv_nested_remap(&nested);
}

/* Machine 0 runs a guest that may do nothing, as KVM has it, but write LSTAR. L0 itself asks for nothing. */
static void begin(void)
{
	start();
	memset(level, 0, PAGES * PAGE);
	memset((void *)nested.own_ports, 0, NV_NESTED_PORTS);
	memset((void *)nested.own_msrs, 0, NV_NESTED_MSRS);
	memset(nested.map_pages, 0, sizeof nested.map_pages);
	memset(page(PORTS), 0xff, PORT_PAGES * PAGE);
	memset(page(MSRS), 0xff, MSR_PAGES * PAGE);
	set_bit(page(MSRS), LSTAR_BIT + 1, 0);
	make_block(BLOCK, PORTS, MSRS);
	make_block(BLOCK_1, PORTS_1, MSRS_1);
	enter_block(BLOCK);
	CHECK(nested.active->depth == 1 && msr_passes(LSTAR_BIT + 1) && !msr_passes(LSTAR_BIT) && !port_passes(0x80));
}

static void what_a_map_asks_for_the_next_entry_has(void)
{
	begin();
	set_bit(page(MSRS), LSTAR_BIT + 1, 1);
	again();
	CHECK(!msr_passes(LSTAR_BIT + 1));
	memset(page(PORTS), 0, PAGE);
	memset(page(MSRS), 0, PAGE);
	memset(nested.map_pages, 0, sizeof nested.map_pages); /* or they would be as they are: see below */
	again();
	for (unsigned int port = 0; port < 8 * PAGE; port += 67) {
		CHECK(port_passes(port));
		set_bit(page(PORTS), port, 1);
		set_bit(page(MSRS), port, 1);
		again();
		CHECK(!port_passes(port) && !msr_passes(port) && port_passes(port + 1));
	}
}

static void what_it_does_not_ask_for_any_more_happens_again(void)
{
	begin();
	set_bit(page(PORTS), 0x80, 0);
	again();
	CHECK(!port_passes(0x80));
	CHECK(!again_after_port(0xc0, OUT_BYTE) && !port_passes(0x80)); /* of this port it says what it said */
	CHECK(again_after_port(0x80, OUT_BYTE) && port_passes(0x80) && !port_passes(0x81));
	CHECK(!again_after_port(0x80, OUT_BYTE));
	set_bit(page(PORTS), 0x80, 1);
	again();
	CHECK(!port_passes(0x80));
	/* the last byte of the access is another one's, and another page's */
	set_bit(page(PORTS), 0x8000, 0);
	CHECK(!again_after_port(0x7fff, OUT_WORD)); /* its first byte is asked for still */
	set_bit(page(PORTS), 0x7fff, 0);
	CHECK(again_after_port(0x7fff, OUT_WORD) && port_passes(0x8000) && port_passes(0x7fff));
	set_bit(page(PORTS), 0xffff, 0);
	set_bit(page(PORTS), 0x10000, 0);
	CHECK(again_after_port(0xffff, OUT_WORD) && port_passes(0xffff) && port_passes(0x10000));
}

static void msrs_too(void)
{
	begin();
	set_bit(page(MSRS), LSTAR_BIT, 0);  /* in a word that is looked at */
	again();
	CHECK(msr_passes(LSTAR_BIT) && msr_passes(LSTAR_BIT + 1));
	set_bit(page(MSRS), 2 * 0x174, 0);  /* and in one that is not */
	again();
	CHECK(!msr_passes(2 * 0x174));
	CHECK(!again_after_msr(STAR, 0) && !again_after_msr(0x4e570000, 0));
	CHECK(again_after_msr(0x174, 0) && msr_passes(2 * 0x174) && !msr_passes(2 * 0x174 + 1));
	CHECK(!again_after_msr(0x174, 1));
	set_bit(page(MSRS), 2 * 0x174 + 1, 0);
	CHECK(again_after_msr(0x174, 1) && msr_passes(2 * 0x174 + 1));
}

/* As of a guest that has one, and runs guests itself, with another one. */
static void another_map_counts_at_once(void)
{
	begin();
	memset(page(MSRS_1), 0xff, MSR_PAGES * PAGE);
	memset(page(PORTS_1), 0xff, PORT_PAGES * PAGE);
	set_bit(page(MSRS_1), LSTAR_BIT + 1, 0);
	set_bit(page(MSRS_1), 2 * 0x174, 0);
	set_bit(page(PORTS_1), 0x80, 0);
	leave();
	make_block(BLOCK, PORTS_1, MSRS_1);
	enter_block(BLOCK);
	CHECK(msr_passes(LSTAR_BIT + 1) && msr_passes(2 * 0x174) && port_passes(0x80));
	leave();
	make_block(BLOCK, PORTS, MSRS);
	enter_block(BLOCK);
	CHECK(msr_passes(LSTAR_BIT + 1) && !msr_passes(2 * 0x174) && !port_passes(0x80));
}

/* What the block does not intercept has no map. */
static void a_map_that_does_not_count(void)
{
	begin();
	leave();
	((struct nv_vmcb *)page(BLOCK))->intercept[EXIT_IOIO / 32] = 0;
	enter_block(BLOCK);
	CHECK(port_passes(0x80) && msr_passes(2 * 0x174));
	set_bit(page(PORTS), 0x80, 0);
	set_bit(page(MSRS), 2 * 0x174, 0);
	CHECK(!again_after_port(0x80, OUT_BYTE) && !again_after_msr(0x174, 0));
}

/* The maps of a guest's guest are made of both machines'. */
static void two_machines(void)
{
	begin();
	nested.active->svme = 1;
	memset(page(PORTS_1), 0xff, PORT_PAGES * PAGE);
	memset(page(MSRS_1), 0xff, MSR_PAGES * PAGE);
	set_bit(page(MSRS_1), LSTAR_BIT + 1, 0);
	set_bit(page(PORTS_1), 0x80, 0);
	enter_block(BLOCK_1);
	CHECK(nested.active->depth == 2 && msr_passes(LSTAR_BIT + 1) && !port_passes(0x80));
	set_bit(page(PORTS), 0x80, 0);      /* machine 0's was why */
	CHECK(again_after_port(0x80, OUT_BYTE) && port_passes(0x80));
	set_bit(page(PORTS_1), 0x84, 0);
	CHECK(!again_after_port(0x84, OUT_BYTE)); /* it is machine 0's now */
	set_bit(page(PORTS), 0x84, 0);
	CHECK(again_after_port(0x84, OUT_BYTE) && port_passes(0x84)); /* and nobody's, whoever changed when */
	set_bit(page(MSRS), LSTAR_BIT + 1, 1);
	leave();
	again();
	nested.active->svme = 1;
	enter_block(BLOCK_1);
	CHECK(!msr_passes(LSTAR_BIT + 1));
}

/* By the engine's own way. */
static void the_guest_goes_on(void)
{
	begin();
	set_bit(page(MSRS), 2 * 0x174, 0);
	stops_for = EXIT_MSR;
	mailbox.regs[NV_REG_RCX] = 0x174;
	CHECK(vcpu.ops->enter(&vcpu) == -EAGAIN && msr_passes(2 * 0x174) && nested.active->depth == 1);
	CHECK(!vcpu.ops->enter(&vcpu));     /* it is L0's, or somebody's */
}

int main(void)
{
	alarm(60);
	prepare();
	what_a_map_asks_for_the_next_entry_has();
	what_it_does_not_ask_for_any_more_happens_again();
	msrs_too();
	another_map_counts_at_once();
	a_map_that_does_not_count();
	two_machines();
	the_guest_goes_on();
	check_canaries();
	puts("done");
	return 0;
}
