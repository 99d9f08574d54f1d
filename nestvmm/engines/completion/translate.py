"""One instruction of level n as an operation of native/completion.h.

Most become machine code that does the very same instruction with other registers in the memory operand's place:

    push [cpu + flags]; popf                  if it reads flags, or leaves some alone
    mov  register, [cpu + register] ...       each general register that it names
    the instruction, its memory operand being [memory]
    mov  [cpu + register], register ...       each that it changed
    pushf; pop [cpu + flags]                  if it changes flags

Called as a C function of (cpu, memory). RSP as an operand gets another register's name, so our own stack stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from iced_x86 import (
    Code,
    CpuidFeature,
    Decoder,
    DecoderError,
    Encoder,
    EncodingKind,
    FlowControl,
    Instruction,
    InstructionInfoFactory,
    MemoryOperand,
    MemorySizeExt,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    RegisterExt,
    RflagsBits,
    UsedRegister,
)

from nestvmm._native import ffi, lib
from nestvmm.engines.completion.allowed import denied, missing_feature, words

__all__ = ["Operation", "translate"]

_UD: Final = 6
_GP: Final = 13
_BP: Final = 3
_MEMORY_MAX: Final = 512
_PREFIXES: Final = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))
_AC_KINDS: Final[dict[Any, int]] = {Mnemonic.CLAC: lib.NV_OPERATION_CLAC, Mnemonic.STAC: lib.NV_OPERATION_STAC}

# General registers by their number in ModRM, and where struct kvm_regs keeps each.
_GPR64: Final[list[Any]] = [Register.RAX + number for number in range(16)]
_KVM_ORDER: Final = {number: index for index, number in enumerate((0, 3, 1, 2, 6, 7, 4, 5, *range(8, 16)))}
_LOW8: Final[list[Any]] = [getattr(Register, name) for name in words("AL CL DL BL SPL BPL SIL DIL")] + [
    getattr(Register, f"R{number}L") for number in range(8, 16)
]
_BASES: Final[dict[int, Any]] = {2: Register.AX, 4: Register.EAX, 8: Register.RAX}
_RSP: Final = 4

_SEGMENTS: Final = [getattr(Register, name) for name in words("ES CS SS DS FS GS")]
_FLAGS_OFFSET: Final = ffi.offsetof("struct nv_completion", "flags")

_STATUS_FLAGS: Final = RflagsBits.CF | RflagsBits.PF | RflagsBits.AF | RflagsBits.ZF | RflagsBits.SF | RflagsBits.OF

# Once around changes no bit but, on some processors, OF.
_ROTATES: Final = {Mnemonic.RCL, Mnemonic.RCR, Mnemonic.ROL, Mnemonic.ROR}

_READS: Final = {OpAccess.READ, OpAccess.COND_READ, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
_WRITES: Final = {OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}

_X87: Final = {CpuidFeature.FPU, CpuidFeature.FPU287, CpuidFeature.FPU387}
_SSE: Final = {
    getattr(CpuidFeature, name) for name in words("SSE SSE2 SSE3 SSSE3 SSE4_1 SSE4_2 SSE4A AES PCLMULQDQ SHA GFNI")
}
# Of these extensions, what has nothing to do with vector registers and MXCSR.
_GENERAL_SSE: Final = {
    getattr(Mnemonic, name)
    for name in words("CRC32 MOVNTI LFENCE MFENCE SFENCE PREFETCHNTA PREFETCHT0 PREFETCHT1 PREFETCHT2")
}
# MMX registers, but SSE's arithmetic.
_MMX_AND_SSE: Final = {
    getattr(Mnemonic, name) for name in words("CVTPI2PS CVTPI2PD CVTPS2PI CVTTPS2PI CVTPD2PI CVTTPD2PI MOVQ2DQ MOVDQ2Q")
}
_X87_CONTROL: Final = {
    getattr(Mnemonic, name) for name in words("FNINIT FNCLEX FLDCW FNSTCW FNSTSW FLDENV FRSTOR WAIT")
}
_X87_LOADS: Final = {Mnemonic.FLDENV, Mnemonic.FRSTOR}

# Legacy-encoded vector instructions with 16 bytes of memory need them aligned, but for these (AMD APM vol. 4, 1.3).
_UNALIGNED: Final = {
    getattr(Mnemonic, name)
    for name in words("MOVUPS MOVUPD MOVDQU LDDQU PCMPESTRI PCMPESTRI64 PCMPESTRM PCMPESTRM64 PCMPISTRI PCMPISTRM")
}
_ALIGNED_VEX: Final = {
    getattr(Mnemonic, name)
    for name in words("VMOVAPS VMOVAPD VMOVDQA VMOVDQA32 VMOVDQA64 VMOVNTPS VMOVNTPD VMOVNTDQ VMOVNTDQA")
}

_INFO: Final = InstructionInfoFactory()


@dataclass(slots=True)
class Operation:
    """What becomes a struct nv_operation: its fields under the same names, and its code."""

    kind: int
    length: int
    code: bytes = b""
    fields: dict[str, int] = field(default_factory=dict)


class _UnableError(Exception):
    """This instruction has no operation."""


def translate(data: bytes, ip: int, mode: int, lacks: frozenset[str]) -> Operation:
    """The operation of the instruction at the beginning of `data`, which lies at `ip` in its code segment.

    data: 1 to 15 bytes, fewer only where no more could be fetched; mode: 16, 32 or 64; lacks: of allowed.lacking
    """
    decoder = Decoder(mode, data, ip=ip)
    instruction = decoder.decode()
    if instruction.is_invalid:
        if decoder.last_error == DecoderError.NO_MORE_BYTES and len(data) < 15:
            return Operation(lib.NV_OPERATION_SHORT, len(data))
        return Operation(lib.NV_OPERATION_FAULT, len(data), fields={"target": _GP if _too_long(data, mode) else _UD})
    if missing_feature(instruction, lacks) is not None:
        return Operation(lib.NV_OPERATION_FAULT, instruction.len, fields={"target": _UD})
    try:
        return _possible(instruction, data, mode, lacks)
    except (_UnableError, ValueError):
        return Operation(lib.NV_OPERATION_STOP, instruction.len)


def _too_long(data: bytes, mode: int) -> bool:
    """Whether prefixes alone make 15 bytes too few: that is #GP, not #UD (AMD APM vol. 3, 1.1)."""
    while data and data[0] in _PREFIXES:
        data = data[1:]
        if not Decoder(mode, data.ljust(15, b"\0")).decode().is_invalid:
            return True
    return not data


