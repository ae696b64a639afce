"""The commands of a fresh clone, as `make` would run them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make: apt-get install make")
def test_a_path_given_to_make_test_is_pytests_and_not_coverages() -> None:
    command = ["make", "-n", "-C", str(ROOT), "test", "ARGS=tests/test_jobs.py"]
    planned = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "pytest tests/test_jobs.py --cov\n" in planned


def test_continuous_integration_lints_first_and_ends_with_the_tests() -> None:
    goals = [word for line in re.findall(r"^make (.*)$", (ROOT / ".ci/run").read_text(), re.M) for word in line.split()]
    assert goals == ["lint", "test"]
