/* Entry from nestvmm's ELF64 loader: long mode, CPL 0, interrupts off, the first 4 GiB mapped to themselves.
 * RDI = command line, RSI = bytes of RAM. Loads our own GDT and stack, then calls start(). */
	.globl _start
_start:
	mov	$stack_end, %esp
	lgdt	gdt_pointer
	push	$0x08
	push	$1f
	lretq
1:	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	xor	%eax, %eax
	mov	%eax, %fs
	mov	%eax, %gs
	xor	%ebp, %ebp
	call	start

	.section .rodata
	.balign	8
gdt:	.quad	0
	.quad	0x00af9b000000ffff	/* 0x08: 64-bit code */
	.quad	0x00cf93000000ffff	/* 0x10: data */
	.quad	0x00cf9b000000ffff	/* 0x18: 32-bit code */
gdt_end:
	.globl	gdt_pointer
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt

	.bss
	.balign	16
	.skip	16384
	.globl	stack_end
stack_end:
