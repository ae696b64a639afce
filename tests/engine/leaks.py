"""What a test left behind in an engine and in the folder of temporary files that it was given."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tests.engine.private import Engine

Contents = dict[str, set[str]]
SETTLING_SECONDS = 60.0  # a guard: who removes a container for a dead kernel may do so after the test


def contents(engine: Engine) -> Contents:
    """Everything in an engine that could be left there."""
    with engine.client() as client:
        api = client.api
        return {
            "containers": {f"{' '.join(found['Names'])} {found['Id'][:12]}" for found in api.containers(all=True)},
            "images": {f"{' '.join(found['RepoTags'] or ())} {found['Id']}" for found in api.images(all=True)},
            "volumes": {found["Name"] for found in api.volumes()["Volumes"] or ()},
            "networks": {f"{found['Name']} {found['Id'][:12]}" for found in api.networks()},
            "processes": {f"{pid} {command}" for pid, command in engine.processes().items()},
        }


@dataclass(frozen=True)
class Before:
    """What there was before a test."""

    engine: Engine
    contents: Contents
    temporary: Path

    def left(self) -> dict[str, list[str]]:
        """What there is now and wasn't, by kind; also what was there and is gone, for that is another test's."""
        now = contents(self.engine)
        found = {kind: sorted(now[kind] - known) for kind, known in self.contents.items()}
        found |= {f"{kind} gone": sorted(known - now[kind]) for kind, known in self.contents.items()}
        # an owner's own folder goes with the next sweep; what is in it must not wait for that
        jobs = [path for root in self.temporary.glob("nodetool-*") for path in root.glob("*/*/")]
        found["job folders"] = [str(path) for path in jobs]
        found["sockets"] = [str(path) for path in self.temporary.rglob("*") if path.is_socket()]
        return {kind: names for kind, names in found.items() if names}

    def check(self, settling_seconds: float = SETTLING_SECONDS) -> None:
        """Fail with what was left."""
        guard = time.monotonic() + settling_seconds
        while (left := self.left()) and time.monotonic() < guard:
            time.sleep(0.05)
        assert not left, "\n".join(["left behind:", *(f"  {kind}: {name}" for kind in left for name in left[kind])])
