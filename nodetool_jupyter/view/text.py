"""A view as plain text: one line while it runs, one at the end, or a few that say everything.

`stable` leaves out what differs from run to run: ids, times and sizes.
"""

from __future__ import annotations

from ..jobs import JobStatus
from ..quantities import format_duration, format_size
from .isolation import isolation_rows, limits_in_force, names_of_limits
from .model import Bar, Note, View, elapsed_seconds, remaining_seconds

_S = JobStatus
MARKS = {_S.COMPLETED: "✔", _S.FAILED: "✘", _S.CANCELLED: "■", _S.QUEUED: "○"}
_BAR_COLUMNS = 24
_AT_ONCE = 0.005
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_FACTORS = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


def title(view: View, *, stable: bool = False) -> str:
    """What a person calls the job."""
    return view.name or ("cell" if stable else view.place or view.job_id[:8] or "cell")


def final_line(view: View, *, stable: bool = False) -> str:
    """`✔ train · subprocess · 12.3 s · peak 1.3 GiB`, or why it did not complete."""
    parts = [f"{MARKS.get(view.status, '●')} {title(view, stable=stable)}", view.runner]
    if view.status is not JobStatus.COMPLETED:
        parts.append(view.status.value)
    if not stable:
        elapsed = elapsed_seconds(view, view.ts)
        parts += [format_duration(elapsed)] if elapsed is not None else []
        parts += [f"peak {format_size(view.usage.peak_memory_bytes)}"] if view.usage.peak_memory_bytes else []
    line = " · ".join(parts)
    if view.status is JobStatus.FAILED and view.message and not stable:
        return f"{line} · {first_line(view.message)}"
    return line


def final_text(view: View, *, stable: bool = False) -> str:
    """The last line, and below it what the person should know."""
    return "\n".join([final_line(view, stable=stable), *warning_lines(view)])


def warning_lines(view: View) -> list[str]:
    """Each of `warnings` on a line of its own."""
    return [f"  {note.severity}: {_beside(note.content, 4)}" for note in warnings(view)]


def warnings(view: View) -> list[Note]:
    """Warnings and errors that came up, the limits that were asked for and not held, a store that can't be written."""
    not_held = view.isolation.not_held if view.isolation is not None else ()
    found = [Note(f"Not held here: {names_of_limits(not_held)}.")] if not_held else []
    found += [note for note in view.notes if note.severity in ("warning", "error")]
    return found if view.status.final or not view.trouble else [*found, Note(stalled_text(view.trouble))]


def stalled_text(trouble: str) -> str:
    """Why nothing new is shown, as `JobExecutionManager.watch_store` tells it."""
    return f"The job store can't be written; waiting for it. {trouble}"


def status_line(view: View, now: float, *, columns: int = 0) -> str:
    """One line about a job that runs; cut to `columns` when that isn't 0."""
    if view.status.final:
        return final_line(view)
    parts = [f"{MARKS.get(view.status, '●')} {title(view)}", view.runner, view.status.value]
    parts += [view.waits] if view.waits and view.status is JobStatus.QUEUED else []
    bar = next((bar for bar in view.bars if not bar.closed), None)
    if bar is not None:
        parts += filter(None, [" ".join(filter(None, [bar.label, amount(bar)])), bar.note])
    parts += times(view, now)
    if usage := usage_text(view):
        parts.append(usage)
    line = " · ".join(parts)
    return line if not columns or len(line) <= columns else f"{line[: max(1, columns - 1)]}…"


def times(view: View, now: float) -> list[str]:
    """Elapsed time and, where it is known, what is left."""
    elapsed, left = elapsed_seconds(view, now), remaining_seconds(view, now)
    found = [format_duration(elapsed)] if elapsed is not None else []
    return [*found, left_text(left)] if left is not None else found


def left_text(seconds: float) -> str:
    """What is left, as roughly as it is known: "about 12 s left"; `about` in card.js says the same."""
    if seconds < 1:
        return "less than 1 s left"
    if (whole := int(seconds + 0.5)) < 60:
        return f"about {whole} s left"
    hours, minutes = divmod(int(seconds / 60 + 0.5), 60)
    if not hours:
        return f"about {minutes} min left"
    return f"about {hours} h {minutes} min left" if minutes else f"about {hours} h left"


