"""Runs a tower: each event goes to the level that is designated, as if the level above it had caused it.

    engine.run ──event──> claim whose turn it is ──in its coordinates──> handler ──Result──> completed, propagated,
    resumed
                               │ declined, reflected: the next turn

native/python/dispatch.c goes round as long as handlers have handled what they were asked; the rest is here. The vCPU
has a thread of its own; the thread that calls `run` attends to it (attend.py).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from reprlib import Repr

from nestvmm._native import ffi, lib
from nestvmm.engines import RunStatus
from nestvmm.errors import HypervisorError
from nestvmm.hypervisors import Hypervisor
from nestvmm.hypervisors.blame import FAULTS, blame, blaming
from nestvmm.nesting.attend import TIMED_OUT, UNREAD, attend
from nestvmm.nesting.designation import Claim
from nestvmm.nesting.exception import wrong_exception
from nestvmm.nesting.tower import Tower
from nestvmm.x86.event import Direction, Event, Outcome, Result, is_result
from nestvmm.x86.exit_reason import REASONS, ExitReason, Qualifier

__all__ = ["STOPPED", "RunResult", "Runner"]

#: The exit status of a run that `Runner.stop` ended: as shells have it after Ctrl-C.
STOPPED = 128 + signal.SIGINT

_U64 = 0xFFFFFFFFFFFFFFFF
_GP = 13
# By number; and names for members of enums, whose look-up by attribute costs as much as a handler.
_REASONS = tuple(ExitReason)
_EVENT = int(RunStatus.EVENT)
_HANDLED = Outcome.HANDLED
_WRITE = int(Direction.WRITE)
# What a handler answered may be anything, with a `__repr__` that fails.
_SHOW = Repr()
_SHOW.maxother = 300
# How often a kick is repeated until the vCPU's thread has stopped, in seconds.
_KICK_AGAIN = 0.01
# How long a handler that is running when the run ends may take to return, in seconds.
_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended: the exit status, and why in words (empty when the guest ended it by debug exit)."""

    status: int
    message: str = ""


