"""Started by the supervisor when its kernel has died: removes that kernel's containers and networks, then ends."""

from __future__ import annotations

import json
import sys

from .engine import Engine, EngineUnavailable
from .leftovers import OWNER_LABEL, remove_leftovers


def main(order: str) -> None:
    """order: JSON with `owner`, the id in the labels, and `environ`, which tells where the engine is."""
    given = json.loads(order)
    try:
        remove_leftovers(Engine(given["environ"]), lambda labels: labels.get(OWNER_LABEL) == given["owner"])
    except EngineUnavailable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
