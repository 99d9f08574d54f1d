/* Entry from a Multiboot 1 loader: 32-bit protected mode, EAX = magic, EBX = information.
 * The first character goes out before anything else happens: the start-up benchmark waits for it. */
	.section .multiboot, "a"
	.balign	4
	.long	0x1badb002		/* magic */
	.long	2			/* flags: tell us about memory */
	.long	-(0x1badb002 + 2)	/* checksum */

	.text
	.globl	_start
_start:
	mov	%eax, %ecx
	mov	$0x3f8, %edx
	mov	$'h', %al
	out	%al, %dx
	mov	$stack_end, %esp
	push	%ebx
	push	%ecx
	call	main
	out	%al, $0xf4
1:	cli
	hlt
	jmp	1b

	.bss
	.balign	16
	.skip	4096
stack_end:
