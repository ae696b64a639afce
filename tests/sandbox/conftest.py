"""Places where untrusted jobs run in bubblewrap; every test is checked for what it leaves behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.components import require
from tests.runners.conftest import checked_place
from tests.runners.processes import Place


@pytest.fixture(autouse=True)
def _bubblewrap() -> None:
    require("bubblewrap", shutil.which("bwrap"), "apt-get install bubblewrap")


@pytest.fixture(params=["stepping down", "user namespace"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the job becomes nobody: as for a kernel of root's, and as for everybody else's."""
    if request.param == "user namespace":
        monkeypatch.setattr("nodetool_jupyter.sandbox._is_root", lambda: False)
    else:
        require("The rights of root", os.geteuid() == 0, "run as root")
    return str(request.param)


@pytest.fixture(params=["cgroups", "plain"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Jobs with control groups, and again without."""
    yield from checked_place(grouped=request.param == "cgroups")
