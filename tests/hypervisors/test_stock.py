"""The stock hypervisors under guests on real hardware."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import guest_code as guest
import pytest
from guest_code import LevelSpec, Tower, results, run_in, spec_of

from nestvmm.errors import UsageError
from nestvmm.hypervisors import Event, ExitReason
from nestvmm.hypervisors.cpuid_policy import CpuidPolicy
from nestvmm.hypervisors.logger import Logger
from nestvmm.kvm import CpuidEntry
from nestvmm.nesting import Account, Clock, Runner
from nestvmm.x86.event import Outcome

COM1 = 0x3F8
SERIAL_VECTOR = 36
MSR = 0x4E560000
TSC = 0x10


class Pipe:
    """A pipe that collects what is written."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._data = bytearray()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self.reader, 4096):
            self._data.extend(data)

    def close(self) -> bytes:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1
            self._thread.join()
            os.close(self.reader)
        return bytes(self._data)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    one = Pipe()
    yield one
    one.close()


def levels_handling(tower: Tower) -> dict[int, int]:
    counts: dict[int, int] = {}
    for row in Account.of(tower, Clock(), 1).rows:
        counts[row.level] = counts.get(row.level, 0) + row.count
    return counts


@pytest.mark.kvm
def test_console_writes_what_the_guest_sends(tmp_path: Path, pipe: Pipe) -> None:
    code = b"".join(guest.out(COM1, byte) for byte in b"hello") + guest.done()
    logger = LevelSpec("logger", {"limit": 0})
    levels = [logger, LevelSpec("console", {"output": pipe.writer}), logger]
    with Tower(spec_of(tmp_path, code, levels), stdout=-1) as tower:
        assert run_in(tower).status == 0
        assert levels_handling(tower) == {2: 5, 0: 1}
        assert [tower.hypervisors[i].seen for i in (0, 2)] == [1, 6]
    assert pipe.close() == b"hello"


@pytest.mark.kvm
def test_console_at_another_port_writes_strings(tmp_path: Path, pipe: Pipe) -> None:
    code = guest.store(guest.RESULTS + 64, int.from_bytes(b"8 bytes!", "little"))
    code += guest.outs(0x2F8, guest.RESULTS + 64, 8) + guest.done()
    console = LevelSpec("console", {"port": 0x2F8, "output": pipe.writer})
    with Tower(spec_of(tmp_path, code, [console]), stdout=-1) as tower:
        assert run_in(tower).status == 0
    assert pipe.close() == b"8 bytes!"


@pytest.mark.kvm
def test_consoles_transmitter_interrupts_the_guest(tmp_path: Path, pipe: Pipe) -> None:
    on_serial = guest.handler(guest.inp(COM1 + 2) + guest.keep(1) + guest.add(0) + guest.END_OF_INTERRUPT)
    code = guest.pic(0xEF) + guest.out(COM1 + 1, 2) + guest.STI + guest.until(0) + guest.done(3)
    image = guest.with_handlers(code, {SERIAL_VECTOR: on_serial})
    console = LevelSpec("console", {"output": pipe.writer})
    with Tower(spec_of(tmp_path, image, [console, console], machine="pc"), stdout=-1) as tower:
        assert run_in(tower).status == 3
        assert results(tower, 2) == [1, 2], "IIR: the transmitter's, which reading it cleared"


