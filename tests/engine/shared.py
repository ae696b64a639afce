"""The one engine of a test run, started when the first test asks for it."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.components import require
from tests.engine import images, private

_engine = pytest.StashKey[private.Engine]()
_PACKAGES = {
    "dockerd": "docker.io",
    "containerd": "docker.io",
    "ip": "iproute2",
    "debootstrap": "debootstrap",
}
_CAP_SYS_ADMIN = 1 << 21


def missing() -> str | None:
    """What is needed for an engine of the tests' own and isn't here: how to get it."""
    packages = {package for command, package in _PACKAGES.items() if shutil.which(command) is None}
    if packages:
        return f"apt-get install {' '.join(sorted(packages))}; then run the tests as root"
    if os.geteuid() != 0:
        return "run the tests as root, which an engine of their own needs; one that runs already is never used"
    capabilities = Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0]
    if not int(capabilities, 16) & _CAP_SYS_ADMIN:
        return "run them where root may mount: on a real or virtual machine, or in a privileged container"
    return None


def ask_for_engine() -> None:
    """Skip the test, or fail it in CI, where no engine can be started."""
    require("A Docker engine of the tests' own", missing() is None, missing() or "")


def shared_engine(config: pytest.Config) -> private.Engine:
    """The run's engine, with every image; it is removed when the run ends."""
    if _engine not in config.stash:
        ask_for_engine()
        with ExitStack() as stack:
            engine = stack.enter_context(private.running())
            with engine.client() as client:
                images.load(client, variants=True)
            config.add_cleanup(stack.pop_all().close)
        config.stash[_engine] = engine
    return config.stash[_engine]
