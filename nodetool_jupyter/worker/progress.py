"""Progress bars as reports, tqdm's too: at most 20 a second and bar, and always the last value."""

from __future__ import annotations

import io
import math
from time import monotonic

from .current import current
from .imports import when_imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .current import Inside, Report

_PERIOD_SECONDS = 0.05
_LONGEST_TEXT = 2_000
_OWN_WAYS = {
    "tqdm.notebook": ("tqdm_notebook", ("display",)),
    "tqdm.rich": ("tqdm_rich", ("progress", "options")),
    "tqdm.gui": ("tqdm_gui", ()),
    "tqdm.tk": ("tqdm_tk", ("grab", "tk_parent", "cancel_callback")),
}


class _Bar:
    """One bar of one job: what was sent last, and what waits."""

    def __init__(self, inside: Inside, name: str) -> None:
        self.inside = inside
        self.name = name
        self.depth = 0
        self._sent = -math.inf
        self._waiting: Report | None = None
        self._newest: Report | None = None
        self._scheduled = False

    def show(self, report: Report, *, now: bool = False) -> None:
        """Send a state, or keep it until the bar's turn comes."""
        self._newest = report
        if now or monotonic() - self._sent >= _PERIOD_SECONDS:
            self._send(report)
            return
        self._waiting = report
        self._schedule(_PERIOD_SECONDS)

    def catch_up(self) -> None:
        """Send the state that waits."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and self.inside.open:
            self._send(waiting)
            if waiting is not self._newest and self._newest is not None:  # another thread's may have gone out before it
                self._send(self._newest)

    def _schedule(self, seconds: float) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.inside.outlet.later(seconds, self._strike)

    def _strike(self) -> None:
        self._scheduled = False
        early = _PERIOD_SECONDS - (monotonic() - self._sent)
        if early <= 0:
            self.catch_up()
        elif self._waiting is not None:  # one was sent meanwhile
            self._schedule(early)

    def _send(self, report: Report) -> None:
        self._waiting = None
        self._sent = monotonic()
        self.inside.outlet.emit(report)


def report(inside: Inside, name: str, done: object, total: object, *, chunk: str = "") -> None:
    """Show one explicit bar."""
    bar = inside.bars.get(name)
    if bar is None:
        bar = inside.bars[name] = _Bar(inside, name)
    bar.show(_fields(bar, done, total, chunk=chunk))


def finish(inside: Inside) -> None:
    """Send what waits; before the job's last report."""
    for bar in list(inside.bars.values()):
        bar.catch_up()


def install() -> None:
    """Follow tqdm in whatever form it is imported."""
    when_imported("tqdm.std", lambda module: _follow_class(module.tqdm))
    for module_name, (class_name, options) in _OWN_WAYS.items():
        when_imported(module_name, _follower_of(class_name, options))


def _follower_of(class_name: str, options: tuple[str, ...]) -> Callable[[Any], None]:
    return lambda module: _make_standard(getattr(module, class_name), options)


def _fields(bar: _Bar, done: object, total: object, *, chunk: str = "", label: str = "", unit: str = "") -> Report:
    return {
        "type": "node_progress",
        "progress": _number(done) or 0,
        "total": _number(total),
        "chunk": chunk[:_LONGEST_TEXT],
        "bar": bar.name,
        "label": label[:_LONGEST_TEXT],
        "unit": unit[:_LONGEST_TEXT],
        "depth": bar.depth,
    }


def _number(value: Any) -> float | None:
    """A number that JSON can carry; `None` for what is none."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


class _Nowhere(io.StringIO):
    """Takes the text bar that nobody is to see."""

    def write(self, text: str, /) -> int:
        return len(text)

    def isatty(self) -> bool:
        return True


def _state(tqdm: Any, *, closed: bool = False) -> Report:
    bar: _Bar = tqdm.nodetool_bar
    label = str(getattr(tqdm, "desc", "") or "").strip().removesuffix(":")
    fields = _fields(bar, tqdm.n, tqdm.total, chunk=str(tqdm.postfix or ""), label=label, unit=str(tqdm.unit))
    return {**fields, "closed": closed}


def _follow_class(base: Any) -> None:
    """Patch tqdm's base class in place: every reference to it, made before or after, sees that."""
    make, draw, end = base.__init__, base.display, base.close

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it becomes that method
        inside = current()
        target = args[4] if len(args) > 4 else kwargs.get("file")
        if inside is None or (target is not None and not _is_standard(target)):
            make(self, *args, **kwargs)
            return
        if len(args) > 4:
            args = (*args[:4], _Nowhere(), *args[5:])
        else:
            kwargs["file"] = _Nowhere()
        inside.bars_made += 1
        self.nodetool_bar = bar = _Bar(inside, str(inside.bars_made))
        taken = {other.depth for other in inside.bars.values() if isinstance(other, _Bar) and other.name.isdigit()}
        position = kwargs.get("position")
        bar.depth = position if isinstance(position, int) and position >= 0 else min(set(range(len(taken) + 1)) - taken)
        make(self, *args, **kwargs)
        if not self.disable:
            inside.bars[bar.name] = bar

    def display(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self, "nodetool_bar"):
            return draw(self, *args, **kwargs)
        self.nodetool_bar.show(_state(self))
        return True

    def close(self: Any) -> None:
        bar = getattr(self, "nodetool_bar", None)
        was_open = bar is not None and not getattr(self, "disable", True)
        end(self)
        if bar is not None and was_open and bar.inside.bars.pop(bar.name, None) is not None:
            bar.show(_state(self, closed=True), now=True)

    base.__init__, base.display, base.close = __init__, display, close


def _is_standard(file: Any) -> bool:
    """Whether a bar that was told to write there would write to the job's own output."""
    import sys

    return file in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)


def _make_standard(variant: Any, options: tuple[str, ...]) -> None:
    """Let a variant with widgets or windows of its own be an ordinary bar inside a job."""
    for name in ("__init__", "__iter__", "update", "display", "close", "clear", "reset"):
        if name in vars(variant):
            setattr(variant, name, _standard_inside(variant, name, vars(variant)[name], options))


def _standard_inside(variant: Any, name: str, original: Any, options: tuple[str, ...]) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if name == "__init__":
            is_ours = current() is not None
            kwargs = {key: value for key, value in kwargs.items() if not (is_ours and key in options)}
        else:
            is_ours = hasattr(self, "nodetool_bar")
        return getattr(super(variant, self), name)(*args, **kwargs) if is_ours else original(self, *args, **kwargs)

    return method
