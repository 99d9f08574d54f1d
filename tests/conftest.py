"""Machines that tests need: a missing one skips its tests with the reason, or fails those NESTVMM_REQUIRE names.

NESTVMM_REQUIRE=kvm,svm_lab,vmx_lab pytest ...

Tests marked `prove` run only with --prove: `make prove`.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from shared_lab import SharedLab
from vendors import VENDORS, of_another_vendor

from nestvmm.errors import HostError
from nestvmm.lab import Lab, LocalLab, SvmLab, VmxLab, kvm_amd_nests, kvm_intel_nests, svm, vmx

ROOT = Path(__file__).parents[1]

# Whatever takes long on a loaded machine is no failure.
settings.register_profile("nestvmm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nestvmm")

# A shell's background command and nohup ignore these, and so would all that the tests start and interrupt.
for _one in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_one) is signal.SIG_IGN:
        signal.signal(_one, signal.default_int_handler if _one == signal.SIGINT else signal.SIG_DFL)


def missing_kvm() -> str | None:
    try:
        Path("/dev/kvm").open("r+b", buffering=0).close()
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return None


def missing_svm_lab() -> str | None:
    return None if kvm_amd_nests() else unprepared(svm.prepare)


def missing_vmx_lab() -> str | None:
    return None if kvm_intel_nests() else unprepared(vmx.prepare)


def unprepared(prepare: Callable[[], object]) -> str | None:
    try:
        prepare()
    except HostError as error:
        return str(error)
    return None


MACHINES = {"kvm": missing_kvm, "svm_lab": missing_svm_lab, "vmx_lab": missing_vmx_lab}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--prove", action="store_true", help="run the tests that take many minutes, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [
        item
        for item in items
        if of_another_vendor(item) or (item.get_closest_marker("prove") and not config.getoption("--prove"))
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@functools.cache
def missing(machine: str) -> str | None:
    """Why tests that need `machine` cannot run here."""
    return MACHINES[machine]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for machine in MACHINES:
        if item.get_closest_marker(machine) and (reason := missing(machine)):
            if machine in os.environ.get("NESTVMM_REQUIRE", "").split(","):
                pytest.fail(f"NESTVMM_REQUIRE names {machine}, but {reason}", pytrace=False)
            pytest.skip(reason)


@pytest.fixture(scope="session")
def svm_labs() -> Iterator[SharedLab]:
    with SharedLab(lambda: LocalLab() if kvm_amd_nests() else SvmLab()) as labs:
        yield labs


@pytest.fixture(scope="module")
def svm_lab(svm_labs: SharedLab) -> Lab:
    """A machine where kvm_amd nests: this one if it does, else an SVM lab that is booted once for all modules."""
    return svm_labs.get()


@pytest.fixture(scope="module", params=VENDORS)
def vendor(request: pytest.FixtureRequest) -> str:
    """Each engine with a switcher, for tests that are the same for both."""
    return str(request.param)


@pytest.fixture(scope="module")
def vendor_lab(vendor: str, request: pytest.FixtureRequest) -> Lab:
    """Where the vendor's engine runs."""
    lab: Lab = request.getfixturevalue(f"{vendor}_lab")
    return lab


@pytest.fixture(scope="session")
def vmx_labs() -> Iterator[SharedLab]:
    with SharedLab(lambda: LocalLab() if kvm_intel_nests() else VmxLab(project=ROOT)) as labs:
        yield labs


@pytest.fixture(scope="module")
def vmx_lab(vmx_labs: SharedLab) -> Lab:
    """A machine where kvm_intel nests: this one if it does, else a VMX lab that is booted once for all modules.

    It has the files of the time of its start, and sleeps between commands.
    """
    return vmx_labs.get()
