/* Entry for loaders that know PVH, such as QEMU's -kernel: 32-bit protected mode without paging, EBX = struct hvm_start_info
 * (Xen, docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h). Makes of it what nestvmm's loader gives, then goes to _start. */

	/* Above what QEMU leaves below 1 MiB: a PML4, a page-directory-pointer table, four page directories. */
	.equ	TABLES, 0x10000
	.equ	PAGE, 0x1000

	.equ	COMMAND_LINE, 24	/* in struct hvm_start_info */
	.equ	MEMORY_MAP, 40
	.equ	MEMORY_MAP_ENTRIES, 48
	.equ	ENTRY_SIZE, 24		/* address, size, type; of the memory map */
	.equ	ENTRY_TYPE, 16
	.equ	TYPE_RAM, 1

	.section .note.pvh, "a", @note
	.balign	4
	.long	4, 8, 18		/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz	"Xen"
	.quad	pvh_start

	.text
	.code32
pvh_start:
	mov	%ebx, %ebp
	cld
	xor	%eax, %eax
	mov	$TABLES, %edi
	mov	$6 * PAGE / 4, %ecx
	rep	stosl
	movl	$TABLES + PAGE + 3, TABLES
	mov	$TABLES + 2 * PAGE + 3, %eax
	mov	$TABLES + PAGE, %edi
1:	mov	%eax, (%edi)
	add	$PAGE, %eax
	add	$8, %edi
	cmp	$TABLES + PAGE + 4 * 8, %edi
	jne	1b
	mov	$0x83, %eax
	mov	$TABLES + 2 * PAGE, %edi
2:	mov	%eax, (%edi)
	add	$0x200000, %eax
	add	$8, %edi
	cmp	$TABLES + 6 * PAGE, %edi
	jne	2b
	mov	$TABLES, %eax
	mov	%eax, %cr3
	mov	$0x20, %eax		/* PAE */
	mov	%eax, %cr4
	mov	$0xc0000080, %ecx	/* EFER */
	rdmsr
	or	$0x100, %eax		/* LME */
	wrmsr
	mov	$0x80000031, %eax	/* PG, NE, ET, PE */
	mov	%eax, %cr0
	lgdt	gdt_pointer
	ljmp	$0x08, $3f
	.code64
	/* RAM ends where the entry that holds our first byte does */
3:	mov	%ebp, %ebp
	mov	MEMORY_MAP(%rbp), %rbx
	mov	MEMORY_MAP_ENTRIES(%rbp), %ecx
	xor	%esi, %esi
4:	dec	%ecx
	js	5f
	mov	(%rbx), %rax
	mov	8(%rbx), %rdx
	cmpl	$TYPE_RAM, ENTRY_TYPE(%rbx)
	lea	ENTRY_SIZE(%rbx), %rbx
	jne	4b
	cmp	$0x100000, %rax
	ja	4b
	add	%rax, %rdx
	cmp	$0x100000, %rdx
	jbe	4b
	mov	%rdx, %rsi
5:	mov	COMMAND_LINE(%rbp), %rdi
	jmp	_start
