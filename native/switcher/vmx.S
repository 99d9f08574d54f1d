/* World switches between L0 and level n by VMX: nothing else. L0 prepares the VMCS's fields and the mailbox; an exit that the
 * controls ask for rings the doorbell. General registers only: FPU, debug registers and XCR0 stay level n's.
 * RSP is the mailbox, and so is the VMCS's host RSP. RFLAGS.IF stays 0; an NMI is noted for L0. */
#include "mailbox.h"
#include "registers.inc"
#include "vmx_block.h"
#include "../vmcs.h"

#define BLOCK (NV_SWITCHER_BLOCK - NV_SWITCHER_MAILBOX)
#define INTERRUPTION (BLOCK + NV_VMX_EXIT_READ + 16 * NV_VMX_INTERRUPTION + 8)
#define KIND_MASK 0x700
#define KIND_NMI 0x200

	.text
	.code64
	.globl start
start:
	movq	$NV_SWITCHER_RUNNING, NV_MAILBOX_STATE(%rsp)
	cmpq	$0, BLOCK+NV_VMX_STARTED(%rsp)
	jne	1f
	vmxon	BLOCK+NV_VMX_VMXON(%rsp)
	jbe	refused
	vmclear	BLOCK+NV_VMX_VMCS(%rsp)
	jbe	refused
	movq	$1, BLOCK+NV_VMX_STARTED(%rsp)
1:
	cmpq	$0, BLOCK+NV_VMX_LOADED(%rsp)
	jne	write
	vmptrld	BLOCK+NV_VMX_VMCS(%rsp)
	jbe	refused
	movq	$1, BLOCK+NV_VMX_LOADED(%rsp)
write:
	lea	BLOCK+NV_VMX_WRITE(%rsp), %rsi
	mov	BLOCK+NV_VMX_WRITE_COUNT(%rsp), %rcx
	jrcxz	written
next_write:
	mov	(%rsi), %rax
	vmwrite	8(%rsi), %rax
	jbe	refused
	add	$16, %rsi
	dec	%rcx
	jnz	next_write
written:
	lea	BLOCK+NV_VMX_READ(%rsp), %rsi
	mov	BLOCK+NV_VMX_READ_COUNT(%rsp), %rcx
	cmpq	$NV_VMX_ENTER, BLOCK+NV_VMX_COMMAND(%rsp)
	jne	exchange
	cmpq	$0, BLOCK+NV_VMX_LAUNCHED(%rsp)
	mov	0x00(%rsp), %rax
	load_registers
	je	launch
	vmresume
	jmp	refused
launch:
	vmlaunch

/* An instruction failed: level n's registers still are in the mailbox. Without a current VMCS there is no error number. */
refused:
	mov	$NV_VMCS_INSTRUCTION_ERROR, %eax
	xor	%edx, %edx
	vmread	%rax, %rdx
	mov	%rdx, BLOCK+NV_VMX_ERROR(%rsp)
	movq	$NV_SWITCHER_REFUSED, NV_MAILBOX_STATE(%rsp)
	out	%eax, $NV_DOORBELL
	jmp	start

exchange:
	call	read
	cmpq	$NV_VMX_STORE, BLOCK+NV_VMX_COMMAND(%rsp)
	jne	ring
	vmclear	BLOCK+NV_VMX_VMCS(%rsp)
	jbe	refused
	movq	$0, BLOCK+NV_VMX_LOADED(%rsp)
	movq	$0, BLOCK+NV_VMX_LAUNCHED(%rsp)
	jmp	ring

/* An NMI came before level n was entered, which is as it was: L0 shall think again. */
again:
	movq	$NV_SWITCHER_AGAIN, NV_MAILBOX_STATE(%rsp)
	out	%eax, $NV_DOORBELL
	jmp	start

/* The gate of NMIs. The stack: RIP, CS, RFLAGS, RSP, SS. */
	.org NV_SWITCHER_VMX_NMI
	push	%rax
	push	%rdx
	movabs	$NV_SWITCHER_BASE + NV_SWITCHER_MAILBOX + NV_MAILBOX_NMI, %rax
	movq	$1, (%rax)
	movabs	$NV_SWITCHER_BASE + NV_SWITCHER_VMX_EXIT, %rax
	cmp	%rax, 2*8(%rsp)
	jae	1f
	lea	again(%rip), %rdx
	mov	%rdx, 2*8(%rsp)
1:
	pop	%rdx
	pop	%rax
	iretq

/* The VMCS's host RIP. */
	.org NV_SWITCHER_VMX_EXIT
	mov	%rax, 0x00(%rsp)
	save_registers
	mov	$NV_VMCS_EXIT_REASON, %eax
	vmread	%rax, %rdx
	mov	%rdx, BLOCK+NV_VMX_REASON(%rsp)
	movzwl	%dx, %ebx
	/* bit 31: the entry failed, and has not launched */
	test	%edx, %edx
	js	1f
	movq	$1, BLOCK+NV_VMX_LAUNCHED(%rsp)
1:
	and	$NV_VMX_BASIC_REASONS-1, %edx
	movzbl	BLOCK+NV_VMX_DEPTH(%rsp,%rdx), %ecx
	lea	BLOCK+NV_VMX_EXIT_READ(%rsp), %rsi
	call	read
	test	%ebx, %ebx
	jnz	ring
	mov	INTERRUPTION(%rsp), %rax
	and	$KIND_MASK, %eax
	cmp	$KIND_NMI, %eax
	jne	ring
	/* an exit by an NMI blocks NMIs until an IRET */
	mov	%rsp, %rax
	push	$NV_SWITCHER_DATA_SELECTOR
	push	%rax
	pushf
	push	$NV_SWITCHER_CODE_SELECTOR
	lea	ring(%rip), %rax
	push	%rax
	iretq
read:
	jrcxz	1f
	mov	(%rsi), %rax
	vmread	%rax, 8(%rsi)
	add	$16, %rsi
	dec	%rcx
	jmp	read
1:
	ret
ring:
	movq	$NV_SWITCHER_RINGING, NV_MAILBOX_STATE(%rsp)
	out	%eax, $NV_DOORBELL
	jmp	start

#include "gates.inc"