@pytest.mark.kvm
@pytest.mark.parametrize("irq", [3, 4])
def test_consoles_input_interrupts_the_halted_guest(tmp_path: Path, pipe: Pipe, irq: int) -> None:
    # each byte that arrives is sent back; "!" ends the run
    echo = guest.inp(COM1) + guest.keep(1) + guest.rdx(COM1) + b"\xee" + guest.add(0)
    ends = b"\x3c\x21\x75" + bytes([len(guest.done(6))]) + guest.done(6)  # cmp $'!', %al; jne
    body = echo + ends + guest.inp(COM1 + 5) + b"\xa8\x01"  # test $1, %al: while there is more
    more = b"\x0f\x85" + (-len(body) - 6).to_bytes(4, "little", signed=True)  # jne
    on_serial = guest.handler(body + more + guest.END_OF_INTERRUPT)
    # a halted guest that no interrupt wakes would time out
    code = guest.pic(0xFF & ~(1 << irq)) + guest.out(COM1 + 1, 1) + guest.STI + guest.loop(guest.HLT)
    image = guest.with_handlers(code, {32 + irq: on_serial})
    console = LevelSpec("console", {"output": pipe.writer, "irq": irq})
    stdin, typed = os.pipe()
    os.write(typed, b"typed!")
    try:
        with Tower(spec_of(tmp_path, image, [console], machine="pc"), stdout=-1) as tower:
            assert Runner(tower).run(stdin=stdin).status == 6
            assert results(tower, 2) == [6, ord("!")]
    finally:
        os.close(stdin)
        os.close(typed)
    assert pipe.close() == b"typed!"


@pytest.mark.kvm
def test_input_goes_to_the_highest_console(tmp_path: Path, pipe: Pipe) -> None:
    with Tower(spec_of(tmp_path, guest.done(), ["console", "logger", "console", "logger"]), stdout=-1) as tower:
        assert tower.receive(b"abc") == 3
        read = [Event(ExitReason.IO, 2, COM1 + 5, size=1), Event(ExitReason.IO, 2, COM1, size=1)]
        low, high = tower.hypervisors[0], tower.hypervisors[2]
        assert low.access(read[0]).value & 1 == 0
        assert [high.access(one).value for one in read] == [0x61, ord("a")]


@pytest.mark.parametrize("options", [{"port": -1}, {"port": 0xFFF9}, {"irq": 24}, {"irq": -1}])
def test_console_refuses_what_no_pc_has(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"^L1 console: (port|irq) "):
        Tower(spec_of(tmp_path, guest.done(), [LevelSpec("console", options)]))


@pytest.mark.kvm
def test_debug_console_writes_bytes_and_shows_that_it_is_there(tmp_path: Path, pipe: Pipe) -> None:
    code = guest.out(0xE9, 0x68) + guest.out(0xE9, 0x69) + guest.inp(0xE9) + guest.keep(0) + guest.done()
    with Tower(spec_of(tmp_path, code, [LevelSpec("debug-console", {"output": pipe.writer})]), stdout=-1) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 1) == [0xE9]
        assert levels_handling(tower) == {1: 3, 0: 1}
    assert pipe.close() == b"hi"


def test_debug_console_refuses_what_is_no_port(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^L1 debug-console: port 0x10000 is not within 0 to 0xffff$"):
        Tower(spec_of(tmp_path, guest.done(), [LevelSpec("debug-console", {"port": 0x10000})]))


def _faulting(options: dict[str, int | bool], code: bytes, folder: Path) -> tuple[int, list[int]]:
    """Runs `code` under an MSR policy; #GP keeps its error code in result 3 and the faulting RIP in 4, and exits."""
    on_gp = b"\x58" + guest.keep(3) + b"\x58" + guest.keep(4) + guest.done(13)
    image = guest.with_handlers(code + guest.done(), {13: on_gp})
    with Tower(spec_of(folder, image, [LevelSpec("msr-policy", {"first": MSR, **options}), "console"])) as tower:
        return run_in(tower).status, results(tower, 5)


@pytest.mark.kvm
def test_msr_policy_keeps_each_msr(tmp_path: Path) -> None:
    code = guest.rdmsr(MSR) + guest.keep(0)
    code += guest.wrmsr(MSR + 1, 0x1122334455667788) + guest.rdmsr(MSR + 1) + guest.keep(1)
    code += guest.rdmsr(MSR) + guest.keep(2)
    status, kept = _faulting({"last": MSR + 1, "value": 77}, code, tmp_path)
    assert (status, kept[:3]) == (0, [77, 0x1122334455667788, 77])


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"readonly": True}, guest.wrmsr(MSR, 5)),
        ({"deny": True}, guest.wrmsr(MSR, 5)),
        ({"deny": True}, guest.rdmsr(MSR)),
    ],
)
def test_msr_policy_refuses_by_gp_at_the_instruction(tmp_path: Path, options: dict[str, bool], code: bytes) -> None:
    status, kept = _faulting(options, code, tmp_path)
    instruction = guest.CODE + 8 + code.index(b"\x0f\x30" if b"\x0f\x30" in code else b"\x0f\x32")
    assert (status, kept[3:]) == (13, [0, instruction])


