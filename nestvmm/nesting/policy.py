"""What the levels of a tower want: its hypervisors' claims and its user's designations, checked against an engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from nestvmm.devices import Server
from nestvmm.engines import Engine
from nestvmm.errors import HostError, HypervisorError, UsageError
from nestvmm.hypervisors import Hypervisor
from nestvmm.hypervisors.blame import blaming
from nestvmm.hypervisors.image import ImageLevel
from nestvmm.nesting.designation import QUALIFIER_MAX, Ceiling, Claim, DesignationTable, Scope
from nestvmm.nesting.memory import ADDRESS_END
from nestvmm.nesting.notation import VIRTUALIZATION, parse_designation
from nestvmm.nesting.spec import TowerSpec
from nestvmm.nesting.tower_maps import TowerMaps
from nestvmm.x86.event import Direction, Event, Result
from nestvmm.x86.exit_reason import ARRIVING, REASONS, ExitReason, Qualifier
from nestvmm.x86.rights import Rights
from nestvmm.x86.spans import Span

__all__ = ["Policy"]


class Policy:
    """The claims of the levels above L0, and the ceilings that `designate` sets.

    nesting: by the feature, "svm" or "vmx": the level of the image that gives it to the levels above; none: L0 does

    Raises UsageError for a designation to a level whose hypervisor has no handler for it, HypervisorError for what a
    hypervisor's claims() raises, or gives that is no claim.
    """

    def __init__(self, spec: TowerSpec, hypervisors: Sequence[Hypervisor]) -> None:
        self.claims: list[Claim] = []
        for level, hypervisor in enumerate(hypervisors, start=1):
            who = type(hypervisor).__name__
            with blaming(level, who, "claims()"):
                claims = list(hypervisor.claims())
            self.claims += [_claim(level, who, claim) for claim in claims]
        self.ceilings = [ceiling for text in spec.designate for ceiling in parse_designation(text, spec.height)]
        for ceiling in self.ceilings:
            if 0 < ceiling.level < spec.height:
                self._accept(ceiling, hypervisors[ceiling.level - 1])
        self.nesting: dict[str, int] = {}
        for reason, feature in VIRTUALIZATION.items():
            lowest = min((one.level for one in self.ceilings if one.scope.reason is reason), default=0)
            if lowest in spec.code or lowest > spec.height:
                self.nesting[feature] = lowest

    def _accept(self, ceiling: Ceiling, hypervisor: Hypervisor) -> None:
        """Gives the designated level a claim where none of its declared handlers is."""
        if isinstance(hypervisor, ImageLevel):
            return  # its control blocks say what it takes
        who = type(hypervisor).__name__
        scope = ceiling.scope
        own = [claim for claim in self.claims if claim.level == ceiling.level and _meets(claim.scope, scope)]
        if type(hypervisor).designated is not Hypervisor.designated:
            self.claims.append(Claim(ceiling.level, scope, hypervisor.designated, who))
        elif not own:
            raise UsageError(
                f"designate {scope.reason.label}:{scope.label} to L{ceiling.level}: its hypervisor {who} handles none "
                "of that; declare a handler, or override Hypervisor.designated"
            )

    def reasons(self) -> frozenset[ExitReason]:
        """The reasons that levels above L0 claim, or images are to have."""
        images = {reason for reason, feature in VIRTUALIZATION.items() if feature in self.nesting}
        return frozenset(claim.scope.reason for claim in self.claims) | images

    def scopes(self, lowest: int) -> list[Scope]:
        """The events that levels above L0 claim, and that the processor is to stop for.

        lowest:  of the levels of machine code; for those above it L0 itself sees to what reaches one machine alone
        """
        return [claim.scope for claim in self.claims if claim.level < lowest or claim.scope.reason not in ARRIVING]

    def arriving(self, maps: TowerMaps) -> dict[int, frozenset[ExitReason]]:
        """Of each space from 1 on: what its levels claim of the interrupts and NMIs that come from below it."""
        return {
            space: frozenset(
                claim.scope.reason
                for claim in self.claims
                if claim.scope.reason in ARRIVING and maps.space(claim.level + 1) == space
            )
            for space in range(1, len(maps.parts))
        }

    def check(self, engine: type[Engine], machine: str) -> None:
        """Raises HostError if the engine cannot trap a wanted reason, naming the level and the engines that could."""
        for feature, level in self.nesting.items():
            if feature not in engine.emulates:
                raise HostError(
                    f"designate {feature}-instruction=L{level}: the {engine.name} engine gives no level "
                    f"{feature.upper()} by software; the {feature} engine does"
                )
        for claim in self.claims:
            reason = claim.scope.reason
            if engine.traps(reason, machine):
                continue
            able = sorted(REASONS[reason].engines - {engine.name})
            hint = (
                f"the {' and '.join(able)} engine{'s' * (len(able) > 1)} could"
                if able
                else "no engine can, as `nestvmm reasons` explains"
            )
            if engine.name in REASONS[reason].engines:
                hint = f"with machine = bare it could, and {hint}"
            raise HostError(
                f"L{claim.level} {claim.who} wants {reason.label}, which the {engine.name} engine cannot trap "
                f"on machine {machine}; {hint}"
            )

    def holes(self) -> list[tuple[int, int, int]]:
        """(level, first, last): the physical ranges that a level claims and so does not back with memory."""
        return [
            (claim.level, claim.scope.first, claim.scope.last)
            for claim in self.claims
            if claim.scope.reason is ExitReason.MMIO and claim.scope.last < ADDRESS_END
        ]

    def passed(self, code: Sequence[int]) -> list[tuple[int, int, int]]:
        """(level, first, last): the physical ranges of the level above whose devices an image there is designated for.

        code:  the levels of machine code
        """
        return [
            (one.level, one.scope.first, min(one.scope.last, ADDRESS_END - 1))
            for one in self.ceilings
            if one.scope.reason is ExitReason.MMIO and one.level in code and one.scope.first < ADDRESS_END
        ]

    def faults(self) -> list[tuple[int, int, int]]:
        """(level, first, last): the physical ranges where a level claims accesses that its map does not give."""
        return [
            (claim.level, claim.scope.first, min(claim.scope.last, ADDRESS_END - 1))
            for claim in self.claims
            if claim.scope.reason is ExitReason.NESTED_PAGE_FAULT and claim.scope.first < ADDRESS_END
        ]

    def follows(self, level: int) -> bool:
        """Whether the designation table depends on the map of the hypervisor at `level`."""
        entries: list[Claim | Ceiling] = [*self.claims, *self.ceilings]
        return any(
            entry.level < level and REASONS[entry.scope.reason].qualifier is Qualifier.PHYSICAL for entry in entries
        )

    def table(self, level0: Iterable[Claim], maps: TowerMaps) -> DesignationTable:
        """The designation table, with L0's own claims below all others."""

        def project(level: int, scope: Scope) -> list[Span]:
            # L0 also takes what has no address at level 1, such as a fault that KVM does not locate; an image all that
            # its own tables refuse
            if level in (0, *maps.code) and scope.is_whole():
                return [(scope.first, scope.last)]
            return maps.project(level, scope)

        claims = [_own_faults(claim, maps) for claim in self.claims]
        # one of a whole reason is one for the levels above the next image, too
        further = [
            replace(one, level=maps.code[maps.space(one.level + 1)])
            for one in self.ceilings
            if one.scope.is_whole() and 0 < one.level < maps.code[-1]
        ]
        return DesignationTable((*claims, *level0), (*self.ceilings, *further), project)


