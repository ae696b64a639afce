"""What tests need: a missing component is skipped on a desk and fails in CI, a missing right only for root there."""

from __future__ import annotations

import os
from typing import NoReturn, TypeVar

import pytest

T = TypeVar("T")


def require(component: str, found: T | None, how: str) -> T:
    """What was found of a component; without it the test is skipped, or fails where `CI=true`.

    `how` says how to get it, as in "apt-get install postgresql".
    """
    if not found:
        _do_without(f"{component} is missing here. To run this test: {how}", may_skip=False)
    return found


def require_right(right: str, found: T | None, how: str) -> T:
    """The same for a right, as to mount. Nobody can install it, so CI may lack it too, unless it is root."""
    if not found:
        _do_without(f"{right} is not to be had here. To run this test: {how}", may_skip=os.geteuid() != 0)
    return found


def _do_without(sentence: str, *, may_skip: bool) -> NoReturn:
    if os.environ.get("CI") == "true" and not may_skip:
        pytest.fail(sentence)
    pytest.skip(sentence)
