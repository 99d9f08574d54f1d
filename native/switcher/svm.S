/* World switches between L0 and level n by SVM: nothing else. L0 prepares the control block and the mailbox; an exit that the
 * block intercepts rings the doorbell. General registers only: FPU, debug registers and the VMLOAD set stay level n's.
 * RSP is the mailbox, VMRUN keeps it. GIF stays 0 after the first exit, so nothing interrupts the code below. */
#include "mailbox.h"

	.text
	.code64
	.globl start
start:
	mov	0x08(%rsp), %rcx
	mov	0x10(%rsp), %rdx
	mov	0x18(%rsp), %rbx
	mov	0x28(%rsp), %rbp
	mov	0x30(%rsp), %rsi
	mov	0x38(%rsp), %rdi
	mov	0x40(%rsp), %r8
	mov	0x48(%rsp), %r9
	mov	0x50(%rsp), %r10
	mov	0x58(%rsp), %r11
	mov	0x60(%rsp), %r12
	mov	0x68(%rsp), %r13
	mov	0x70(%rsp), %r14
	mov	0x78(%rsp), %r15
	mov	NV_MAILBOX_BLOCK(%rsp), %rax
	movq	$NV_SWITCHER_RUNNING, NV_MAILBOX_STATE(%rsp)
	vmrun	%rax
	mov	%rcx, 0x08(%rsp)
	mov	%rdx, 0x10(%rsp)
	mov	%rbx, 0x18(%rsp)
	mov	%rbp, 0x28(%rsp)
	mov	%rsi, 0x30(%rsp)
	mov	%rdi, 0x38(%rsp)
	mov	%r8, 0x40(%rsp)
	mov	%r9, 0x48(%rsp)
	mov	%r10, 0x50(%rsp)
	mov	%r11, 0x58(%rsp)
	mov	%r12, 0x60(%rsp)
	mov	%r13, 0x68(%rsp)
	mov	%r14, 0x70(%rsp)
	mov	%r15, 0x78(%rsp)
	movq	$NV_SWITCHER_EXIT, NV_MAILBOX_STATE(%rsp)
	out	%eax, $NV_DOORBELL
	jmp	start

/* One gate for each of the 32 exceptions, 16 bytes apart. Those without an error code push 0. */
	.org NV_SWITCHER_GATES
	vector = 0
	.rept 32
	.balign 16
	.if !((vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
	push	$0
	.endif
	push	$vector
	jmp	panic
	vector = vector + 1
	.endr

/* The stack: vector, error code, RIP, CS, RFLAGS, RSP, SS. */
panic:
	mov	%rsp, %rsi
	movabs	$NV_SWITCHER_BASE + NV_SWITCHER_MAILBOX, %rdi
	mov	0x00(%rsi), %rax
	mov	%rax, NV_MAILBOX_PANIC+0x00(%rdi)
	mov	0x08(%rsi), %rax
	mov	%rax, NV_MAILBOX_PANIC+0x08(%rdi)
	mov	0x10(%rsi), %rax
	mov	%rax, NV_MAILBOX_PANIC+0x10(%rdi)
	mov	0x28(%rsi), %rax
	mov	%rax, NV_MAILBOX_PANIC+0x18(%rdi)
	mov	%cr2, %rax
	mov	%rax, NV_MAILBOX_PANIC+0x20(%rdi)
	movq	$NV_SWITCHER_PANIC, NV_MAILBOX_STATE(%rdi)
	out	%eax, $NV_DOORBELL
	jmp	panic