def _possible(instruction: Instruction, data: bytes, mode: int, lacks: frozenset[str]) -> Operation:
    if instruction.flow_control != FlowControl.NEXT:
        return _transfer(instruction, data, mode)
    if instruction.mnemonic in _AC_KINDS:
        return Operation(_AC_KINDS[instruction.mnemonic], instruction.len)
    if instruction.is_stack_instruction:
        return _stack(instruction, mode)
    if denied(instruction, lacks):
        raise _UnableError
    return _native(instruction, data[: instruction.len])


def _transfer(instruction: Instruction, data: bytes, mode: int) -> Operation:
    """Near jumps, calls and returns; INT3; what always is #UD."""
    length = instruction.len
    code = instruction.code
    if code == Code.INT3:
        return Operation(lib.NV_OPERATION_TRAP, length, fields={"target": _BP})
    if instruction.mnemonic in (Mnemonic.UD0, Mnemonic.UD1, Mnemonic.UD2):
        return Operation(lib.NV_OPERATION_FAULT, length, fields={"target": _UD})
    if mode != 64 or data[0] == 0x66:
        raise _UnableError  # AMD's processors cut the target to 16 bits, Intel's do not
    if code == Code.RETNQ:
        return Operation(lib.NV_OPERATION_RETURN, length)
    if instruction.is_jcc_short_or_near:
        # the opcode's last byte stands before the displacement, of 1 or 4 bytes
        opcode = data[length - 2] if instruction.is_jcc_short else data[length - 5]
        fields = {"target": instruction.near_branch_target, "condition": opcode & 15}
        return Operation(lib.NV_OPERATION_JUMP, length, fields=fields)
    if instruction.is_jmp_short_or_near or instruction.is_call_near:
        fields = {"target": instruction.near_branch_target}
    elif instruction.is_jmp_near_indirect or instruction.is_call_near_indirect:
        fields = _value(instruction)
    else:
        raise _UnableError
    if instruction.is_call_near or instruction.is_call_near_indirect:
        return Operation(lib.NV_OPERATION_CALL, length, fields=fields)
    return Operation(lib.NV_OPERATION_JUMP, length, fields=fields | {"condition": lib.NV_CONDITION_ALWAYS})


def _value(instruction: Instruction) -> dict[str, int]:
    """The only operand, of 64 bits, in a register or in memory."""
    if instruction.op0_kind == OpKind.REGISTER and RegisterExt.size(instruction.op0_register) == 8:
        return {"base": _KVM_ORDER[RegisterExt.number(instruction.op0_register)]}
    if instruction.op0_kind == OpKind.MEMORY and MemorySizeExt.size(instruction.memory_size) == 8:
        return _address(instruction) | {"access": lib.NV_ACCESS_READ}
    raise _UnableError


def _stack(instruction: Instruction, mode: int) -> Operation:
    if mode != 64:
        raise _UnableError
    length = instruction.len
    match instruction.code:
        case Code.PUSH_R64 | Code.PUSH_RM64:
            return Operation(lib.NV_OPERATION_PUSH, length, fields=_value(instruction))
        case Code.PUSHQ_IMM8 | Code.PUSHQ_IMM32:
            fields = {"target": instruction.immediate(0) & 0xFFFFFFFFFFFFFFFF}
            return Operation(lib.NV_OPERATION_PUSH, length, fields=fields)
        case Code.POP_R64:
            return Operation(lib.NV_OPERATION_POP, length, fields=_value(instruction))
    raise _UnableError


def _native(original: Instruction, data: bytes) -> Operation:
    info = _INFO.info(original)
    memory_operand = next(
        (number for number in range(original.op_count) if original.op_kind(number) == OpKind.MEMORY), None
    )
    used = info.used_memory()
    if original.code == Code.MOVSXD_R16_RM16:
        raise _UnableError  # how much it reads depends on the processor
    fields = {"unit": _unit(original), "x87_pointers": _x87_pointers(original)}
    if fields["x87_pointers"] == lib.NV_X87_SETS:
        fields["target"] = _x87_opcode(data)
    instruction: Instruction | None = original.copy()
    if memory_operand is None:
        if used:
            raise _UnableError
    elif original.mnemonic == Mnemonic.LEA:
        fields |= _address(original) | {"access": lib.NV_ACCESS_ADDRESS}
    elif not used:
        instruction = None  # a long NOP, or a prefetch
    else:
        if len(used) != 1:
            raise _UnableError
        size = MemorySizeExt.size(used[0].memory_size)
        access = (lib.NV_ACCESS_READ if used[0].access in _READS else 0) | (
            lib.NV_ACCESS_WRITE if used[0].access in _WRITES else 0
        )
        if not 0 < size <= _MEMORY_MAX or not access:
            raise _UnableError
        fields |= _address(original) | {"access": access, "size": size, "alignment": _alignment(original, size)}
    code = _thunk(instruction, info.used_registers()) if instruction is not None else b"\xc3"
    return Operation(lib.NV_OPERATION_NATIVE, original.len, code, fields)


