"""Fixtures for runners that start processes; every test is checked for what it leaves behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from nodetool_jupyter.worker import cgroups
from tests.components import require_right
from tests.runners.processes import Place, held_by_this_process


@pytest.fixture(params=["cgroups", "plain"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Jobs with control groups, and again without."""
    yield from checked_place(grouped=request.param == "cgroups")


@pytest.fixture
def grouped() -> Iterator[Place]:
    """Jobs in control groups."""
    yield from checked_place(grouped=True)


@pytest.fixture
def plain() -> Iterator[Place]:
    """Jobs without control groups."""
    yield from checked_place(grouped=False)


def checked_place(*, grouped: bool) -> Iterator[Place]:
    """A place, with the proof that it leaves nothing."""
    if grouped:
        how = "run as root, or where control groups are delegated to you"
        require_right("Control groups for memory and pids", has_groups(), how)
    gc.collect()  # what earlier tests left to the collector must not go in the middle of this one
    before = held_by_this_process()
    place = Place(grouped)
    yield place
    assert held_by_this_process() == before
    assert place.leftovers() == {"processes": [], "folders": [], "cgroups": []}


def has_groups() -> bool:
    """Whether this machine lets us make groups that hold memory and pids."""
    return {"memory_bytes", "pids"} <= cgroups.mechanisms(cgroups.find()).keys()
