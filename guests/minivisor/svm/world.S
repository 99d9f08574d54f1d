/* world_run(): into the guest by VMRUN, and back. #VMEXIT gives RAX, RSP and RFLAGS back, and leaves GIF at 0: nothing
 * interrupts a minivisor from its first exit on. RSP walks over guest_registers, all but RAX, which the control block has. */
	.globl	world_run
world_run:
	.irp	register, rbx, rbp, r12, r13, r14, r15
	push	%\register
	.endr
	mov	%rsp, own_stack
	mov	$guest_registers, %esp
	.irp	register, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx
	pop	%\register
	.endr
	mov	running, %rax
	vmrun	%rax
	.irp	register, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
	push	%\register
	.endr
	mov	own_stack, %rsp
	.irp	register, r15, r14, r13, r12, rbp, rbx
	pop	%\register
	.endr
	ret

	.local	own_stack
	.comm	own_stack, 8, 8
