"""Keeps a manager known as alive, ends the jobs of those that died, and removes what they left."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio

from .errors import NodetoolError, StoreError
from .housekeeping import sweep, sweep_runners
from .runners.base import Sweeper, Swept
from .stores.base import JobStore, Owner
from .stores.owners import HEARTBEAT_SECONDS, DeathWatch, claim_lost

_log = logging.getLogger(__name__)
_SWEEP_SECONDS = 600.0


class Keeper:
    """One round at once, then one every `HEARTBEAT_SECONDS`, until it is cancelled; likewise of `sweepers`."""

    def __init__(self, store: JobStore, owner: Owner, sweepers: Sequence[Sweeper] = ()) -> None:
        self._store = store
        self._owner = owner
        self._sweepers = sweepers
        self._watch = DeathWatch(owner)

    async def run(self) -> None:
        """Go on until cancelled. What fails is tried again in the next round, and must never end the manager."""
        while True:
            try:
                await anyio.to_thread.run_sync(self.round)
            except (NodetoolError, OSError) as error:
                _log.warning("a round of housekeeping failed: %s", error)
            await anyio.sleep(HEARTBEAT_SECONDS)

    async def sweep_runners(self) -> None:
        """Remove what dead managers left where their jobs ran; goes on until cancelled, and never holds up a round."""
        while self._sweepers:
            try:
                swept = await anyio.to_thread.run_sync(sweep_runners, self._sweepers, self._owner.user)
            except (NodetoolError, OSError) as error:
                swept = Swept(left=(f"what is left where jobs run could not be looked for: {error}",))
            for sentence in swept.left:
                _log.info("left behind: %s", sentence)
            await anyio.sleep(_SWEEP_SECONDS)

    def end_lost(self) -> None:
        """End what the dead have left open. A store that can't take it now is asked again in the next round."""
        try:
            self._end_lost()
        except StoreError as error:
            _log.warning("jobs of dead managers could not be ended: %s", error)

    def round(self) -> None:
        """Say that this manager lives; end what the dead have left open, remove what they left lying."""
        if not self._store.heartbeat(self._owner.id):
            self._store.register(self._owner)
        self._end_lost()
        for sentence in sweep(self._store).left:
            _log.info("left behind: %s", sentence)

    def _end_lost(self) -> None:
        for dead in self._watch.dead(self._store.owners()):
            for job in claim_lost(self._store, dead):
                _log.info("job %s was lost with its manager (process %d)", job.id, dead.pid)
