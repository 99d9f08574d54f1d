/* Exceptions 0 to 31, and 32 vectors for interrupts: for C and assembly. */
#define TRAP_VECTORS 64
#define TRAP_WITH_ERROR_CODE 0x60227d00 /* #DF #TS #NP #SS #GP #PF #AC #CP, and AMD's #VC and #SX */
