"""Every feature that nestvmm knows by name: how it shows, and what it is.

Bits: AMD APM vol. 3, appendix E; Intel SDM vol. 2, CPUID, and vol. 4 for IA32_ARCH_CAPABILITIES. Names are those that
the manuals and Linux share. Two are ours and show in our own leaf (see feature.OUR_LEAF):

- `msr_block`: a few MSRs that no processor has (see msr_block.py)
- `crc32`: the CRC32 instruction alone. The bit of the manuals is SSE4.2's, which promises string instructions besides;
  where L0 emulates CRC32 only, it must not show that bit. Hardware with sse4_2 has it too.
"""

from __future__ import annotations

import difflib

from nestvmm.errors import UsageError
from nestvmm.nesting.features.feature import OUR_LEAF, CpuidBit, Feature, MsrBit

__all__ = ["CATALOG", "find_feature"]

_OURS = (OUR_LEAF + 1, 0, "eax")
_ARCH_CAPABILITIES = 0x10A

# (leaf, subleaf, register): {bit: (name, meaning)}
_CPUID = {
    (1, 0, "ecx"): {
        0: ("sse3", "SSE3"),
        1: ("pclmulqdq", "carry-less multiplication"),
        3: ("monitor", "MONITOR, MWAIT"),
        5: ("vmx", "VMX: Intel's virtualization"),
        9: ("ssse3", "SSSE3"),
        12: ("fma", "fused multiply-add"),
        13: ("cx16", "CMPXCHG16B"),
        17: ("pcid", "process-context identifiers"),
        19: ("sse4_1", "SSE4.1"),
        20: ("sse4_2", "SSE4.2, CRC32 included"),
        21: ("x2apic", "APIC registers as MSRs 0x800 to 0x8ff"),
        22: ("movbe", "MOVBE"),
        23: ("popcnt", "POPCNT"),
        24: ("tsc_deadline_timer", "APIC timer by TSC value, MSR 0x6e0"),
        25: ("aes", "AES instructions"),
        26: ("xsave", "XSAVE, XRSTOR, XSETBV"),
        28: ("avx", "AVX"),
        29: ("f16c", "half-precision conversion"),
        30: ("rdrand", "RDRAND"),
        31: ("hypervisor", "a hypervisor is present"),
    },
    (7, 0, "ebx"): {
        0: ("fsgsbase", "RDFSBASE, WRGSBASE and so on"),
        1: ("tsc_adjust", "MSR 0x3b"),
        3: ("bmi1", "bit manipulation, first group"),
        5: ("avx2", "AVX2"),
        7: ("smep", "no execution of user pages at CPL 0"),
        8: ("bmi2", "bit manipulation, second group"),
        9: ("erms", "fast REP MOVSB"),
        10: ("invpcid", "INVPCID"),
        16: ("avx512f", "AVX-512 foundation"),
        17: ("avx512dq", "AVX-512 DQ"),
        18: ("rdseed", "RDSEED"),
        19: ("adx", "ADCX, ADOX"),
        20: ("smap", "no access to user pages at CPL 0"),
        23: ("clflushopt", "CLFLUSHOPT"),
        24: ("clwb", "CLWB"),
        28: ("avx512cd", "AVX-512 CD"),
        29: ("sha_ni", "SHA instructions"),
        30: ("avx512bw", "AVX-512 BW"),
        31: ("avx512vl", "AVX-512 VL"),
    },
    (7, 0, "ecx"): {
        2: ("umip", "no SGDT, SIDT, SLDT, SMSW, STR at CPL 3"),
        3: ("pku", "protection keys"),
        8: ("gfni", "Galois-field instructions"),
        9: ("vaes", "AES on vectors"),
        10: ("vpclmulqdq", "carry-less multiplication on vectors"),
        14: ("avx512_vpopcntdq", "AVX-512 VPOPCNTDQ"),
        16: ("la57", "five-level paging"),
        22: ("rdpid", "RDPID"),
    },
    (7, 0, "edx"): {
        4: ("fsrm", "fast short REP MOVSB"),
        26: ("spec_ctrl", "IBRS and IBPB, MSRs 0x48 and 0x49"),
        29: ("arch_capabilities", "MSR 0x10a"),
    },
    (0xD, 1, "eax"): {
        0: ("xsaveopt", "XSAVEOPT"),
        1: ("xsavec", "XSAVEC"),
        3: ("xsaves", "XSAVES, MSR 0xda0"),
    },
    (0x80000001, 0, "ecx"): {
        2: ("svm", "SVM: AMD's virtualization"),
        5: ("abm", "LZCNT"),
        6: ("sse4a", "SSE4A"),
    },
    (0x80000001, 0, "edx"): {
        11: ("syscall", "SYSCALL, SYSRET"),
        20: ("nx", "pages without execution"),
        26: ("pdpe1gb", "pages of 1 GiB"),
        27: ("rdtscp", "RDTSCP, MSR 0xc0000103"),
    },
    _OURS: {
        0: ("msr_block", "nestvmm's MSRs 0x4e560100 to 0x4e56010f"),
        1: ("crc32", "CRC32"),
    },
}

# Of IA32_ARCH_CAPABILITIES: what the processor does not suffer from.
_MSR_BITS = {
    0: ("rdcl_no", "not open to Meltdown"),
    1: ("ibrs_all", "IBRS works always-on"),
    5: ("mds_no", "not open to MDS"),
    6: ("pschange_mc_no", "not open to page-size change machine checks"),
    8: ("taa_no", "not open to TAA"),
}

_WITHIN = {"crc32": "sse4_2"}


def _catalog() -> dict[str, Feature]:
    found = {
        name: Feature(name, CpuidBit(leaf, subleaf, register, bit), meaning, _WITHIN.get(name, ""))
        for (leaf, subleaf, register), bits in _CPUID.items()
        for bit, (name, meaning) in bits.items()
    }
    for bit, (name, meaning) in _MSR_BITS.items():
        found[name] = Feature(name, MsrBit(_ARCH_CAPABILITIES, bit), meaning)
    return found


#: All features by name.
CATALOG: dict[str, Feature] = _catalog()


def find_feature(name: str) -> Feature:
    """The feature of that name; raises UsageError with the nearest one."""
    if name in CATALOG:
        return CATALOG[name]
    near = difflib.get_close_matches(name, CATALOG, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else "`nestvmm features` lists all"
    raise UsageError(f"unknown feature {name!r:.60}; {hint}")
