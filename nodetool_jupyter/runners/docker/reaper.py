"""Started by the supervisor when its kernel has died: removes that kernel's containers and networks, then ends."""

from __future__ import annotations

import json
import sys
import time

from .engine import Engine, EngineRefused, EngineUnavailable
from .leftovers import owned_by, remove_leftovers

_AGAIN_SECONDS = 1.0
_PATIENCE_SECONDS = 120.0


def main(order: str) -> None:
    """order: JSON with `owner`, the id in the labels, and `environ`, which tells where the engine is.

    Looks until it finds nothing, twice: a call that the kernel made with its last breath may still be carried out.
    An engine that does not answer is asked again for a while.
    """
    given = json.loads(order)
    engine = Engine(given["environ"])
    until = time.monotonic() + _PATIENCE_SECONDS
    nothing = 0
    while nothing < 2 and time.monotonic() < until:
        try:
            swept = remove_leftovers(engine, owned_by(given["owner"]))
        except (EngineUnavailable, EngineRefused):
            nothing = 0
        else:
            nothing = 0 if swept.removed or swept.left else nothing + 1
        time.sleep(_AGAIN_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1])
