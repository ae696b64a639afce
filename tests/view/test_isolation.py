"""What held a job in, in words."""

from __future__ import annotations

from typing import Any

import pytest

from nodetool_jupyter import events as ev
from nodetool_jupyter.jobs import ResourceLimits
from nodetool_jupyter.view import View, fold_all, isolation_rows, isolation_text, usage_text, view_html, view_text

GIB = 1 << 30
DETAILS: dict[str, Any] = {
    "image": "python:3.11-slim",
    "image_id": "sha256:739861c863e4ffff",
    "python": "3.11.2",
    "user": "65534:65534",
    "network": "none",
    "read_only": False,
    "mounts": [],
    "profile_limits": {"memory_bytes": 4 * GIB, "cpus": 2},
}
HELD = {"memory_bytes": "container memory", "cpus": "container CPU quota"}


def container(**details: Any) -> ev.Isolation:
    return ev.Isolation(
        runner="docker", profile="default", boundary="container", held=HELD, details={**DETAILS, **details}
    )


@pytest.mark.parametrize(
    ("details", "text"),
    [
        ({}, "container · user 65534 · no network · none of your files"),
        ({"user": "1000:1000"}, "container · user 1000 · no network · none of your files"),
        ({"user": "1000:0"}, "container · user 1000, group 0 (root) · no network · none of your files"),
        ({"user": "0:0"}, "container · user 0 (root) · no network · none of your files"),
        ({"user": "0"}, "container · user 0 (root) · no network · none of your files"),
        ({"network": "nodetool-ab12"}, "container · user 65534 · network bridge · none of your files"),
        ({"network": "lab"}, "container · user 65534 · network lab · none of your files"),
        ({"mounts": ["/a:/b:ro"]}, "container · user 65534 · no network · 1 mount of your files, read-only"),
        ({"mounts": ["/a:/b:ro", "/c:/d"]}, "container · user 65534 · no network · 2 mounts of your files"),
        ({"read_only": True, "gpus": ["0", "2"]},
         "container · user 65534 · no network · none of your files · read-only · GPU 0, 2"),
    ],
)  # fmt: skip
def test_a_container_is_described_by_what_it_keeps_apart(details: dict[str, Any], text: str) -> None:
    assert isolation_text(container(**details)) == text


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], None),
        (["numpy>=2", "pandas"], "numpy>=2, pandas"),
        (["a==1 --hash=sha256:00 --hash=sha256:11", 'b>1; python_version < "4"'], "a==1, b>1"),
        ([f"p{n}" for n in range(9)], "p0, p1, p2, p3, p4, p5 and 3 more"),
    ],
)
def test_packages_that_were_added_to_the_image_are_named_with_the_image_made_of_it(
    lines: list[str], said: str | None
) -> None:
    found = container(requirements=lines, built="sha256:1", built_name="nodetool/built:0123")
    rows = [dict(isolation_rows(found, ResourceLimits(), stable=stable)).get("packages") for stable in (False, True)]
    assert rows == ([f"{said} (nodetool/built:0123)", said] if said else [None, None])


@pytest.mark.parametrize(
    ("isolation", "text"),
    [
        (ev.Isolation(runner="threaded", profile="default", details={"namespace": "shared"}),
         "a thread of the kernel · nothing is kept apart"),
        (ev.Isolation(runner="subprocess", profile="trusted"),
         "a process of its own · your user, your files, your network · profile trusted"),
    ],
)  # fmt: skip
def test_a_place_without_a_boundary_is_said_to_be_none(isolation: ev.Isolation, text: str) -> None:
    assert isolation_text(isolation) == text


def test_every_limit_is_told_with_its_value_and_what_holds_it() -> None:
    rows = dict(isolation_rows(container(), ResourceLimits(cpus=0.5)))
    assert rows["limits"] == "memory 4 GiB (container memory), 0.5 processors (container CPU quota)"
    assert rows["image"] == "python:3.11-slim (739861c863e4), Python 3.11.2"


def test_an_image_that_is_not_there_yet_is_said_so() -> None:
    assert dict(isolation_rows(container(image_id="", python=""), ResourceLimits()))["image"] == (
        "python:3.11-slim (not on this machine yet)"
    )


def test_what_stays_the_same_can_be_told_alone() -> None:
    view = fold_all(View(job_id="1a2b3c"), [ev.stamp(container(), "1", 1, 0.0)])
    assert view_text(view, 0.0, stable=True).splitlines()[1:] == [
        "  isolation  container · user 65534 · no network · none of your files",
        "  image      python:3.11-slim",
        "  limits     memory 4 GiB (container memory), 2 processors (container CPU quota)",
    ]


def test_limits_that_are_not_held_are_named_and_not_counted_as_held() -> None:
    found = ev.Isolation(runner="docker", profile="default", boundary="container", not_held=("pids",), details=DETAILS)
    rows = dict(isolation_rows(found, ResourceLimits(pids=5)))
    assert rows["not held"] == "processes"
    assert "limits" not in rows
    view = fold_all(View(), [ev.stamp(found, "1", 1, 0.0)])
    assert "Not held here: processes." in view_html(view)


def test_usage_is_told_against_the_limits_in_force_whoever_wanted_them() -> None:
    usage = ev.UsageUpdate(memory_bytes=GIB, cpu_seconds=3.2, processes=4)
    view = fold_all(View(), [ev.stamp(container(), "1", 1, 0.0), ev.stamp(usage, "1", 2, 0.0)])
    assert usage_text(view) == "1 GiB of 4 GiB, 3.2 s CPU on up to 2 processors, 4 processes"
    ended = fold_all(view, [ev.stamp(ev.UsageUpdate(peak_memory_bytes=2 * GIB, cpu_seconds=4.0), "1", 3, 0.0)])
    assert usage_text(ended) == "4.0 s CPU on up to 2 processors"
    assert ended.history == (GIB,)


def test_what_the_engine_tells_is_shown_as_text() -> None:
    view = fold_all(View(), [ev.stamp(container(network="<b>lab</b>"), "1", 1, 0.0)])
    assert "network <b>lab</b>" in view_text(view, 0.0)
    assert "<b>" not in view_html(view)
