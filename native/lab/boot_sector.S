/* The boot sector of the VMX lab's disk (nestvmm/lab/boot_disk.py writes it): reads to memory what its table names and
 * enters a kernel, for Bochs cannot load one itself. Linked at 0x7c00, where the firmware puts it and jumps in real mode.
 *
 * A row of the table has three words: physical address, first sector, number of sectors. A row without sectors is the
 * last: the kernel's PVH entry point, and where its struct hvm_start_info lies (Linux, arch/x86/platform/pvh/head.S). */

#define DATA 0x1f0		/* registers of the first ATA channel (ATA-6, 9.3) */
#define SECTOR_COUNT 0x1f2
#define COMMAND 0x1f7		/* the status, when it is read */
#define DEVICE_CONTROL 0x3f6

#define NO_INTERRUPTS 0x02
#define LBA_OF_MASTER 0xe0
#define READ_SECTORS 0x20
#define DATA_REQUEST 0x08
#define SECTORS_MAX 256		/* of one command, which counts them as 0 */

	.code16
	.globl start
start:
	cli
	cld
	xor	%ax, %ax
	mov	%ax, %ds
	lgdtl	gdt_register
	in	$0x92, %al	/* system control port A: switch the A20 line on */
	or	$2, %al
	out	%al, $0x92
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmpl	$0x08, $protected

	.code32
protected:
	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$start, %esp
	mov	$DEVICE_CONTROL, %edx
	mov	$NO_INTERRUPTS, %al
	out	%al, %dx
	mov	$table, %esi
row:
	mov	(%esi), %edi
	mov	4(%esi), %ebx
	mov	8(%esi), %ebp
	add	$12, %esi
	test	%ebp, %ebp
	jz	enter
command:
	mov	$SECTORS_MAX, %ecx
	cmp	%ecx, %ebp
	cmovb	%ebp, %ecx
	sub	%ecx, %ebp
	mov	$SECTOR_COUNT, %edx
	mov	%cl, %al
	out	%al, %dx
	mov	%ebx, %eax
	add	%ecx, %ebx
	inc	%edx
	out	%al, %dx	/* LBA bits 0 to 7, then 8 to 15, 16 to 23, 24 to 27 */
	inc	%edx
	shr	$8, %eax
	out	%al, %dx
	inc	%edx
	shr	$8, %eax
	out	%al, %dx
	inc	%edx
	shr	$8, %eax
	or	$LBA_OF_MASTER, %al
	out	%al, %dx
	inc	%edx
	mov	$READ_SECTORS, %al
	out	%al, %dx
sector:
	mov	$COMMAND, %edx
	in	%dx, %al
	test	$DATA_REQUEST, %al
	jz	sector		/* an error too: the lab gives up a boot that takes too long */
	mov	$DATA, %edx
	push	%ecx
	mov	$128, %ecx
	rep insl
	pop	%ecx
	loop	sector
	test	%ebp, %ebp
	jnz	command
	jmp	row
enter:
	jmp	*%edi

	.balign 8
gdt:
	.quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff	/* flat code and data */
gdt_register:
	.word . - gdt - 1
	.long gdt
	.balign 4
table:
