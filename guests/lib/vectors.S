/* Entry points of the IDT: each builds a struct trap_frame and calls trap_dispatch(). 16 bytes apart. */
#include "trap_vectors.h"

	.globl	vectors
	.balign	16
vectors:
	vector = 0
	.rept	TRAP_VECTORS
	.balign	16
	.if	!((TRAP_WITH_ERROR_CODE >> vector) & 1)
	push	$0
	.endif
	push	$vector
	jmp	common
	vector = vector + 1
	.endr

common:
	.irp	register, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
	push	%\register
	.endr
	cld
	mov	%rsp, %rdi
	call	trap_dispatch
	.irp	register, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax
	pop	%\register
	.endr
	add	$16, %rsp
	iretq