@pytest.mark.kvm
def test_msr_policy_readonly_can_be_read(tmp_path: Path) -> None:
    status, kept = _faulting({"readonly": True, "value": 9}, guest.rdmsr(MSR) + guest.keep(0), tmp_path)
    assert (status, kept[0]) == (0, 9)


@pytest.mark.kvm
def test_an_msr_beside_the_policy_is_kvms(tmp_path: Path) -> None:
    """And one that KVM does not know raises #GP, counted as nobody's."""
    status, kept = _faulting({}, guest.rdmsr(0xC0000080) + guest.keep(0) + guest.rdmsr(MSR + 1), tmp_path)
    assert (status, kept[0] & 0x500, kept[3]) == (13, 0x500, 0), "EFER.LME and LMA"


@pytest.mark.parametrize("options", [{"first": -1}, {"first": 5, "last": 4}, {"first": 1 << 32}])
def test_msr_policy_refuses_what_is_no_range(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"^L1 msr-policy: MSRs .* are not within 0 to 0xffffffff$"):
        Tower(spec_of(tmp_path, guest.done(), [LevelSpec("msr-policy", options)]))


@pytest.mark.kvm
def test_all_msrs_can_be_watched(tmp_path: Path) -> None:
    """More than KVM's filter holds: L0 answers what the levels decline with what KVM keeps."""
    code = guest.rdmsr(TSC) + guest.keep(0) + guest.rdmsr(0xC0000080) + guest.keep(1) + guest.done()
    watcher = LevelSpec("logger", {"reasons": "rdmsr+wrmsr", "limit": 0})
    with Tower(spec_of(tmp_path, code, [watcher])) as tower:
        assert run_in(tower).status == 0
        time_stamp, efer = results(tower, 2)
        assert time_stamp > 0
        assert efer & 0x500 == 0x500
        assert tower.hypervisors[0].seen == 2


def words(registers: list[int]) -> bytes:
    """EBX, EDX, ECX of a kept CPUID leaf."""
    return b"".join((registers[i] & 0xFFFFFFFF).to_bytes(4, "little") for i in (1, 3, 2))


@pytest.mark.kvm
def test_cpuid_policy_is_what_the_guest_reads(tmp_path: Path) -> None:
    code = guest.cpuid(0) + guest.keep_all(0) + guest.cpuid(1) + guest.keep_all(4)
    code += guest.cpuid(0x40000000) + guest.keep_all(8)
    code += guest.cpuid(0x80000001) + guest.keep_all(12) + guest.done()
    # in leaves 1 and 7 KVM-PVM keeps what the processor does not let it hide
    bits = {"clear": "80000001.ecx.8+80000001.edx.24", "set": "80000001.ecx.5"}
    options = {"vendor": "NestedCPU  1", "signature": "TowerTower", **bits}
    with Tower(spec_of(tmp_path, code, [LevelSpec("cpuid-policy", options)])) as tower:
        assert run_in(tower).status == 0
        kept = results(tower, 16)
    assert words(kept[0:4]) == b"NestedCPU  1"
    assert kept[6] >> 31 & 1 == 1, "a hypervisor is there"
    assert (kept[14] >> 8 & 1, kept[15] >> 24 & 1, kept[14] >> 5 & 1) == (0, 0, 1)
    assert b"".join(kept[i].to_bytes(4, "little") for i in (9, 10, 11)) == b"TowerTower\0\0"
    assert kept[8] == 0x40000000


@pytest.mark.kvm
def test_cpuid_policy_can_hide_the_hypervisor(tmp_path: Path) -> None:
    code = guest.cpuid(1) + guest.keep_all(0) + guest.done()
    with Tower(spec_of(tmp_path, code, [LevelSpec("cpuid-policy", {"signature": ""})])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 4)[2] >> 31 & 1 == 0


