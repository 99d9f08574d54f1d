/* world_run(launched): into the guest by VMLAUNCH, or VMRESUME, and back: 0 after an exit, 1 when the processor refused.
 * RSP walks over guest_registers; an exit finds it at their end, as VMCS_HOST_RSP says. */
	.globl	world_run, world_exit
world_run:
	.irp	register, rbx, rbp, r12, r13, r14, r15
	push	%\register
	.endr
	mov	%rsp, own_stack
	test	%edi, %edi
	mov	$guest_registers, %esp
	.irp	register, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax
	pop	%\register
	.endr
	jnz	1f
	vmlaunch
	jmp	2f
1:	vmresume
2:	mov	$1, %eax
	jmp	back

world_exit:
	.irp	register, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
	push	%\register
	.endr
	xor	%eax, %eax
back:	mov	own_stack, %rsp
	.irp	register, r15, r14, r13, r12, rbp, rbx
	pop	%\register
	.endr
	ret

	.local	own_stack
	.comm	own_stack, 8, 8