def _address(instruction: Instruction) -> dict[str, int]:
    """The memory operand's address: what effective_address in C computes with."""
    base: Any = instruction.memory_base
    index: Any = instruction.memory_index
    displacement = instruction.memory_displacement
    if instruction.is_ip_rel_memory_operand:
        displacement, bits = instruction.ip_rel_memory_address, 64 if base == Register.RIP else 32
        base = Register.NONE
    elif base != Register.NONE or index != Register.NONE:
        bits = 8 * RegisterExt.size(base if base != Register.NONE else index)
    else:
        bits = 8 * instruction.memory_displ_size
    return {
        "displacement": displacement & 0xFFFFFFFFFFFFFFFF,
        "base": _KVM_ORDER[RegisterExt.number(base)] if base != Register.NONE else lib.NV_NO_REGISTER,
        "index": _KVM_ORDER[RegisterExt.number(index)] if index != Register.NONE else lib.NV_NO_REGISTER,
        "scale": instruction.memory_index_scale.bit_length() - 1,
        "segment": _SEGMENTS.index(instruction.memory_segment),
        "address_bits": bits,
    }


def _alignment(instruction: Instruction, size: int) -> int:
    """The alignment that its memory operand needs, in bytes; 1: none."""
    if instruction.mnemonic == Mnemonic.CMPXCHG16B:
        return 16
    if instruction.encoding != EncodingKind.LEGACY:
        return size if instruction.mnemonic in _ALIGNED_VEX else 1
    if CpuidFeature.SHA in instruction.cpuid_features():
        return 1  # its page faults come first
    vector = any(
        RegisterExt.is_vector_register(instruction.op_register(number))
        or RegisterExt.is_mm(instruction.op_register(number))
        for number in range(instruction.op_count)
        if instruction.op_kind(number) == OpKind.REGISTER
    )
    return 16 if vector and size == 16 and instruction.mnemonic not in _UNALIGNED else 1


def _unit(instruction: Instruction) -> int:
    """The registers that it needs besides the general ones: NV_UNIT_*."""
    features = set(instruction.cpuid_features())
    registers = [
        instruction.op_register(number)
        for number in range(instruction.op_count)
        if instruction.op_kind(number) == OpKind.REGISTER
    ]
    vector = any(RegisterExt.is_vector_register(register) for register in registers)
    mmx = any(RegisterExt.is_mm(register) for register in registers) and instruction.mnemonic not in _MMX_AND_SSE
    unit = lib.NV_UNIT_NONE
    if instruction.mnemonic == Mnemonic.WAIT:
        unit = lib.NV_UNIT_WAIT
    elif instruction.encoding == EncodingKind.EVEX or any(RegisterExt.is_k(register) for register in registers):
        unit = lib.NV_UNIT_AVX512
    elif instruction.encoding == EncodingKind.VEX:
        unit = lib.NV_UNIT_AVX if vector or CpuidFeature.AVX in features else lib.NV_UNIT_NONE
    elif features & _X87:
        unit = lib.NV_UNIT_X87
    elif instruction.mnemonic == Mnemonic.EMMS or (mmx and not vector):
        unit = lib.NV_UNIT_MMX
    elif features & _SSE and instruction.mnemonic not in _GENERAL_SSE:
        unit = lib.NV_UNIT_SSE
    return int(unit)


def _x87_pointers(instruction: Instruction) -> int:
    if instruction.mnemonic in _X87_LOADS:
        return int(lib.NV_X87_LOADS)
    if _unit(instruction) == lib.NV_UNIT_X87 and instruction.mnemonic not in _X87_CONTROL:
        return int(lib.NV_X87_SETS)
    return 0


def _x87_opcode(data: bytes) -> int:
    """What FOP gets: the low three bits of the opcode, D8 to DF, above the ModRM byte (AMD APM vol. 1, 6.2.6)."""
    opcode = next(number for number, byte in enumerate(data) if 0xD8 <= byte <= 0xDF)
    return (data[opcode] & 7) << 8 | data[opcode + 1]


