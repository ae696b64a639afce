"""A live job's committed events, for everyone who listens."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from .events import AnyEvent, Display, Stream

Listener = Callable[[Sequence[AnyEvent]], None]
_MOST_REMEMBERED = 1_024
_MOST_CHARACTERS = 2 << 20


class Subscription:
    """One listener and how far it has heard; `cancel` may be called from any thread."""

    def __init__(self, listener: Listener, after: int) -> None:
        self.cursor = after
        self._listener: Listener | None = listener

    @property
    def active(self) -> bool:
        """Whether it still wants to hear."""
        return self._listener is not None

    def cancel(self) -> None:
        """Hear nothing more; a call that is under way comes to its end."""
        self._listener = None

    def hear(self, events: Sequence[AnyEvent]) -> None:
        """Pass on what is new to this listener."""
        fresh = events if events[0].seq > self.cursor else [event for event in events if event.seq > self.cursor]
        listener = self._listener
        if fresh and listener is not None:
            self.cursor = fresh[-1].seq
            listener(fresh)


class Feed:
    """Tells subscriptions of one live job, in order and without gaps; on the manager's loop only.

    The newest events are remembered, as far as they are small, so that somebody who comes at once needs no look at
    the store.
    """

    def __init__(self) -> None:
        self.seq = 0
        self._recent: deque[AnyEvent] = deque()
        self._characters = 0
        self._subscriptions: list[Subscription] = []

    def publish(self, events: Sequence[AnyEvent]) -> None:
        """Tell everyone. A listener that raises is reported by the loop and harms nobody else."""
        if not events:
            return
        self.seq = events[-1].seq
        self._remember(events)
        self._subscriptions = [each for each in self._subscriptions if each.active]
        loop = asyncio.get_running_loop()
        for subscription in self._subscriptions:
            loop.call_soon(subscription.hear, events)

    def _remember(self, events: Sequence[AnyEvent]) -> None:
        self._recent.extend(events)
        self._characters += sum(map(_characters, events))
        while len(self._recent) > _MOST_REMEMBERED or self._characters > _MOST_CHARACTERS:
            self._characters -= _characters(self._recent.popleft())

    def join(self, subscription: Subscription) -> bool:
        """Take a subscription in, once everything that it has missed is remembered here."""
        missed = self.seq - subscription.cursor
        if missed > len(self._recent):
            return False
        if missed > 0:
            subscription.hear(list(islice(self._recent, len(self._recent) - missed, None)))
        self._subscriptions.append(subscription)
        return True


def _characters(event: AnyEvent) -> int:
    """Of an event of those that may be large."""
    if type(event) is Stream:
        return len(event.text)
    if type(event) is Display:
        return sum(len(part) for part in event.data.values() if isinstance(part, str))
    return 0