#: The right that an access by Direction needs.
_NEEDS = (Rights.READ, Rights.WRITE, Rights.EXECUTE)


def _own_faults(claim: Claim, maps: TowerMaps) -> Claim:
    """A claim of faults, without those of levels below: what its level's map allows is not its fault."""
    handler = claim.handler
    if claim.scope.reason is not ExitReason.NESTED_PAGE_FAULT or isinstance(handler, Server):
        return claim

    def handle(event: Event) -> Result:
        if maps.gives(claim.level, event.qualifier, _NEEDS[event.direction]):
            return Result.declined()
        return handler(event)

    return replace(claim, handler=handle)


def _claim(level: int, who: str, found: object) -> Claim:
    match found:
        case ExitReason() as reason, int(first), int(last), None | Direction() as direction, handler if (
            0 <= first <= last <= QUALIFIER_MAX and callable(handler)
        ):
            return Claim(level, Scope(reason, first, last, direction), handler, who)
    raise HypervisorError(
        f"L{level} {who} claims {found!r:.80} in claims(): expected an ExitReason, the first and last qualifier, a "
        "Direction or None, and a handler"
    )


def _meets(one: Scope, other: Scope) -> bool:
    return (
        one.reason is other.reason
        and one.first <= other.last
        and other.first <= one.last
        and one.includes(other.direction)
    )
