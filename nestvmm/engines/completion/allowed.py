"""Which instructions may run on the processor in level n's stead, by what iced-x86 says of them.

An instruction is allowed for what it is known to be, never for lack of a known reason against it: every CPUID feature
that it belongs to is in one of the tables here, its registers are general, vector, x87 or mask registers, and its
memory operand, if it has one, is the only memory that it touches. So nothing privileged, no I/O, no far transfer and
nothing that reads what L0 must not tell gets here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from iced_x86 import CpuidFeature, Instruction, Mnemonic, OpKind, RegisterExt

__all__ = ["FEATURES", "denied", "lacking", "missing_feature", "words"]


def words(text: str) -> list[str]:
    """The words of a table."""
    return text.split()


class _Bit(NamedTuple):
    """Where CPUID tells a feature: leaf, register, bit."""

    leaf: int
    register: str
    bit: int


_EXTENDED: Final = 0x80000001
_REGISTERS: Final = ("eax", "ebx", "ecx", "edx")

#: Extensions whose instructions are allowed, but for those that `denied` names, and where CPUID tells them.
FEATURES: Final[Mapping[str, _Bit]] = {
    "FPU": _Bit(1, "edx", 0),
    "FPU287": _Bit(1, "edx", 0),
    "FPU387": _Bit(1, "edx", 0),
    "CX8": _Bit(1, "edx", 8),
    "CMOV": _Bit(1, "edx", 15),
    "CLFSH": _Bit(1, "edx", 19),
    "MMX": _Bit(1, "edx", 23),
    "SSE": _Bit(1, "edx", 25),
    "SSE2": _Bit(1, "edx", 26),
    "SSE3": _Bit(1, "ecx", 0),
    "PCLMULQDQ": _Bit(1, "ecx", 1),
    "SSSE3": _Bit(1, "ecx", 9),
    "FMA": _Bit(1, "ecx", 12),
    "CMPXCHG16B": _Bit(1, "ecx", 13),
    "SSE4_1": _Bit(1, "ecx", 19),
    "SSE4_2": _Bit(1, "ecx", 20),
    "MOVBE": _Bit(1, "ecx", 22),
    "POPCNT": _Bit(1, "ecx", 23),
    "AES": _Bit(1, "ecx", 25),
    "AVX": _Bit(1, "ecx", 28),
    "F16C": _Bit(1, "ecx", 29),
    "RDRAND": _Bit(1, "ecx", 30),
    "BMI1": _Bit(7, "ebx", 3),
    "AVX2": _Bit(7, "ebx", 5),
    "BMI2": _Bit(7, "ebx", 8),
    "AVX512F": _Bit(7, "ebx", 16),
    "AVX512DQ": _Bit(7, "ebx", 17),
    "RDSEED": _Bit(7, "ebx", 18),
    "ADX": _Bit(7, "ebx", 19),
    "SMAP": _Bit(7, "ebx", 20),
    "AVX512_IFMA": _Bit(7, "ebx", 21),
    "CLFLUSHOPT": _Bit(7, "ebx", 23),
    "CLWB": _Bit(7, "ebx", 24),
    "AVX512CD": _Bit(7, "ebx", 28),
    "SHA": _Bit(7, "ebx", 29),
    "AVX512BW": _Bit(7, "ebx", 30),
    "AVX512VL": _Bit(7, "ebx", 31),
    "AVX512_VBMI": _Bit(7, "ecx", 1),
    "AVX512_VBMI2": _Bit(7, "ecx", 6),
    "GFNI": _Bit(7, "ecx", 8),
    "VAES": _Bit(7, "ecx", 9),
    "VPCLMULQDQ": _Bit(7, "ecx", 10),
    "AVX512_VNNI": _Bit(7, "ecx", 11),
    "AVX512_BITALG": _Bit(7, "ecx", 12),
    "AVX512_VPOPCNTDQ": _Bit(7, "ecx", 14),
    "LZCNT": _Bit(_EXTENDED, "ecx", 5),
    "SSE4A": _Bit(_EXTENDED, "ecx", 6),
    "PREFETCHW": _Bit(_EXTENDED, "ecx", 8),
}

# Without these features the processor takes the bytes for another instruction: #UD would be wrong.
_OTHERWISE: Final = frozenset({"LZCNT", "BMI1", "PREFETCHW"})

_BASE_FEATURES: Final = frozenset(
    {"INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "X64", "MULTIBYTENOP", "PAUSE", "CET_IBT"}
)

# Of the base instruction set, what a loop of vector instructions is made of besides.
_BASE: Final = frozenset(
    words("""MOV MOVZX MOVSX MOVSXD LEA XCHG BSWAP CBW CWDE CDQE CWD CDQ CQO NOP PAUSE ENDBR64 ENDBR32 ADD ADC
    SUB SBB CMP TEST AND OR XOR NOT NEG INC DEC MUL IMUL DIV IDIV XADD CMPXCHG SHL SHR SAR SAL ROL ROR
    RCL RCR SHLD SHRD BSF BSR BT BTS BTR BTC LAHF SAHF CLC STC CMC WAIT SETO SETNO SETB SETAE SETE SETNE
    SETBE SETA SETS SETNS SETP SETNP SETL SETGE SETLE SETG""")
)

# Of the extensions: memory that no operand names or that a mask selects, layouts with addresses in them, state of the
# system, and what KVM always does itself.
_DENIED: Final = frozenset(
    words("""MASKMOVQ MASKMOVDQU VMASKMOVDQU VMASKMOVPS VMASKMOVPD VPMASKMOVD VPMASKMOVQ FNSTENV FSTENV FNSAVE
    FSAVE FXSAVE FXSAVE64 FXRSTOR FXRSTOR64 CLAC STAC""")
)


def _names(values: object) -> dict[int, str]:
    return {getattr(values, name): name for name in dir(values) if name[0].isupper()}


_FEATURE_NAMES: Final = _names(CpuidFeature)
_MNEMONICS: Final = _names(Mnemonic)


def lacking(read: Callable[[int], Sequence[int]]) -> frozenset[str]:
    """Which of FEATURES a processor lacks, by its CPUID: `read` gives a leaf's EAX, EBX, ECX and EDX.

    The processor that runs level n decides, not level n's CPUID: no processor refuses an instruction because a
    hypervisor hides it, and at CPL 3 it runs there anyway.
    """
    leaves = {bit.leaf: read(bit.leaf) for bit in FEATURES.values()}
    return frozenset(
        name for name, bit in FEATURES.items() if not leaves[bit.leaf][_REGISTERS.index(bit.register)] >> bit.bit & 1
    )


def _features(instruction: Instruction) -> set[str]:
    return {_FEATURE_NAMES[feature] for feature in instruction.cpuid_features()}


def missing_feature(instruction: Instruction, lacks: frozenset[str]) -> str | None:
    """A feature whose absence makes this instruction #UD."""
    return next(iter((_features(instruction) & lacks) - _OTHERWISE), None)


