"""What is missing is skipped on a desk; in CI a component must be there, and a right only where root asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.components import require, require_right

DESK, CI = "", "true"


@pytest.mark.parametrize("asked", [require, require_right])
@pytest.mark.parametrize("ci", [DESK, CI])
def test_what_is_found_is_handed_on(monkeypatch: pytest.MonkeyPatch, asked: Callable[..., str], ci: str) -> None:
    monkeypatch.setenv("CI", ci)
    assert asked("A thing", "found", "get it") == "found"


@pytest.mark.parametrize(
    ("asked", "ci", "user", "fails"),
    [
        (require, DESK, 0, False),
        (require, DESK, 1000, False),
        (require, CI, 0, True),
        (require, CI, 1000, True),
        (require_right, DESK, 0, False),
        (require_right, DESK, 1000, False),
        (require_right, CI, 0, True),
        (require_right, CI, 1000, False),
    ],
)
def test_what_is_missing_is_skipped_or_fails(
    monkeypatch: pytest.MonkeyPatch, asked: Callable[..., object], ci: str, user: int, *, fails: bool
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    outcome = pytest.fail.Exception if fails else pytest.skip.Exception
    with pytest.raises(outcome, match=r"A thing is .* here\. To run this test: get it"):
        asked("A thing", None, "get it")
