"""A plan as text, for `--dry-run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..quantities import format_duration, format_size

if TYPE_CHECKING:
    from .launch import Plan
    from .options import Options

_AMOUNTS = {"memory_bytes": format_size, "wall_seconds": format_duration}


def describe(options: Options, plan: Plan, holds: Mapping[str, str]) -> str:
    """What would run where, with what, under which limits and what holds each."""
    request = plan.request
    sent = [f"{value.name} ({value.type_name}, {format_size(sum(value.sizes))})" for value in plan.parcel.inputs]
    shared = [f"{name} (shared)" for name in plan.inputs] if plan.parcel.namespace is not None else []
    limits = request.limits.asked()
    rows = [
        ("runner", request.runner),
        ("profile", request.profile.value),
        ("inputs", ", ".join([*sent, *shared]) or "none"),
        ("modules", plan.imports.removeprefix("import ")),
        ("outputs", ", ".join([*request.outputs, "the last expression"])),
        ("environment", ", ".join([*request.env, *(f"{name} (secret)" for name in request.secrets)])),
        ("waits", "no" if options.background else "yes"),
        *(
            ("limit", f"{name} {_AMOUNTS.get(name, '{:g}'.format)(value)}, {holds.get(name, 'not held here')}")
            for name, value in limits.items()
        ),
        *(("can hold", f"{name}: {how}") for name, how in sorted(holds.items()) if name not in limits),
    ]
    return "\n".join([*(f"{name:<12}{value}" for name, value in rows if value), "Nothing was started."])