class Runner:
    """One run of a tower.

    drain: called with the runner when the trace ring is full, and once at the end
    """

    def __init__(self, tower: Tower, *, drain: Callable[[], None] | None = None) -> None:
        self._tower = tower
        self._engine = tower.engine
        self._vcpu = tower.engine.vcpu
        self._event = tower.engine.vcpu.event
        self._dispatch = tower.dispatch
        self._dispatch.in_parts = False
        self._drain = drain
        self._result: RunResult | None = None
        self._error: BaseException | None = None
        self._state = tower.state
        self._done_read, self._done_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._stopping = threading.Event()
        # levels whose hypervisor wants to hear of effects that reach it
        self._listeners = [
            (level, hypervisor)
            for level, hypervisor in enumerate(tower.hypervisors, start=1)
            if type(hypervisor).propagated is not Hypervisor.propagated
        ]
        self._dispatch.listened = bool(self._listeners)

    def run(self, *, stdin: int | None = None, stdout: int | None = None) -> RunResult:
        """Runs until the guest or a handler ends it, its timeout passes, or `stop` is called.

        stdin:   a descriptor whose bytes go to the console
        stdout:  a descriptor whose reader's going away ends the run

        Raises HypervisorError, HostError or KvmError.
        """
        thread = threading.Thread(target=self._vcpu_thread, name="vcpu0", daemon=True)
        timeout = self._tower.spec.timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        thread.start()
        ended = None
        try:
            ended = attend(self._done_read, self._tower.receive, stdin, stdout, deadline)
        finally:
            self._join(thread)
            os.close(self._done_read)
            os.close(self._done_write)
        if self._error is not None:
            raise self._error
        return self._result or self._ended(ended)

    def _ended(self, status: int | None) -> RunResult:
        """The result of a run that neither the guest nor a handler ended."""
        if status == TIMED_OUT:
            return RunResult(TIMED_OUT, f"timeout: the guest still ran after {self._tower.spec.timeout:g} s")
        if status == UNREAD:
            return RunResult(UNREAD, "nobody reads the guest's output any more")
        return RunResult(STOPPED, "stopped")

    def stop(self) -> None:
        """Ends the run, from any thread or signal handler."""
        self._stopping.set()
        self._engine.kick()

    def _join(self, thread: threading.Thread) -> None:
        """Ends the vCPU's thread. What it uses must stay when it does not end: a handler may still return."""
        patience = time.monotonic() + _PATIENCE
        try:
            # a signal that lands just before a write of guest output blocks would be lost: repeat it
            while thread.is_alive():
                if time.monotonic() > patience:
                    raise HypervisorError(f"{self._asked()} does not return, and cannot be interrupted")
                self.stop()
                thread.join(_KICK_AGAIN)
        except BaseException:
            self._tower.abandon()
            raise

    def _asked(self) -> str:
        """The handler that has the pending event."""
        claim = self._claim()
        reason = _REASONS[self._event.reason].label
        return f"the handler of {reason}" if claim is None else f"L{claim.level} {claim.who}'s handler of {reason}"

    def _vcpu_thread(self) -> None:
        try:
            self._result = self._loop()
        except BaseException as error:  # noqa: BLE001 - carried to the thread that called run
            self._error = error
        finally:
            lib.nv_vcpu_finish(self._vcpu)
            os.write(self._done_write, b".")

    def _claim(self) -> Claim | None:
        """Whose turn it is at the pending event."""
        return self._tower.flat.claim(self._event.slot)

    def _loop(self) -> RunResult | None:
        run, tower = self._engine.run, self._tower
        while True:
            status = run(self._run)
            if status == _EVENT:
                result = self._handle()
                if result is not None:
                    return result
                if self._dispatch.stale:
                    tower.renew()
            elif status == RunStatus.ANSWERED:
                tower.amend_cpuid()
            elif status == RunStatus.DRAIN:
                self._drain_trace()
            elif self._stopping.is_set():
                return None

    def _run(self) -> int:
        """Runs level n until something else is to be done than what a handler did."""
        try:
            return self._dispatch.run()
        except FAULTS as error:
            self._blame(error)
            raise

    def _ask(self) -> None:
        """Asks the claim whose turn it is; raises HypervisorError when its handler raises."""
        try:
            self._dispatch.ask()
        except FAULTS as error:
            self._blame(error)
            raise

    def _blame(self, error: Exception | SystemExit) -> None:
        """Raises HypervisorError for what a handler raised; nothing else is its fault."""
        event, claim = self._dispatch.event, self._claim()
        if event is not None and claim is not None:
            raise blame(claim.level, claim.who, f"on {event!r}", error) from error

    def _handle(self) -> RunResult | None:
        """Gives the pending event to the claims whose turn it is until one of them has done with it.

        The first one may have been asked already.
        """
        dispatch = self._dispatch
        if dispatch.in_parts and lib.nv_vcpu_serve(self._vcpu):
            self._settle()
            return None
        asked = dispatch.event is not None
        while True:
            claim = self._claim()
            if claim is None:
                return self._nobody()
            if not asked:
                self._ask()
            asked = False
            event, result = dispatch.event, dispatch.result
            if not is_result(result):
                raise HypervisorError(
                    f"L{claim.level} {claim.who} answered {_SHOW.repr(result)} to {event!r}; a handler must return a "
                    "Result whose fields have their types"
                )
            outcome = result.outcome
            if outcome is _HANDLED:
                self._complete(claim.level, event, result)
                return None
            if outcome is Outcome.STOPPED:
                return self._stopped(claim, result)
            if outcome is Outcome.FAULTED or outcome is Outcome.RETRIED:
                self._interrupt(claim, event, result)
                return None
            self._next_turn(claim, result)
            if lib.nv_vcpu_serve(self._vcpu):
                self._settle()
                return None

    def _stopped(self, claim: Claim, result: Result) -> RunResult:
        if not 0 <= result.status <= 255:
            raise HypervisorError(
                f"L{claim.level} {claim.who} stopped the run with status {result.status}, which is not within 0 to 255"
            )
        return RunResult(result.status, result.message)

    def _complete(self, level: int, event: Event, result: Result) -> None:
        """Gives the answer to level n and propagates it to the levels above the handler's."""
        if event.size:
            value = self._dispatch.complete(result.value if event.count == 1 else self._last_of(event, result))
            native = self._event
            if not native.retry:
                for above, hypervisor in self._listeners:
                    if level < above < native.level:
                        self._propagate(above, hypervisor, value)
        self._settle()

    def _propagate(self, level: int, hypervisor: Hypervisor, value: int) -> None:
        native = self._event
        if REASONS[native.reason].qualifier is Qualifier.PHYSICAL and self._tower.maps.space(level + 1) != native.space:
            return  # an image between knows where that is for the level above it
        event = self._dispatch.present(level)
        with blaming(level, type(hypervisor).__name__, f"propagated({event!r})"):
            hypervisor.propagated(event, value)

    def _last_of(self, event: Event, result: Result) -> int:
        """The last element of a string, which a read fills in."""
        length = event.size * event.count
        data = event.data if event.direction == _WRITE else self._fill(length, event.size, result)
        return int.from_bytes(data[-event.size :], "little")

    def _fill(self, length: int, size: int, result: Result) -> bytes:
        """The elements of a string read."""
        data = result.data or (result.value & _U64).to_bytes(8, "little")[:size] * (length // size)
        data = data[:length].ljust(length, b"\0")
        ffi.memmove(self._event.data, data, length)
        return data

    def _settle(self) -> None:
        """Carries what a handler changed of the registers to level n, after the event's own answer."""
        state = self._state
        if not state.touched:
            return
        if state.changed:
            self._engine.settle()
            # KVM loses the rest of an access in parts when its registers change in between
            self._dispatch.in_parts = bool(self._vcpu.exited)
            if not self._dispatch.in_parts:
                state.flush()
        else:
            state.forget()

    def _interrupt(self, claim: Claim, event: Event, result: Result) -> None:
        """Level n does not go on behind the event's instruction."""
        if result.outcome is Outcome.FAULTED:
            self._fault(claim, result)
        else:
            self._retry(claim, event)

    def _fault(self, claim: Claim, result: Result) -> None:
        """Level n takes an exception instead of its access.

        RIP is the instruction's own, as for any fault; but KVM's emulator has done a write when it exits, so RIP is
        behind a store, and on KVM-PVM behind an OUT.
        """
        if wrong := wrong_exception(result.vector, result.error_code):
            raise HypervisorError(f"L{claim.level} {claim.who} has its guest fault: {wrong}")
        native = self._event
        if self._engine.intercepted():
            native.retry = 1
            self._engine.settle()
            self._state.flush()
            self._engine.exception(result.vector, result.error_code)
            return
        if native.reason in (ExitReason.RDMSR, ExitReason.WRMSR) and (result.vector, result.error_code) == (_GP, 0):
            native.fault = 1
            self._settle()
            return
        before = self._engine.regs()
        self._engine.settle()
        while self._vcpu.exited:
            # the rest of an access in parts does not happen any more
            self._vcpu.exited = 0
            self._engine.settle()
        self._dispatch.in_parts = False
        self._engine.set_regs(before)
        self._state.flush()
        self._engine.exception(result.vector, result.error_code)

    def _retry(self, claim: Claim, event: Event) -> None:
        """Level n comes to the instruction again: possible as long as none of it has happened."""
        if not self._engine.intercepted():
            raise HypervisorError(
                f"L{claim.level} {claim.who} wants {event!r} again, which has happened already; only what an intercept "
                "of the svm or vmx engine stopped can be retried"
            )
        self._event.retry = 1
        self._settle()

    def _next_turn(self, claim: Claim, result: Result) -> None:
        """Makes it the turn of the next claim below, or of the level that the handler names."""
        native = self._event
        lib.nv_vcpu_decline(self._vcpu)
        if result.outcome is not Outcome.REFLECTED:
            return
        while native.claim and native.handler > result.level:
            lib.nv_vcpu_decline(self._vcpu)
        if result.level >= claim.level or (result.level and native.handler != result.level):
            raise HypervisorError(
                f"L{claim.level} {claim.who} reflected {_REASONS[native.reason].label} {native.qualifier:#x} to "
                f"L{result.level}, which is not below it or does not claim that"
            )

    def _nobody(self) -> RunResult | None:
        """No claim is left: L0's default answer, or the end."""
        native = self._event
        if not native.claim and not self._vcpu.strict and lib.nv_vcpu_default(self._vcpu):
            self._settle()
            return None
        event = self._dispatch.present(0)
        return RunResult(HypervisorError.status, f"nobody claims {event!r} (unclaimed = error)")

    def _drain_trace(self) -> None:
        if self._drain is not None:
            self._drain()
