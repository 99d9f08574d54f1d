"""What a handler may return, and that everything else is one error, whatever it does when the loop in C looks at it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_engine import Exit, reads, writes
from scripted import Run, Scripted, scripted

from nestvmm.errors import HypervisorError
from nestvmm.hypervisors import Direction, Result
from nestvmm.nesting import LevelSpec, RunResult
from nestvmm.x86.event import Outcome


class Changing:
    """A number that changes registers when it is asked for."""

    def __init__(self, hypervisor: Scripted) -> None:
        self.hypervisor = hypervisor

    def __index__(self) -> int:
        guest = self.hypervisor.guest
        regs = guest.regs
        regs.rbx += 1
        guest.set_regs(regs)
        return 7


@pytest.mark.parametrize("exit_", [reads(0x5000), reads(0x5000, 2, 3), writes(0x5000, 1)])
@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize(
    "make_result",
    [
        lambda _: tuple.__new__(Result, ()),
        lambda _: tuple.__new__(Result, (Outcome.HANDLED,)),
        Changing,
        lambda hypervisor: Result.read(Changing(hypervisor)),  # type: ignore[arg-type]
        lambda _: Result.read("7"),  # type: ignore[arg-type]
        lambda _: Result.reflected(None),  # type: ignore[arg-type]
        lambda _: Result.faulted(None),  # type: ignore[arg-type]
        lambda _: Result.faulted(13, "0"),  # type: ignore[arg-type]
        lambda _: Result.stopped(1.5),  # type: ignore[arg-type]
        lambda _: Result.stopped(1, b"enough"),  # type: ignore[arg-type]
        lambda _: Result(6),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_result_is_the_handlers_fault(
    make: Callable[..., Run], make_result: Callable[[Scripted], object], heard: bool, exit_: Exit
) -> None:
    run = make(scripted(), *[LevelSpec("scripted:Listening")] * heard)
    run.hypervisor(1).behave = lambda hypervisor, _: make_result(hypervisor)
    why = r"^L1 Scripted answered .+ to <io .+>; a handler must return a Result whose fields have their types$"
    with pytest.raises(HypervisorError, match=why):
        run.go(exit_)
    assert not [entry for entry in run.engine.log if entry[0] == "regs"]


def test_only_bytes_are_a_strings_data(make: Callable[..., Run]) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda hypervisor, _: Result(Outcome.HANDLED, data="777777")  # type: ignore[arg-type]
    with pytest.raises(HypervisorError, match=r"^L1 Scripted answered .+data='777777'"):
        run.go(reads(0x5000, 2, 3))
    run.hypervisor(1).behave = lambda hypervisor, _: Result.read_bytes(bytearray(b"777777"))  # type: ignore[arg-type]
    assert run.go(reads(0x5000, 2, 3)) == RunResult(0)
    assert run.engine.answers[-1].data == b"777777"


def test_numbers_of_any_kind_are_values(make: Callable[..., Run]) -> None:
    run = make(scripted())
    values = iter([True, Direction.EXECUTE, -1, 1 << 70 | 3])
    run.hypervisor(1).behave = lambda hypervisor, _: Result.read(next(values))
    assert run.go(*[reads(0x5000, 2)] * 4) == RunResult(0)
    assert [answer.value for answer in run.engine.answers] == [1, 2, 0xFFFF, 3]
