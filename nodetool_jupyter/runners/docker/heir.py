"""Who removes the containers of a kernel that died: the supervisor starts it then, and only then."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from ..process_supervisor import SupervisorLink
from .endpoint import CONFIGURED

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from nodetool_jupyter.runners.docker.reaper import main; main(sys.argv[1])"
)


class Heir:
    """A supervisor of our own that knows what to start. On the manager's loop."""

    def __init__(self, environ: Mapping[str, str], owner: str) -> None:
        order = {"owner": owner, "environ": {name: environ[name] for name in CONFIGURED if environ.get(name)}}
        self._argv = [sys.executable, "-I", "-S", "-c", _PROGRAM, json.dumps(order), json.dumps(sys.path)]
        self._link: SupervisorLink | None = None

    @property
    def announced(self) -> bool:
        """Whether anything was ever made that would have to be removed."""
        return self._link is not None

    def announce(self) -> None:
        """Have somebody there from now on; a supervisor that died is replaced."""
        if self._link is None or (self._link.lost and self._link.collect()):
            self._link = SupervisorLink(grouped=False)
            self._link.name_heir(self._argv)

    async def close(self, *, needed: bool) -> None:
        """End; the heir is started if it is needed even now."""
        if self._link is not None:
            if not needed:
                self._link.name_heir([])
            await self._link.close()
