"""What is said of an async cell whose event loop is late."""

from __future__ import annotations

import asyncio
import asyncio.base_events
import threading
from typing import Any

import pytest

from nodetool_jupyter.events import Notification
from nodetool_jupyter.runners.thread_watch import LoopWatch
from tests.kernel.conftest import until


@pytest.mark.parametrize(("where", "told"), [("<cell>", 1), (asyncio.base_events.__file__, 0)], ids=["cell", "loop"])
def test_a_loop_is_late_of_the_cell_and_not_of_a_busy_processor(where: str, told: int) -> None:
    notes: list[Notification] = []
    space: dict[str, Any] = {"ended": False}
    code = compile("while not ended: here = True", where, "exec")
    thread = threading.Thread(target=exec, args=(code, space))

    async def look() -> None:
        watch = LoopWatch(thread, notes.append)  # which has heard no beat
        watch._look()
        watch.end()

    thread.start()
    try:
        until(lambda: "here" in space)
        asyncio.run(look())
    finally:
        space["ended"] = True
        thread.join()
    assert len(notes) == told