def test_each_levels_cpuid_policy_works_on_what_the_level_below_left() -> None:
    entries = [CpuidEntry(function=1, ecx=0b111), CpuidEntry(function=7, index=1, eax=0xFF)]
    for options in ({"clear": "1.ecx.0"}, {"clear": "1.ecx.1+7:1.eax.0", "set": "1.ecx.5"}):
        entries = CpuidPolicy(**options).cpuid(entries)
    assert [(entry.function, entry.eax, entry.ecx) for entry in entries] == [(1, 0, 0b100100), (7, 0xFE, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vendor": "short"}, "vendor 'short' has not 12 characters"),
        ({"signature": "thirteen char"}, "signature 'thirteen char' has more than 12 characters"),
        ({"clear": "1.ecx"}, "CPUID bit '1.ecx': expected LEAF.REGISTER.BIT, such as 1.ecx.21"),
        ({"set": "1.ecx.32"}, "CPUID bit '1.ecx.32': no register eax, ebx, ecx or edx with a bit 0 to 31"),
        ({"set": "1.esi.1"}, "CPUID bit '1.esi.1': no register"),
        ({"set": "zz.eax.1"}, "CPUID bit 'zz.eax.1': expected LEAF"),
    ],
)
def test_cpuid_policy_refuses_what_it_does_not_understand(
    tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Tower(spec_of(tmp_path, guest.done(), [LevelSpec("cpuid-policy", options)]))
    assert str(caught.value).startswith(f"L1 cpuid-policy: {message}")


@pytest.mark.kvm
def test_logger_writes_each_event_declines_it_and_counts_past_its_limit(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = guest.repeat(5, guest.out(0x80, 7)) + guest.inp(0xE9) + guest.keep(0) + guest.done()
    logger = LevelSpec("logger", {"file": str(log), "limit": 3, "first": 0x80, "last": 0xE9})
    with Tower(spec_of(tmp_path, code, [LevelSpec("console"), logger])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 1) == [0xE9], "as without it"
        assert tower.hypervisors[1].seen == 6
        assert levels_handling(tower) == {0: 7}
    assert log.read_text() == "L2 logger: <io write 0x80 size 1 count 1 value 0x7 from L3>\n" * 3


@pytest.mark.kvm
def test_logger_takes_what_is_designated_to_it(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        guest.out(0x81, 7) + guest.done(),
        [LevelSpec("logger", {"first": 0x80, "last": 0x80, "limit": 0})],
        designate=("io:0x81=L1",),
    )
    with Tower(spec) as tower:
        assert run_in(tower).status == 0
        assert tower.hypervisors[0].seen == 1


def test_logger_without_a_file_writes_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logger = Logger("io", limit=1)
    event = Event(ExitReason.IO, 3, 0x80, size=1)
    assert [logger.log(event).outcome for _ in range(2)] == [Outcome.DECLINED] * 2
    assert capsys.readouterr().err == "L2 logger: <io read 0x80 size 1 count 1 value 0x0 from L3>\n"
    assert [claim[0] for claim in Logger("io+mmio").claims()] == [ExitReason.IO, ExitReason.MMIO]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"reasons": "io+oops"},
            "L1 logger: reasons 'io[+]oops': expected exit reasons joined by [+]; `nestvmm reasons` lists them",
        ),
        ({"first": 5, "last": 4}, "L1 logger: qualifiers 0x5 to 0x4 are no range"),
        ({"first": -1}, "L1 logger: qualifiers -0x1 to"),
    ],
)
def test_logger_refuses_what_it_does_not_understand(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Tower(spec_of(tmp_path, guest.done(), [LevelSpec("logger", options)]))  # type: ignore[arg-type]


@pytest.mark.kvm
def test_logger_with_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    logger = LevelSpec("logger", {"file": str(tmp_path / "none" / "log")})
    with pytest.raises(UsageError, match=r"logger file .*/none/log: No such file or directory"):
        Tower(spec_of(tmp_path, guest.done(), [logger]))
