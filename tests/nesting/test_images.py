"""Towers with images: what cannot be is refused by name, and the images are stacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nestvmm.errors import HostError, ImageError, UsageError
from nestvmm.hypervisors import Hypervisor, Result
from nestvmm.kvm import CpuidEntry
from nestvmm.loaders import Stacked
from nestvmm.nesting import GuestSpec, LevelSpec, TowerSpec
from nestvmm.nesting.features.request import requests
from nestvmm.nesting.images import check_between, check_images, engine_for, make_levels, name_of, stacked
from nestvmm.nesting.memory import Region
from nestvmm.nesting.policy import Policy
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.scope import QUALIFIER_MAX

IMAGE = LevelSpec(image=Path("folder/mini.elf"), append="level=1")
LOGGER = LevelSpec("logger")
SIGNAL = "a signal to the processor, which is the lowest image's; none can pass it on to its guest"


class Claiming(Hypervisor):
    """One event, by its reason's name, or all of that reason."""

    def __init__(self, what: str, first: int = 0, last: int = 0) -> None:
        self._claim = ExitReason[what], first, (last or first) & QUALIFIER_MAX, None, lambda _: Result.declined()

    def claims(self) -> Any:
        yield self._claim


class Leaves(Hypervisor):
    def cpuid(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
        return entries


def own(name: str, **options: str | int) -> LevelSpec:
    return LevelSpec(f"{__file__}:{name}", options)


def tower(*levels: LevelSpec, designate: Sequence[str] = (), expose: Sequence[str] = (), **guest: Any) -> TowerSpec:
    return TowerSpec(GuestSpec(Path("guest.elf"), **guest), levels, tuple(designate), expose=tuple(expose))


def check(spec: TowerSpec) -> None:
    hypervisors = make_levels(spec)
    check_images(spec, requests(spec))
    check_between(spec, Policy(spec, hypervisors))


def test_the_levels_of_machine_code_are_the_images_and_the_guest() -> None:
    assert tower().code == (1,)
    assert tower(LOGGER, LOGGER).code == (3,)
    assert tower(IMAGE, LOGGER, IMAGE).code == (1, 3, 4)


def test_an_image_is_called_by_its_file() -> None:
    assert [name_of(one) for one in make_levels(tower(IMAGE, LOGGER))] == ["mini.elf", "Logger"]


@pytest.mark.parametrize(
    "spec",
    [
        tower(LOGGER, IMAGE),
        tower(IMAGE, LOGGER),
        tower(IMAGE, own("Claiming", what="EXCEPTION", first=6), IMAGE, own("Claiming", what="RDTSC")),
        tower(own("Claiming", what="INTERRUPT"), own("Leaves"), IMAGE),
        tower(replace(LOGGER, memory=(Region(0, 0x1000, 0),)), IMAGE, designate=["cpuid=L2", "mmio:0xd0000000=L0"]),
        tower(IMAGE, replace(LOGGER, memory=(Region(0, 0x1000, 0),))),
        tower(LOGGER, IMAGE, own("Claiming", what="MMIO", first=0x1000)),
        tower(IMAGE, own("Leaves"), own("Claiming", what="INTERRUPT_WINDOW"), own("Claiming", what="NMI_WINDOW")),
        tower(IMAGE, own("Claiming", what="NESTED_PAGE_FAULT", first=0x1000), IMAGE),
        tower(IMAGE, own("Claiming", what="INTERRUPT"), own("Claiming", what="NMI"), IMAGE),
        tower(IMAGE, own("Claiming", what="PREEMPTION_TIMER")),
        tower(IMAGE, own("Claiming", what="MEMORY_FAULT", last=-1)),
        tower(IMAGE, own("Claiming", what="DEBUG", first=1), IMAGE, own("Claiming", what="DEBUG", first=3)),
        tower(IMAGE, LOGGER, designate=["mmio:0xd0000000=L1", "nested-page-fault=L0"]),
        tower(LOGGER, IMAGE, expose=["L0:-aes", "L1:-popcnt"]),
        tower(IMAGE, IMAGE, designate=["svm-instruction=L1"]),
        tower(LOGGER, expose=["L1:-aes"], initrd="modules"),
    ],
)
def test_what_can_be(spec: TowerSpec) -> None:
    check(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            tower(IMAGE, expose=["L1:-aes"]),
            "expose L1: folder/mini.elf at L1 is an image, and what levels above it see",
        ),
        (tower(IMAGE, LOGGER, expose=["L2:-aes"]), "expose L2: folder/mini.elf at L1 is an image"),
        (tower(IMAGE, initrd="x"), "the guest has initrd, but folder/mini.elf at L1 loads it"),
        (tower(IMAGE, LOGGER, address=4096), "the guest has address, but folder/mini.elf at L1 loads it"),
        *(
            (
                tower(LOGGER, IMAGE, own("Claiming", what=reason.name, first=0x1000)),
                f"L3 Claiming wants {reason.label}, but stands above an image: {why}",
            )
            for reason, why in {
                ExitReason.MEMORY_FAULT: "the memory is L0's own, and where in the guest's it is nobody knows; claim",
                ExitReason.SMI: SIGNAL,
                ExitReason.INIT: SIGNAL,
                ExitReason.EOI: "the interrupt controller is the lowest image's",
            }.items()
        ),
        (
            tower(IMAGE, LOGGER, IMAGE, designate=["svm-instruction=L1"]),
            "designate svm-instruction=L1: then L0 does not see the levels above it one by one, but L2 logger stands",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(spec: TowerSpec, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(spec)
    assert message in str(caught.value)


def test_the_images_are_stacked_past_python_levels(tmp_path: Path) -> None:
    for name in ("one", "two", "guest"):
        (tmp_path / name).write_bytes(name.encode())
    levels = [LevelSpec(image=tmp_path / name, append=f"is {name}") for name in ("one", "two")]
    spec = TowerSpec(GuestSpec(tmp_path / "guest", "top"), (LOGGER, levels[0], LOGGER, levels[1]))
    assert stacked(spec) == [
        Stacked(b"two", "is two", f"L4 {tmp_path / 'two'}"),
        Stacked(b"guest", "top", f"L5 {tmp_path / 'guest'}"),
    ]
    assert stacked(tower(LOGGER)) == []
    (tmp_path / "two").write_bytes(b"")
    with pytest.raises(ImageError, match="two: is empty"):
        stacked(spec)


def test_images_need_an_engine_that_gives_them_svm_or_vmx(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, mixed = tower(LOGGER, IMAGE), tower(IMAGE, LOGGER)

    def chosen(of: TowerSpec, engine: str = "auto") -> str:
        return engine_for(replace(of, engine=engine), frozenset(), "bare").name

    assert [chosen(spec, name) for name in ("svm", "vmx", "direct")] == ["svm", "vmx", "direct"], "KVM nests, too"
    assert [chosen(mixed, name) for name in ("svm", "vmx")] == ["svm", "vmx"]
    with pytest.raises(HostError, match="L2 logger stands above an image: only the svm and the vmx engine see"):
        chosen(mixed, "direct")
    for svm, vmx in (True, True), (False, True), (False, False):
        monkeypatch.setattr("nestvmm.engines.svm.SvmEngine.works_here", lambda works=svm: works)
        monkeypatch.setattr("nestvmm.engines.vmx.VmxEngine.works_here", lambda works=vmx: works)
        if svm:
            assert [chosen(spec), chosen(mixed)] == ["svm", "svm"]
        elif vmx:
            assert [chosen(spec), chosen(mixed)] == ["vmx", "vmx"]
    with pytest.raises(HostError, match=r"L2 folder/mini.elf is an image, .* kvm_amd with nested=1; or .* kvm_intel"):
        chosen(spec)
    assert chosen(tower(LOGGER), "direct") == "direct"