def _thunk(instruction: Instruction, used: list[UsedRegister]) -> bytes:
    """Machine code that does `instruction`, whose memory operand becomes the address that it is called with."""
    general = [one for one in used if RegisterExt.is_gpr(one.register)]
    numbers = {RegisterExt.number(RegisterExt.full_register(one.register)) for one in general}
    written = {RegisterExt.number(RegisterExt.full_register(one.register)) for one in general if one.access in _WRITES}
    # the lowest first: with AH and its like there must be no REX prefix
    free = [number for number in (6, 7, 3, 5, 1, 2, 0, *range(8, 16)) if number not in numbers]
    memory = free.pop(0)
    place = {number: number for number in numbers}
    if _RSP in numbers:
        place[_RSP] = free.pop(0)
        _rename_rsp(instruction, place[_RSP])
    cpu = _GPR64[free.pop()]
    instruction = _redirect(instruction, _GPR64[memory])
    code = _Emitter()
    # the arguments are in RDI and RSI
    code.emit(Instruction.create_reg_reg(Code.MOV_R64_RM64, cpu, Register.RDI))
    if memory != RegisterExt.number(Register.RSI):
        code.emit(Instruction.create_reg_reg(Code.MOV_R64_RM64, _GPR64[memory], Register.RSI))
    flags = MemoryOperand(cpu, displ=_FLAGS_OFFSET, displ_size=8)
    rotates = instruction.mnemonic in _ROTATES
    if rotates or (instruction.rflags_read | instruction.rflags_modified) & _STATUS_FLAGS:
        code.emit(Instruction.create_mem(Code.PUSH_RM64, flags), Instruction.create(Code.POPFQ))
    for number in sorted(numbers):
        code.emit(Instruction.create_reg_mem(Code.MOV_R64_RM64, _GPR64[place[number]], _saved(cpu, number)))
    code.emit(instruction)
    for number in sorted(written):
        code.emit(Instruction.create_mem_reg(Code.MOV_RM64_R64, _saved(cpu, number), _GPR64[place[number]]))
    if rotates or instruction.rflags_modified & _STATUS_FLAGS:
        code.emit(Instruction.create(Code.PUSHFQ), Instruction.create_mem(Code.POP_RM64, flags))
    code.emit(Instruction.create(Code.RETNQ))
    return code.bytes


def _saved(cpu: Any, number: int) -> MemoryOperand:
    return MemoryOperand(cpu, displ=8 * _KVM_ORDER[number], displ_size=1)


def _rename_rsp(instruction: Instruction, number: int) -> None:
    for operand in range(instruction.op_count):
        if instruction.op_kind(operand) != OpKind.REGISTER:
            continue
        register = instruction.op_register(operand)
        if RegisterExt.is_gpr(register) and RegisterExt.full_register(register) == Register.RSP:
            size = RegisterExt.size(register)
            instruction.set_op_register(operand, _LOW8[number] if size == 1 else _BASES[size] + number)


def _redirect(instruction: Instruction, memory: Any) -> Instruction:
    """The same instruction with [memory] as its memory operand; LEA becomes a move of the address."""
    if instruction.mnemonic == Mnemonic.LEA:
        size = RegisterExt.size(instruction.op0_register)
        code = {2: Code.MOV_R16_RM16, 4: Code.MOV_R32_RM32, 8: Code.MOV_R64_RM64}[size]
        return Instruction.create_reg_reg(code, instruction.op0_register, _BASES[size] + RegisterExt.number(memory))
    if any(instruction.op_kind(operand) == OpKind.MEMORY for operand in range(instruction.op_count)):
        instruction.memory_base = memory
        instruction.memory_index = Register.NONE
        instruction.memory_displacement = 0
        instruction.memory_displ_size = 0
    instruction.segment_prefix = Register.NONE
    return instruction


class _Emitter:
    def __init__(self) -> None:
        self._encoder = Encoder(64)
        self.bytes = b""

    def emit(self, *instructions: Instruction) -> None:
        """Appends instructions; raises ValueError for one that 64-bit code cannot have."""
        for instruction in instructions:
            self._encoder.encode(instruction, 0)
            self.bytes += self._encoder.take_buffer()
