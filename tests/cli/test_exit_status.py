"""The exit statuses of `nestvmm run` and its words about each: one message, no traceback, nothing left behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from command import GUESTS, ROOT, TOWER, guest, nestvmm
from machine_code import ADDRESS, HALT, LOOP, RAW, UNDEFINED, image, leave, out, say

# 0 to 255: the guest


@pytest.mark.kvm
@pytest.mark.parametrize(("value", "status"), [(0, 0), (1, 1), (7, 7), (130, 130), (255, 255)])
def test_what_the_guest_writes_to_the_debug_exit(tmp_path: Path, value: int, status: int) -> None:
    ended = nestvmm(*image(tmp_path, leave(value)))
    assert (ended.status, ended.out, ended.err) == (status, b"", "")


@pytest.mark.kvm
@pytest.mark.parametrize("value", [0x100, 0x1FF, 0x80000000])
def test_a_value_that_is_no_exit_status_is_no_success(tmp_path: Path, value: int) -> None:
    ended = nestvmm(*image(tmp_path, leave(value)))
    assert f"the guest's exit value {value:#x} does not fit" in ended.failed(255)


@pytest.mark.kvm
@pytest.mark.parametrize(("value", "status"), [(0, 1), (1, 3), (7, 15), (255, 255), (0x1FF, 255)])
def test_raw_exit_status_is_qemus_rule(tmp_path: Path, value: int, status: int) -> None:
    ended = nestvmm(*image(tmp_path, leave(value)), "--raw-exit-status")
    assert (ended.status, ended.err) == (status, "")


# 2: usage

HELLO = GUESTS / "hello" / "hello.elf"

USAGE = {
    "no image": ([], "name one image"),
    "two images": (["-k", HELLO, HELLO], "name one image"),
    "an image without a name": ([""], "name one image"),
    "a missing image": (["none.elf"], "none.elf: No such file"),
    "a missing kernel": (["-k", "none.elf"], "none.elf: No such file"),
    "a missing initrd": ([HELLO, "-i", "none.gz"], "initrd none.gz: No such file"),
    "a missing tower file": (["none.toml"], "tower file none.toml: No such file"),
    "a folder": ([GUESTS], "Is a directory"),
    "a device": (["/dev/zero"], "/dev/zero: not a regular file"),
    "no size": ([HELLO, "-m", "many"], "--mem: 'many' is no size"),
    "an empty size": ([HELLO, "-m", ""], "--mem: '' is no size"),
    "a size of 0": ([HELLO, "-m", 0], "0 bytes of RAM: give whole pages of 4096 bytes"),
    "half a page": ([HELLO, "-m", "1025K"], "1049600 bytes of RAM: give whole pages"),
    "more than can be addressed": ([HELLO, "-m", "9999999T"], "physical addresses"),
    "a bad address": ([HELLO, "--address", "low"], "--address: 'low' is no number from 0 up"),
    "an unknown hypervisor": ([HELLO, "--level", "xen"], "hypervisor 'xen': expected one of console, "),
    "an unknown module": ([HELLO, "--level", "nothing.here:X"], "cannot import nothing.here"),
    "a missing file of a hypervisor": ([HELLO, "--level", "none.py:X"], "none.py: No such file"),
    "a module without that class": ([HELLO, "--level", "json:Nothing"], "json has no class Nothing"),
    "a class that is no hypervisor": ([HELLO, "--level", "pathlib:Path"], "no class Path derived from Hypervisor"),
    "an unknown option of a hypervisor": ([HELLO, "--level", "console,colour=1"], "'colour'; its options are: port"),
    "a missing option of a hypervisor": ([HELLO, "--level", "msr-policy"], "required argument: 'first'"),
    "an option that is no option": ([HELLO, "--level", "console,irq"], "expected option=value"),
    "an option of a wrong type": ([HELLO, "--level", "msr-policy,first=low"], "option first takes a number, not 'low'"),
    "a value that no option takes": ([HELLO, "--level", "console,irq=24"], "irq 24 is no line of the irqchip"),
    "a port that is none": ([HELLO, "--level", "console,port=0xfff9"], "port 0xfff9: eight ports"),
    "a descriptor that is not open": ([HELLO, "--level", "debug-console,output=77"], "output 77: no such descriptor"),
    "an unknown level": ([HELLO, "--level", "console", "--designate", "io=L2"], "L2 is no hypervisor"),
    "no level": ([HELLO, "--designate", "io"], "expected REASON[:QUALIFIER]=Ln"),
    "an unknown reason": ([HELLO, "--designate", "outs=L0"], "unknown exit reason 'outs'; `nestvmm reasons` lists"),
    "a bad qualifier": ([HELLO, "--designate", "io:lots=L0"], "expected a port, FIRST-LAST or FIRST+COUNT"),
    "a qualifier out of range": ([HELLO, "--designate", "io:0x10000=L0"], "is no range within 0 to 0xffff"),
    "a reason without qualifiers": ([HELLO, "--designate", "hlt:1=L0"], "hlt takes no qualifier"),
    "a level that cannot": (
        [HELLO, "--level", "console", "--designate", "mmio=L1"],
        "its hypervisor Console handles none",
    ),
    "no time": ([HELLO, "--timeout", 0], "'0' is no positive number of seconds"),
    "not a time": ([HELLO, "--timeout", "nan"], "'nan' is no positive number of seconds"),
    "a trace file that cannot be": ([HELLO, "--trace", "/none/trace"], "trace file /none/trace: No such file"),
    "an account that cannot be": ([HELLO, "--json", "/none/account"], "--json /none/account: No such file"),
}


@pytest.mark.kvm
@pytest.mark.parametrize("case", USAGE)
def test_usage(case: str) -> None:
    guest("hello")
    arguments, message = USAGE[case]
    ended = nestvmm("run", *arguments)
    assert message in ended.failed(2)
    assert len(ended.err.splitlines()) == 1
    assert ended.out == b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", HELLO, "--engine", "xen"], "'xen' is not one of 'auto', 'direct', 'svm', 'vmx'"),
        (["run", HELLO, "-M", "q35"], "'q35' is not one of"),
        (["run", HELLO, "--timeout", "soon"], "'soon' is no positive number of seconds"),
        (["run", HELLO, "--quick"], "No such option '--quick'"),
        (["run", HELLO, HELLO], "unexpected extra argument"),
        (["launch"], "No such command 'launch'"),
        (["doctor", "now"], "unexpected extra argument"),
    ],
    ids=str,
)
def test_usage_as_click_sees_it(arguments: list[object], message: str) -> None:
    found = nestvmm(*arguments).failed(2)
    assert message in found
    words = ["nestvmm", *(str(word) for word in arguments[:1] if word != "launch")]
    assert found.startswith("nestvmm: ")
    assert found.endswith(f"; see `{' '.join(words)} --help`\n")
    assert found.count("\n") == 1


# 3: host or image


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"", [], "is empty"),
        (b"text\n" * 100, [], "neither an ELF64 executable nor a Multiboot 1 kernel nor a bzImage"),
        (b"\x7fELF\x02\x01\x01" + bytes(57), [], "code.bin: "),
        (b"x" * 8192, [*RAW[:2], "-m", "4K"], "more than the guest's RAM of 4 KiB"),
        (b"x", ["--address", 1 << 40], "is not inside RAM"),
        (b"x", [*RAW[:2], "-m", "1M"], "is not inside RAM"),
    ],
    ids=["empty", "text", "half an ELF", "larger than RAM", "far away", "just outside"],
)
def test_images_that_cannot_run(tmp_path: Path, data: bytes, options: list[object], message: str) -> None:
    path = tmp_path / "code.bin"
    path.write_bytes(data)
    ended = nestvmm("run", path, *options)
    assert message in ended.failed(3)
    assert len(ended.err.splitlines()) == 1


@pytest.mark.kvm
def test_an_image_that_does_not_fit() -> None:
    assert "is not inside RAM" in nestvmm("run", guest("hello"), "-m", 1).failed(3)


@pytest.mark.kvm
def test_levels_that_leave_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "tower.toml"
    file.write_text(f'[guest]\nkernel = "{guest("hello")}"\n[[level]]\nhypervisor = "console"\nmemory = []\n')
    assert "L2 has no memory" in nestvmm("run", file).failed(3)


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("limit", "memory", "message"),
    [
        ("-n 100", "200T", "209715200 MiB of guest memory: this host has "),
        ("-v 400000", "1024M", "1024 MiB of guest RAM: Cannot allocate memory; this host has no room for it"),
        ("-n 8", "16M", "Too many open files"),
    ],
)
def test_a_host_without_room(limit: str, memory: str, message: str) -> None:
    wrapper = ("sh", "-c", f'ulimit {limit}; exec "$@"', "sh")
    ended = nestvmm("run", guest("hello"), "-m", memory, wrapper=wrapper)
    assert message in ended.failed(3)
    assert len(ended.err.splitlines()) == 1


@pytest.mark.kvm
def test_an_account_that_does_not_fit(tmp_path: Path) -> None:
    ended = nestvmm(*image(tmp_path, say(b"x") + leave(0)), "--json", "/dev/full")
    assert ended.failed(3) == "nestvmm: --json: No space left on device\n"
    assert ended.out == b"x"


def test_an_output_that_does_not_fit() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = nestvmm("reasons", stdout=full)
    assert ended.failed(3) == "nestvmm: standard output: no space is left there\n"


@pytest.mark.kvm
@pytest.mark.parametrize("engine", ["svm", "vmx"])
def test_an_engine_that_is_not_there(engine: str) -> None:
    assert f"engine {engine}" in nestvmm("run", guest("hello"), "--engine", engine).failed(3)


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("reason", "machine", "able"),
    [
        ("cpuid", "bare", "the svm and vmx engines could"),
        ("cr-write", "pc", "the svm and vmx engines could"),
        ("svm-instruction", "bare", "the svm engine could"),
        ("rdrand", "bare", "the vmx engine could"),
        ("hlt", "pc", "with machine = bare it could, and the svm and vmx engines could"),
    ],
)
def test_a_reason_that_the_engine_cannot_trap_is_refused_by_name(reason: str, machine: str, able: str) -> None:
    ended = nestvmm("run", guest("hello"), "--level", f"logger,reasons={reason}", "-M", machine, "--engine", "direct")
    wanted = f"L1 Logger wants {reason}, which the direct engine cannot trap on machine {machine}; {able}"
    assert wanted in ended.failed(3)


def without_kvm(device: str) -> tuple[str, ...]:
    """Runs a command where /dev/kvm is `device`."""
    return ("unshare", "-m", "sh", "-c", f'mount --bind {device} /dev/kvm && exec "$@"', "sh")


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to hide /dev/kvm from one process")


@root_only
@pytest.mark.kvm
def test_a_device_that_is_not_kvm() -> None:
    assert "/dev/kvm is not KVM's device" in nestvmm("run", guest("hello"), wrapper=without_kvm("/dev/null")).failed(3)


@root_only
@pytest.mark.kvm
def test_no_device() -> None:
    """A /dev without it: an empty file system in its place."""
    script = 'mount -t tmpfs none /dev && touch /dev/null && exec "$@"'
    wrapper = ("unshare", "-m", "sh", "-c", script, "sh")
    ended = nestvmm("run", guest("hello"), wrapper=wrapper)
    assert "open /dev/kvm failed: No such file or directory" in ended.failed(3)
    assert "`nestvmm doctor` tells what this host can run" in ended.err
    doctor = nestvmm("doctor", wrapper=wrapper)
    assert doctor.status == 3
    assert re.search(
        rb"^/dev/kvm +no\n +cause: .+\n +cure: +.+$|^/dev/kvm +no: .+\n +cause: .+\n +cure: +", doctor.out, re.M
    )


@root_only
@pytest.mark.kvm
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
def test_no_permission() -> None:
    """As a user who may not open /dev/kvm."""
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    if subprocess.run((*user, "test", "-r", ROOT / "nestvmm" / "errors.py"), check=False).returncode:
        pytest.skip("this checkout is not readable for others")
    script = f'touch "$0" && chmod 600 "$0" && mount --bind "$0" /dev/kvm && exec {" ".join(user)} "$@"'
    hidden = "/run/nestvmm-test-kvm"
    wrapper = ("unshare", "-m", "sh", "-c", script, hidden)
    try:
        ended = nestvmm("run", guest("hello"), wrapper=wrapper)
        assert "open /dev/kvm failed: Permission denied (EACCES)" in ended.failed(3)
        assert "usermod -aG kvm" in ended.err
        doctor = nestvmm("doctor", wrapper=wrapper)
        assert doctor.status == 3
        assert b"usermod -aG kvm" in doctor.out
    finally:
        Path(hidden).unlink(missing_ok=True)


# 4: hypervisors

FAILING = """
from nestvmm.hypervisors import Hypervisor, on_io