def bar_lines(view: View) -> list[str]:
    """Each bar on a line of its own, inner ones to the right."""
    width = max((len(bar.label) + 2 * bar.depth for bar in view.bars), default=0)
    lines = [
        f"{'  ' * bar.depth + bar.label:<{width}}  {_drawn(bar)}  {amount(bar)}{bar.note and f' · {bar.note}'}".strip()
        for bar in view.bars
    ]
    return [*lines, "… and more bars"] if view.more_bars else lines


def amount(bar: Bar) -> str:
    """`45% · 9 of 20 files`, `9 files` where the total is not known, `45%` of a whole that is no number of things."""
    unit = f" {bar.unit}" if bar.unit not in ("", "it", "B") else ""
    write = format_size if bar.unit == "B" else number
    if bar.total is None or bar.fraction is None:
        return f"{write(bar.progress)}{unit}"
    if bar.total == 1 and not bar.unit:
        return f"{bar.fraction:.0%}"
    return f"{bar.fraction:.0%} · {write(bar.progress)} of {write(bar.total)}{unit}"


def number(value: float) -> str:
    """A count for a person: `950`, `12,500`, `3.2M`."""
    for factor, letter in _FACTORS:
        if abs(value) >= factor:
            return f"{value / factor:.1f}".removesuffix(".0") + letter
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def usage_text(view: View) -> str:
    """What it uses, and how much of that it may: memory, processors, processes; "" when nothing was measured."""
    usage, limits, parts = view.usage, limits_in_force(view.isolation, view.limits), []
    if usage.memory_bytes:
        limit = f" of {format_size(limits['memory_bytes'])}" if "memory_bytes" in limits else ""
        parts.append(f"{format_size(usage.memory_bytes)}{limit}")
    if usage.cpu_seconds:
        limit = f" on up to {number(limits['cpus'])} processor{'s' * (limits['cpus'] != 1)}" if "cpus" in limits else ""
        parts.append(f"{format_duration(usage.cpu_seconds)} CPU{limit}")
    if usage.processes > 1:
        limit = f" of {number(limits['pids'])}" if "pids" in limits else ""
        parts.append(f"{usage.processes}{limit} processes")
    return ", ".join(parts)


def view_text(view: View, now: float, *, stable: bool = False) -> str:
    """Everything worth knowing, a few lines."""
    lines = [final_line(view, stable=True) if stable else status_line(view, now)]
    lines += [f"  {line}" for line in ([] if stable else bar_lines(view))]
    facts = [] if stable else [("id", view.job_id), ("usage", usage_text(view)), ("peak", peak_text(view))]
    facts += isolation_rows(view.isolation, view.limits, stable=stable) if view.isolation else []
    facts += [("came back", ", ".join(one.name for one in view.returned)), ("cause", view.message)]
    facts += [] if stable else [("stop", receipt_text(view))]
    lines += [f"  {name:<10} {_beside(value)}" for name, value in facts if value]
    lines += [f"  {note.severity:<10} {_beside(note.content)}" for note in view.notes]
    return "\n".join(lines)


def _beside(text: str, columns: int = 13) -> str:
    """Further lines stand below the first, so that what a job says does not look like what is said of it."""
    return text.replace("\n", f"\n{' ' * columns}")


def receipt_text(view: View) -> str:
    """What a stop sent, when, and how many processes were reaped: `SIGINT at once, SIGKILL after 5.0 s`."""
    if view.exit is None or not view.exit.sent:
        return ""
    sent = [f"{one.signal} {_after(one.after_seconds)}" for one in view.exit.sent]
    reaped = view.exit.processes_reaped
    return ", ".join(sent) + (f" · {reaped:,} process{'es' * (reaped != 1)} reaped" if reaped else "")


def _after(seconds: float) -> str:
    return "at once" if seconds < _AT_ONCE else f"after {format_duration(seconds)}"


def peak_text(view: View) -> str:
    """The most memory that was used."""
    return format_size(view.usage.peak_memory_bytes) if view.usage.peak_memory_bytes else ""


def first_line(text: str) -> str:
    """The text up to its first line break."""
    return text.strip().partition("\n")[0]


def _drawn(bar: Bar) -> str:
    if bar.fraction is None:
        return "·" * _BAR_COLUMNS
    eighths = round(bar.fraction * _BAR_COLUMNS * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[part] if part else "")).ljust(_BAR_COLUMNS)
