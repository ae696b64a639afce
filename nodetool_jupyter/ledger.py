"""The one writer of the store: a thread that commits changes in order, many in one transaction."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .errors import JobExists, StorageFull, StoreBusy, StoreConflict, StoreError
from .stores.base import Change, JobStore

Settled: TypeAlias = Callable[[Change, StoreError | JobExists | None], None]
_MOST_CHANGES = 1_000


@dataclass(frozen=True)
class _Entry:
    change: Change
    settled: Settled
    patient: bool


class Ledger:
    """Commits what is put, in the order in which it was put, and says when it is done.

    `settled(change, error)` is called on the ledger's thread. A patient change is tried again until
    the store takes it, which is how a job's end survives a full disk or a locked database; a conflict
    is final for it, and a store that is gone or damaged. Any other change fails at once.

    `tell` is called on the ledger's thread with why changes wait for the store, and with `None` when the
    store has taken them: what waits is not committed, so no event can say it.
    """

    def __init__(
        self, store: JobStore, *, retry_seconds: float = 1.0, tell: Callable[[StoreError | None], None] | None = None
    ) -> None:
        self._store = store
        self._retry_seconds = retry_seconds
        self._tell = tell
        self._entries: deque[_Entry] = deque()
        self._ready = threading.Condition()
        self._closing = False
        self._refusal: StoreError | None = None
        self._trouble: StoreError | None = None
        self._thread: threading.Thread | None = None

    @property
    def trouble(self) -> StoreError | None:
        """Why changes wait for the store at present; `None` when none does."""
        return self._trouble

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="nodetool-ledger", daemon=True)
        self._thread.start()

    def put(self, change: Change, settled: Settled, *, patient: bool = True) -> None:
        """Queue one change; returns at once."""
        with self._ready:
            self._entries.append(_Entry(change, settled, patient))
            self._ready.notify()

    def close(self) -> None:
        """Commit what is queued, trying once more where the store refused, and end the thread."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        if self._thread is not None:
            self._thread.join()
        lost = self._trouble or StoreError("The job store was closed before this was written.")
        while self._entries:
            entry = self._entries.popleft()
            entry.settled(entry.change, lost)

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._entries and not self._closing:
                    self._ready.wait()
                if not self._entries:
                    return
                batch = [self._entries.popleft() for _ in range(min(len(self._entries), _MOST_CHANGES))]
            left = self._commit(batch)
            self._say(self._refusal if left else None)
            if not left:
                continue
            with self._ready:
                self._entries.extendleft(reversed(left))
                if self._closing:
                    return
                # a new entry must not cut the pause short, or a failing store would be hammered
                self._ready.wait_for(lambda: self._closing, self._retry_seconds)

    def _say(self, trouble: StoreError | None) -> None:
        news = str(trouble) != str(self._trouble)
        self._trouble = trouble
        if news and self._tell is not None:
            self._tell(trouble)

    def _commit_each(self, batch: Sequence[_Entry], error: StoreError | JobExists) -> list[_Entry]:
        """Commit one by one after a failure of all; the one that fails alone is told its error."""
        if len(batch) == 1:
            batch[0].settled(batch[0].change, error)
            return []
        return [left for entry in batch for left in self._commit([entry])]

    def _commit(self, batch: Sequence[_Entry]) -> list[_Entry]:
        """Commit the batch; returns what has to be tried again, in order."""
        try:
            self._store.commit([entry.change for entry in batch])
        except (StoreConflict, JobExists) as error:
            return self._commit_each(batch, error)
        except (TypeError, ValueError, OverflowError) as error:
            # something in a change can't be written down: that change is at fault, and no other
            return self._commit_each(batch, StoreError(f"The job store can't hold this: {error}."))
        except StoreError as error:
            self._refusal = error
            passing = isinstance(error, StoreBusy | StorageFull)
            for entry in batch:
                if not (passing and entry.patient):
                    entry.settled(entry.change, error)
            return [entry for entry in batch if passing and entry.patient]
        for entry in batch:
            entry.settled(entry.change, None)
        return []