class Raising(Hypervisor):
    @on_io(0x5000)
    def port(self, event):
        raise RuntimeError("the handler of port 0x5000")

class Silent(Hypervisor):
    @on_io(0x5000)
    def port(self, event):
        pass

class Broken(Hypervisor):
    def __init__(self):
        raise RuntimeError("here")

class Starting(Hypervisor):
    def start(self, guest):
        raise RuntimeError("here")

class Claiming(Hypervisor):
    def claims(self):
        raise RuntimeError("here")

class Leaving(Hypervisor):
    def stop(self):
        raise RuntimeError("here")

class Exiting(Hypervisor):
    @on_io(0x5000)
    def port(self, event):
        raise SystemExit(0)

class WithoutCpuid(Hypervisor):
    def cpuid(self, entries):
        pass

class ClaimingWords(Hypervisor):
    def claims(self):
        return ["io"]

class Stuck(Hypervisor):
    @on_io(0x5000)
    def port(self, event):
        while True:
            pass
"""


@pytest.fixture
def failing(tmp_path: Path) -> str:
    path = tmp_path / "failing.py"
    path.write_text(FAILING)
    return f"{path}"


@pytest.mark.kvm
def test_a_handler_that_raises(tmp_path: Path, failing: str) -> None:
    code = image(tmp_path, say(b"before\n") + out(0x5000, 7) + leave(0))
    ended = nestvmm(*code, "--level", "console", "--level", f"{failing}:Raising", "--level", "console")
    assert (ended.status, ended.out) == (4, b"before\n")
    first, *rest = ended.err.splitlines()
    assert first.startswith(
        "nestvmm: L2 Raising raised RuntimeError on <io write 0x5000 size 4 count 1 value 0x7 from L3>"
    )
    assert rest[0] == "Traceback (most recent call last):"
    assert 'raise RuntimeError("the handler of port 0x5000")' in ended.err
    assert rest[-1] == "RuntimeError: the handler of port 0x5000"
    assert ended.err.count("Traceback") == 1


@pytest.mark.kvm
def test_a_handler_that_answers_nothing(tmp_path: Path, failing: str) -> None:
    ended = nestvmm(*image(tmp_path, out(0x5000, 7)), "--level", f"{failing}:Silent")
    assert "L1 Silent answered None to <io write 0x5000" in ended.failed(4)
    assert "a handler must return a Result" in ended.err


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("Broken", "in its constructor"),
        ("Starting", "in start()"),
        ("Claiming", "in claims()"),
        ("Leaving", "in stop()"),
    ],
)
def test_a_hypervisor_that_raises_outside_a_handler(tmp_path: Path, failing: str, name: str, where: str) -> None:
    ended = nestvmm(*image(tmp_path, leave(0)), "--level", f"{failing}:{name}")
    assert ended.status == 4
    assert re.match(rf"nestvmm: L1 .*{name} raised RuntimeError {re.escape(where)}\nTraceback ", ended.err)
    assert ended.err.endswith("RuntimeError: here\n")


@pytest.mark.kvm
def test_a_handler_that_exits(tmp_path: Path, failing: str) -> None:
    ended = nestvmm(*image(tmp_path, out(0x5000, 7)), "--level", f"{failing}:Exiting")
    assert ended.status == 4
    assert ended.err.startswith("nestvmm: L1 Exiting raised SystemExit on <io write 0x5000 ")


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WithoutCpuid", "L1 WithoutCpuid answered None in cpuid(); it must return a list of CpuidEntry"),
        ("ClaimingWords", "L1 ClaimingWords claims 'io' in claims(): expected an ExitReason, the first and last "),
    ],
)
def test_a_hypervisor_that_answers_nonsense(tmp_path: Path, failing: str, name: str, message: str) -> None:
    assert message in nestvmm(*image(tmp_path, leave(0)), "--level", f"{failing}:{name}").failed(4)


@pytest.mark.kvm
def test_a_handler_that_never_returns(tmp_path: Path, failing: str) -> None:
    ended = nestvmm(*image(tmp_path, out(0x5000, 7)), "--level", f"{failing}:Stuck", "--timeout", 0.5)
    assert "L1 Stuck's handler of io does not return" in ended.failed(4)
    assert ended.seconds < 10


@pytest.mark.kvm
def test_an_access_that_nobody_claims(tmp_path: Path) -> None:
    code = image(tmp_path, out(0x5000, 7) + leave(0))
    ended = nestvmm(*code, "--unclaimed", "error")
    assert "nobody claims <io write 0x5000 size 4 count 1 value 0x7" in ended.failed(4)
    assert nestvmm(*code, "--unclaimed", "ignore").status == 0


# 124: timeout


@pytest.mark.kvm
@pytest.mark.parametrize("options", [[], ["-M", "pc"], ["--level", "console", "--level", "logger"]], ids=str)
@pytest.mark.parametrize("code", [LOOP, out(0x80, 1) + b"\xeb\xfd"], ids=["loop", "storm of exits"])
def test_timeout(tmp_path: Path, code: bytes, options: list[str]) -> None:
    ended = nestvmm(*image(tmp_path, code), "--timeout", 0.5, *options)
    lines = [line for line in ended.err.splitlines() if "logger:" not in line]
    assert (ended.status, lines) == (124, ["nestvmm: timeout: the guest still ran after 0.5 s"])
    # start-up and end are no part of the timeout: 1 s, and what a busy machine adds
    assert 0.5 < ended.seconds < 0.5 + 1 + 4


@pytest.mark.kvm
def test_the_tower_files_timeout_and_the_options(tmp_path: Path) -> None:
    image(tmp_path, HALT[:1] + LOOP)
    file = tmp_path / "tower.toml"
    file.write_text(f'timeout = 0.25\n[guest]\nkernel = "code.bin"\naddress = {ADDRESS}\nmemory = 4\n')
    assert "after 0.25 s" in nestvmm("run", file).failed(124)
    assert "after 0.5 s" in nestvmm("run", file, "--timeout", 0.5).failed(124)


# 255: the guest died


@pytest.mark.kvm
@pytest.mark.parametrize("levels", [0, 2])
def test_a_triple_fault(tmp_path: Path, levels: int) -> None:
    code = image(tmp_path, b"\xb8\x78\x56\x34\x12" + UNDEFINED)  # mov eax, 0x12345678; ud2
    ended = nestvmm(*code, *["--level", "console"] * levels)
    lines = ended.failed(255).splitlines()
    assert lines[0] == f"nestvmm: guest at L{levels + 1} died: triple fault"
    registers = dict(re.findall(r"(\w+)=([0-9a-f]+)", ended.err))
    assert int(registers["rax"], 16) == 0x12345678
    assert int(registers["rip"], 16) == ADDRESS + 5
    assert {"rbx", "rsp", "r15", "rflags", "cr0", "cr2", "cr3", "cr4", "efer", "cs"} <= set(registers)


@pytest.mark.kvm
def test_a_guest_that_halted_for_good(tmp_path: Path) -> None:
    assert "halted with interrupts off" in nestvmm(*image(tmp_path, HALT)).failed(255)


@pytest.mark.kvm
def test_the_demonstration_succeeds() -> None:
    guest("events")
    assert nestvmm("run", TOWER).status == 0
