"""The first process of a container signals everybody it can see: it must not run anywhere else."""

from __future__ import annotations

import os

import pytest

from nodetool_jupyter.worker import container


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What would have been signalled: nothing of this machine is, whatever the code under test does."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    return found


@pytest.mark.parametrize(
    ("pid", "namespace", "inside"),
    [
        (1, "pid:[4026532200]", True),
        (1, "pid:[4026531836]", False),  # the machine's own
        (4711, "pid:[4026532200]", False),  # in a container of somebody else's
    ],
)
def test_it_knows_whether_all_that_it_sees_is_the_job(
    monkeypatch: pytest.MonkeyPatch, signalled: list[tuple[int, int]], pid: int, namespace: str, inside: bool
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: pid)
    monkeypatch.setattr(os, "readlink", lambda path: namespace)
    assert container.in_container() is inside
    container._signal_all(15)
    assert signalled == ([(-1, 15)] if inside else [])


def test_it_starts_nothing_outside_of_a_container(
    monkeypatch: pytest.MonkeyPatch, signalled: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    with pytest.raises(SystemExit, match="not in a container"):
        container.main("default")
    assert signalled == []
