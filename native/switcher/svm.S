/* World switches between L0 and level n by SVM: nothing else. L0 prepares the control block and the mailbox; an exit that the
 * block intercepts rings the doorbell. General registers only: FPU, debug registers and the VMLOAD set stay level n's.
 * RSP is the mailbox, VMRUN keeps it. GIF stays 0 after the first exit, so nothing interrupts the code below, unless it wants it. */
#include "mailbox.h"
#include "registers.inc"

#define VMCB_EXIT_CODE 0x70
#define EXIT_INTR 0x60

	.text
	.code64
	.globl start
start:
	mov	NV_MAILBOX_STORE(%rsp), %rax
	test	%rax, %rax
	jz	load
	vmsave	%rax
	movq	$0, NV_MAILBOX_STORE(%rsp)
load:
	mov	NV_MAILBOX_LOAD(%rsp), %rax
	test	%rax, %rax
	jz	enable
	vmload	%rax
	movq	$0, NV_MAILBOX_LOAD(%rsp)
enable:
	cmpq	$0, NV_MAILBOX_ENABLED(%rsp)
	je	enter
	sti
enter:
	load_registers
	mov	NV_MAILBOX_BLOCK(%rsp), %rax
	movq	$NV_SWITCHER_RUNNING, NV_MAILBOX_STATE(%rsp)
	vmrun	%rax
	cli
	save_registers
	/* an intercepted interrupt or NMI is still pending (AMD APM vol. 2, 15.13): take it here, or it stops level n for ever, unless
	 * level n itself intercepts interrupts */
	mov	NV_SWITCHER_BLOCK - NV_SWITCHER_MAILBOX + VMCB_EXIT_CODE(%rsp), %rax
	sub	$EXIT_INTR, %rax
	je	take_interrupt
	dec	%rax
	je	take_nmi
ring:
	movq	$NV_SWITCHER_RINGING, NV_MAILBOX_STATE(%rsp)
	out	%eax, $NV_DOORBELL
	jmp	start

take_interrupt:
	cmpq	$0, NV_MAILBOX_ACKNOWLEDGE(%rsp)
	je	ring
	lidt	NV_MAILBOX_INTERRUPT_IDT(%rsp)
	stgi
	sti
	nop
	cli
	clgi
	lidt	NV_MAILBOX_IDT(%rsp)
	jmp	ring

take_nmi:
	lidt	NV_MAILBOX_INTERRUPT_IDT(%rsp)
	stgi
	nop
	clgi
	lidt	NV_MAILBOX_IDT(%rsp)
	jmp	ring

#include "gates.inc"