def denied(instruction: Instruction, lacks: frozenset[str]) -> bool:
    """Whether this instruction, which has all its features, must not run on the processor."""
    features = _features(instruction)
    mnemonic = _MNEMONICS[instruction.mnemonic]
    if not features <= FEATURES.keys() | _BASE_FEATURES or features & lacks:
        return True
    if features <= _BASE_FEATURES and mnemonic not in _BASE and not mnemonic.startswith("CMOV"):
        return True
    return (
        mnemonic in _DENIED
        or instruction.is_privileged
        or instruction.is_string_instruction
        or instruction.is_stack_instruction
        or _odd_operands(instruction, mnemonic)
    )


def _odd_operands(instruction: Instruction, mnemonic: str) -> bool:
    """Operands that are not plain registers, immediates or one piece of memory that is touched as a whole."""
    kinds = [instruction.op_kind(operand) for operand in range(instruction.op_count)]
    memory = OpKind.MEMORY in kinds
    if memory and (instruction.has_op_mask or instruction.is_vsib):
        return True  # masked elements must not fault
    if mnemonic.startswith("BT") and memory and kinds[1] == OpKind.REGISTER:
        return True  # the bit may lie outside the operand
    if any(kind > OpKind.IMMEDIATE32TO64 and kind != OpKind.MEMORY for kind in kinds):
        return True  # implied memory
    registers = [instruction.op_register(operand) for operand, kind in enumerate(kinds) if kind == OpKind.REGISTER]
    return not all(map(_plain, registers))


def _plain(register: Any) -> bool:
    return (
        RegisterExt.is_gpr(register)
        or RegisterExt.is_vector_register(register)
        or RegisterExt.is_mm(register)
        or RegisterExt.is_st(register)
        or RegisterExt.is_k(register)
    )
