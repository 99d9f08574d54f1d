/* What the vmx image and L0 tell each other besides the mailbox: a VMCS can be reached only by VMREAD and VMWRITE, which the image
 * does. L0 says what to write before level n is entered and what to read when it has exited. It lies at NV_SWITCHER_BLOCK.
 * The assembler reads the numbers; native/vmx.c checks that the struct agrees with them. */
#ifndef NV_VMX_BLOCK_H
#define NV_VMX_BLOCK_H

/* Enter level n; or only write and read, then ring again; the same, and the VMCS goes to its memory, until the next run takes it from
 * there. */
#define NV_VMX_ENTER 0
#define NV_VMX_EXCHANGE 1
#define NV_VMX_STORE 2

#define NV_VMX_WRITES 192
#define NV_VMX_READS 64
#define NV_VMX_EXIT_READS 16
#define NV_VMX_BASIC_REASONS 128

/* Where the interruption information is in `exit`. */
#define NV_VMX_INTERRUPTION 9

#define NV_VMX_COMMAND 0x00
#define NV_VMX_STARTED 0x08
#define NV_VMX_LAUNCHED 0x10
#define NV_VMX_ERROR 0x18
#define NV_VMX_REASON 0x20
#define NV_VMX_WRITE_COUNT 0x28
#define NV_VMX_READ_COUNT 0x30
#define NV_VMX_VMXON 0x38
#define NV_VMX_VMCS 0x40
#define NV_VMX_DEPTH 0x48
#define NV_VMX_EXIT_READ 0xc8
#define NV_VMX_WRITE 0x1c8
#define NV_VMX_READ 0xdc8
#define NV_VMX_LOADED 0x11c8

#ifndef __ASSEMBLER__
#include <stdint.h>

/* A field of the VMCS, by its encoding (Intel SDM vol. 3, appendix B), and its value. */
struct nv_vmx_field {
	uint64_t encoding;
	uint64_t value;
};

struct nv_vmx_block {
	uint64_t command;        /* NV_VMX_ENTER, NV_VMX_EXCHANGE or NV_VMX_STORE */
	uint64_t started;        /* the image has done VMXON */
	uint64_t launched;       /* and the first VMLAUNCH */
	uint64_t error;          /* VM-instruction error of the instruction that failed (SDM vol. 3, 31.4) */
	uint64_t reason;         /* the exit reason */
	uint64_t writes;         /* how many of `write`; the image leaves it alone, so that an interrupted entry can be repeated */
	uint64_t reads;          /* how many of `read` */
	uint64_t vmxon, vmcs;    /* guest-physical addresses of the two regions */
	uint8_t depth[128];      /* by basic exit reason: how many of `exit` */
	struct nv_vmx_field exit[16];
	struct nv_vmx_field write[192];
	struct nv_vmx_field read[64]; /* for NV_VMX_EXCHANGE and NV_VMX_STORE */
	uint64_t loaded;         /* the VMCS is current; else it is in its memory */
};
#endif

#endif
