"""Towers on the engine without KVM."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from scripted import Run

from nestvmm.engines import ENGINES
from nestvmm.nesting import LevelSpec


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterable[Callable[..., Run]]:
    monkeypatch.setitem(ENGINES, "fake", FakeEngine)  # type: ignore[misc]
    runs: list[Run] = []

    def maker(*levels: LevelSpec, **options: Any) -> Run:
        runs.append(Run(tmp_path, levels, **options))
        return runs[-1]

    yield maker
    for run in runs:
        run.tower.close()
