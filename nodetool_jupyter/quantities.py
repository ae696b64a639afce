"""Sizes and durations as people write them, and back."""

from __future__ import annotations

import math
import re

from .errors import InvalidRequest

LEAST_MEMORY_BYTES = 16 << 20
LEAST_CONTAINER_MEMORY_BYTES = 32 << 20
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SHORT_SECONDS = 0.1
_SECONDS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str, what: str = "size") -> int:
    """Bytes from "512m", "2g", "1.5GiB" or a plain number; powers of 1024, as `docker run` has them."""
    match = _SIZE.fullmatch(text.strip())
    size = float(match[1]) * 1024 ** _POWERS[match[2].lower()] if match else 0.0
    if not 1 <= size < 2**63:
        raise InvalidRequest(f"{what} {text!r} is not a size. Write a number with k, m or g: 512m, 2g.")
    return int(size)


def parse_memory(text: str, what: str = "memory") -> int:
    """Bytes of memory for a job: as `parse_size`, and enough for Python to start."""
    size = parse_size(text, what)
    if size < LEAST_MEMORY_BYTES:
        raise InvalidRequest(
            f"{what} {text!r} is too little for Python to start. Give at least {size_option(LEAST_MEMORY_BYTES)}, or "
            f"{size_option(LEAST_CONTAINER_MEMORY_BYTES)} in a container."
        )
    return size


def parse_duration(text: str, what: str = "duration") -> float:
    """Seconds from "30", "30s", "5m", "1h" or "500ms"; more than zero."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2].lower()] if match else 0.0
    if not 0 < seconds < math.inf:
        why = "not above zero" if match and not seconds else "not a duration"
        raise InvalidRequest(f"{what} {text!r} is {why}. Write seconds or a number with a unit: 30, 30s, 5m.")
    return seconds


def parse_timeout(text: str, what: str = "timeout") -> float | None:
    """As `parse_duration`, or `None` for "none": no limit, whatever else is set."""
    return None if text.strip().lower() == "none" else parse_duration(text, what)


def parse_age(text: str, what: str = "age") -> float:
    """As `parse_duration`, or 0: however new."""
    return 0.0 if text.strip() in ("0", "0s") else parse_duration(text, what)


def parse_number(text: str, what: str = "number") -> float:
    """A fraction above zero, such as 1.5."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InvalidRequest(f"{what} {text!r} is not a number above zero, such as 0.5 or 2.")
    return value


def parse_count(text: str, what: str = "count") -> int:
    """A whole number from 1."""
    if not re.fullmatch(r"[0-9]{1,15}", text.strip()) or int(text.strip()) < 1:
        raise InvalidRequest(f"{what} {text!r} is not a whole number from 1.")
    return int(text.strip())


def parse_switch(text: str, what: str = "switch") -> bool:
    """True or false from 1, true, yes, on and 0, false, no, off."""
    word = text.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off", ""}:
        return False
    raise InvalidRequest(f"{what} {text!r} is neither on nor off. Write 1 or 0.")


def format_size(size: float) -> str:
    """Bytes for a person: "512 MiB", "1.3 GiB"."""
    if size < 1023.5:
        return f"{size:.0f} B"
    units = ["KiB", "MiB", "GiB", "TiB"]
    size /= 1024
    while size >= 1023.95 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.1f}".removesuffix(".0") + f" {units[0]}"


def sizes_apart(one: float, other: float) -> tuple[str, str]:
    """Two sizes for a person, to the byte where they would look the same."""
    short = format_size(one), format_size(other)
    return short if short[0] != short[1] else (f"{one:.0f} bytes", f"{other:.0f} bytes")


def numbers_apart(one: float, other: float) -> tuple[str, str]:
    """Two numbers for a person, in full where they would look the same."""
    short = f"{one:g}", f"{other:g}"
    return short if short[0] != short[1] else (repr(one).removesuffix(".0"), repr(other).removesuffix(".0"))


def size_option(size: float) -> str:
    """Bytes as `--memory` takes them, rounded up: "4g", "768m"."""
    for unit, power in (("g", 3), ("m", 2), ("k", 1)):
        if size >= 1024**power:
            return f"{math.ceil(size / 1024**power)}{unit}"
    return f"{math.ceil(size)}b"


def duration_option(seconds: float) -> str:
    """Seconds as `--timeout` takes them: "20ms", "60s", "10m"."""
    if seconds < _SHORT_SECONDS:
        return f"{1000 * seconds:g}ms"
    return f"{seconds:g}s" if seconds < 120 else f"{round(seconds / 60)}m"


def format_limit(seconds: float) -> str:
    """As `format_duration`, and exact where that would leave nothing: "1 ms"."""
    return f"{1000 * seconds:g} ms" if seconds < _SHORT_SECONDS else format_duration(seconds)


def format_duration(seconds: float) -> str:
    """Seconds for a person: "0.12 s", "12.3 s", "4:10", "1:02:03"."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
