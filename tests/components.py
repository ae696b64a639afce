"""The real components that tests need: a missing one is skipped on a desk and fails in CI."""

from __future__ import annotations

import os
from typing import TypeVar

import pytest

T = TypeVar("T")


def require(component: str, found: T | None, how: str) -> T:
    """What was found of a component; without it the test is skipped, or fails where `CI=true`.

    `how` says how to get it, as in "apt-get install postgresql".
    """
    if found:
        return found
    sentence = f"{component} is missing here. To run this test: {how}"
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)
