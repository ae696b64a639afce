"""A plan as text, for `--dry-run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..events import Isolation
from ..quantities import format_size
from ..view import isolation_rows, names_of_limits

if TYPE_CHECKING:
    from .launch import Plan
    from .options import Options


def describe(options: Options, plan: Plan, foreseen: Isolation, holds: Mapping[str, str], *, stable: bool) -> str:
    """What would run where, with what, behind which boundary, under which limits and what holds each."""
    request = plan.request
    sent = [f"{value.name} ({value.type_name}, {format_size(sum(value.sizes))})" for value in plan.parcel.inputs]
    shared = [f"{name} (shared)" for name in plan.inputs] if plan.parcel.namespace is not None else []
    rows = [
        ("runner", request.runner),
        ("profile", request.profile.value),
        ("inputs", ", ".join([*sent, *shared]) or "none"),
        ("not sent", ", ".join(plan.left_out)),
        ("modules", plan.imports.removeprefix("import ")),
        ("outputs", ", ".join([*request.outputs, "the last expression"])),
        ("environment", ", ".join([*request.env, *(f"{name} (secret)" for name in request.secrets)])),
        ("waits", "no" if options.background else "yes"),
        *isolation_rows(foreseen, request.limits, stable=stable),
        ("builds", _built(request.container.requirements)),
        ("pull", request.container.pull if request.runner == "docker" else ""),
        ("can hold", names_of_limits(name for name in holds if name not in foreseen.held)),
    ]
    return "\n".join([*(f"{name:<12}{value}" for name, value in rows if value), "Nothing was started."])


def _built(requirements: tuple[str, ...]) -> str:
    return f"an image with {', '.join(requirements)} from wheels, unless it was built before" if requirements else ""
