"""The options of `%%nodetool`: declared once, for parsing, help and completion."""

from __future__ import annotations

import argparse
import difflib
import keyword
import shlex
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, TypeVar

import msgspec
from IPython.core.error import UsageError
from IPython.core.magic_arguments import MagicArgumentParser, argument
from msgspec import Struct

from ..config import Settings
from ..containers import ContainerOptions
from ..errors import InvalidRequest, ProfileRefused
from ..jobs import CodeWork, JobRequest, Profile, ResourceLimits
from ..quantities import parse_count, parse_duration, parse_memory, parse_number, parse_size, parse_timeout
from . import container_options

T = TypeVar("T")
AUTO, NONE = "auto", "none"
_DEFAULTS = JobRequest(work=CodeWork(""))

OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("-r", "--runner"), {"metavar": "RUNNER", "help": "where it runs: threaded, subprocess or docker"}),
    (("-i", "--in"), {"metavar": "NAMES", "action": "append", "dest": "inputs",
                      "help": "variables to send: a,b or auto (what the cell reads, the default) or none"}),
    (("-o", "--out"), {"metavar": "NAMES", "action": "append", "dest": "outputs",
                       "help": "variables to bring back: a,b; the last expression always comes back"}),
    (("-b", "--background"), {"action": "store_true", "default": None, "help": "return at once"}),
    (("-t", "--timeout"), {"metavar": "TIME",
                           "help": "stop it after this long: 30, 30s, 5m; none for no limit. Waiting in line and "
                                   "fetching or building an image before the code runs don't count"}),
    (("-m", "--memory"), {"metavar": "SIZE", "help": "memory it may use: 512m, 2g"}),
    (("--cpus",), {"metavar": "N", "help": "processors it may use: 1.5"}),
    (("--pids-limit",), {"metavar": "N", "help": "processes and threads it may have: 256"}),
    (("--python",), {"metavar": "PATH", "help": "another interpreter (subprocess)"}),
    (("--fresh",), {"action": "store_true", "help": "start a new interpreter or container, none that waits"}),
    (("--profile",), {"metavar": "PROFILE", "help": "how much it is trusted: trusted, default or untrusted"}),
    (("-e", "--env"), {"metavar": "K[=V]", "action": "append",
                       "help": "a variable of its environment; K alone: the kernel's value"}),
    (("--env-file",), {"metavar": "FILE", "action": "append", "help": "lines of K=V or K"}),
    (("--secret",), {"metavar": "NAME", "action": "append", "dest": "secrets",
                     "help": "pass the kernel's environment variable NAME without storing or showing its value"}),
    (("--name",), {"metavar": "NAME", "help": "what the job is called"}),
    (("--label",), {"metavar": "K[=V]", "action": "append", "dest": "labels",
                    "help": "a label to find it by; K alone: with no value"}),
    (("--grace",), {"metavar": "TIME", "help": "from the request to stop to the kill: 5s"}),
    (("--job",), {"metavar": "NAME", "help": "bind the job's handle to this name; `_job` is always the last one"}),
    (("--progress",), {"metavar": "HOW", "help": "how it is shown: auto, card, text or none"}),
    (("--max-output",), {"metavar": "SIZE", "help": "output shown in the notebook (1m); `%%nodetool logs` has all"}),
    (("--max-transfer",), {"metavar": "SIZE", "help": "largest value that may travel (1g; untrusted: 32m back)"}),
    (("--no-raise",), {"action": "store_true", "help": "the cell does not fail when the job does"}),
    (("--dry-run",), {"action": "store_true", "help": "show the plan, limits and isolation; start nothing"}),
    (("--best-effort",), {"action": "store_true", "default": None, "help": "run even where a limit can't be held"}),
    *container_options.OPTIONS,
)  # fmt: skip

VALUES: dict[str, tuple[str, ...]] = {
    "--profile": tuple(Profile),
    "--progress": ("auto", "card", "text", "none"),
    "--in": (AUTO, NONE),
    "--timeout": ("30s", "5m", "1h", "none"),
    "--memory": ("512m", "1g", "2g", "4g"),
    "--cpus": ("1", "2"),
    "--grace": ("5s", "30s"),
    **container_options.VALUES,
}
"""Values to complete, beside runners and names, which are only known in the session."""

_LEAST_BEGUN, _LEAST_LIKE = 3, 0.75
_NOT_YET = {"--retries": "retries", "--priority": "priorities"}


def with_options(function: T) -> T:
    """Declare every option on a magic that has `@magic_arguments()` above."""
    for flags, settings in reversed(OPTIONS):
        function = argument(*flags, **settings)(function)  # type: ignore[no-untyped-call]  # IPython's
    return function


def option_parser(name: str) -> MagicArgumentParser:
    """A parser of the same options for a verb, such as `rerun`."""
    parser = MagicArgumentParser(name)  # type: ignore[no-untyped-call]  # IPython's
    for flags, settings in OPTIONS:
        parser.add_argument(*flags, **{**settings, "help": argparse.SUPPRESS})
    return parser


def split(line: str) -> list[str]:
    """The words of a magic's line, one layer of shell quoting stripped. Raises `InvalidRequest`."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InvalidRequest(
            f"The line {line.strip()!r} can't be split into words: {error}. Close the quotation."
        ) from None


def parse(parser: MagicArgumentParser, words: list[str], *, usage: str) -> Namespace:
    """The options given. Raises `InvalidRequest` in one sentence; `usage` names what explains them."""
    parser.allow_abbrev = False
    try:
        found, rest = parser.parse_known_args(words)
    except UsageError as error:
        raise InvalidRequest(
            f"{_sentence(str(error), words, parser)} `{usage}?` lists the options. Nothing was started."
        ) from None
    if rest:
        raise InvalidRequest(_unknown(rest[0], parser, usage))
    return found


def _sentence(message: str, words: list[str], parser: MagicArgumentParser) -> str:
    """argparse's `argument -t/--timeout: expected one argument` as a sentence."""
    what, found, why = message.partition(": ")
    if found and what.startswith("argument "):
        flags = what.removeprefix("argument ").split("/")
        value = next((after for word, after in pairwise(words) if word in flags), "")
        is_option = value.partition("=")[0] in parser._option_string_actions
        if value and not is_option and why == "expected one argument":
            why += f", and {value!r} begins as an option does. Write {flags[-1]}={value} if it is the value"
        return f"Option {'/'.join(flags)}: {why}."
    return f"{message[:1].upper()}{message[1:]}."


def _unknown(word: str, parser: MagicArgumentParser, usage: str) -> str:
    name = word.partition("=")[0]
    if not word.startswith("-"):
        return (
            f"{usage} does not know what {word!r} is for. Options begin with '-', and values with spaces need quotes. "
            f"`{usage}?` lists the options. Nothing was started."
        )
    if name in _NOT_YET:
        return f"Option {name!r} is for {_NOT_YET[name]}, which are not offered yet. Leave it out. Nothing was started."
    near = _near(name.lstrip("-"), [flag for flag in parser._option_string_actions if flag.startswith("--")])
    meant = f" Did you mean {near}?" if near else ""
    return f"There is no option {name!r}.{meant} `{usage}?` lists the options. Nothing was started."


def _near(name: str, flags: list[str]) -> str:
    """The one that was likely meant, "" for none: its beginning was written, or a letter of it wrong."""
    known = {flag.lstrip("-"): flag for flag in flags}
    begun = [other for other in known if len(name) >= _LEAST_BEGUN and other.startswith(name)]
    found = begun if len(begun) == 1 else difflib.get_close_matches(name, known, n=1, cutoff=_LEAST_LIKE)
    return known[found[0]] if found else ""


class Options(Struct, frozen=True):
    """The options of one cell, with settings and defaults filled in.

    inputs: names, or `AUTO`. env: as given, K or K=V.
    """

    runner: str
    profile: Profile
    inputs: tuple[str, ...] | str
    outputs: tuple[str, ...]
    background: bool
    limits: ResourceLimits
    python: str
    fresh: bool
    env: tuple[str, ...]
    env_files: tuple[str, ...]
    secrets: tuple[str, ...]
    name: str
    labels: dict[str, str]
    grace_seconds: float
    job: str
    progress: str
    max_output_bytes: int
    max_transfer_bytes: int | None
    raises: bool
    dry_run: bool
    container: ContainerOptions


def resolve(given: Namespace, settings: Settings) -> Options:
    """What the line says, then what is set. Raises `InvalidRequest` for a value that can't be read."""
    profile = _one_of("--profile", given.profile, settings["profile"])
    shown = showing(given, settings)
    runner = given.runner or settings["runner"]
    return Options(
        runner=runner,
        profile=Profile(profile),
        inputs=_inputs(given.inputs),
        outputs=_names(given.outputs, "--out"),
        background=shown.background,
        limits=_all_limits(given, settings, runner, Profile(profile)),
        python=given.python or (settings["python"] if runner == "subprocess" else ""),
        fresh=given.fresh,
        env=tuple(given.env or ()),
        env_files=tuple(given.env_file or ()),
        secrets=tuple(given.secrets or ()),
        name=given.name or "",
        labels=labels(given.labels or ()),
        grace_seconds=_given(given.grace, parse_duration, "--grace") or settings["grace"],
        job=shown.job,
        progress=shown.progress,
        max_output_bytes=_given(given.max_output, parse_size, "--max-output") or _DEFAULTS.max_output_bytes,
        max_transfer_bytes=_given(given.max_transfer, parse_size, "--max-transfer"),
        raises=shown.raises,
        dry_run=given.dry_run,
        container=_container(given, settings, runner, Profile(profile)),
    )


class Showing(Struct, frozen=True):
    """How a job is shown, and what becomes of the cell: the same for a rerun, whatever else that takes over."""

    progress: str
    background: bool
    raises: bool
    job: str


def showing(given: Namespace, settings: Settings) -> Showing:
    """As `resolve`, of the options that are not the job's own."""
    _check_words(given)
    return Showing(
        progress=_one_of("--progress", given.progress, settings["progress"]),
        background=settings["background"] if given.background is None else given.background,
        raises=not given.no_raise,
        job=_bindable(given.job or ""),
    )


def _one_of(flag: str, given: str | None, chosen: str) -> str:
    word = chosen if given is None else given
    if word not in VALUES[flag]:
        raise InvalidRequest(f"{flag} {word!r} is not one of {', '.join(VALUES[flag])}.")
    return word


def _check_words(given: Namespace) -> None:
    for flag in ("--runner", "--name", "--job", "--python"):
        word = getattr(given, flag.lstrip("-"))
        if word is not None and not word.strip():
            raise InvalidRequest(f"{flag} {word!r} names nothing. Give it a value, or leave it out.")


def _bindable(job: str) -> str:
    if job and not is_name(job):
        raise InvalidRequest(
            f"--job {job!r} is not a name that Python can bind. Take letters, digits and '_', and no keyword."
        )
    return job


def _all_limits(given: Namespace, settings: Settings, runner: str, profile: Profile) -> ResourceLimits:
    asked = limits(given)
    _check_ends(given, asked, profile)
    if given.timeout is None and settings["timeout"]:
        asked = msgspec.structs.replace(asked, wall_seconds=settings["timeout"])
    return container_options.docker_limits(asked, settings) if runner == "docker" else asked


def _check_ends(given: Namespace, asked: ResourceLimits, profile: Profile) -> None:
    if profile is Profile.UNTRUSTED and given.timeout is not None and asked.wall_seconds is None:
        raise ProfileRefused(
            "NT-S03",
            "--timeout none does not go with --profile untrusted. Give it a time, as in --timeout 1h, or use "
            "--profile default. Nothing was started.",
        )


def _container(given: Namespace, settings: Settings, runner: str, profile: Profile) -> ContainerOptions:
    if runner != "docker":
        return container_options.elsewhere(given, runner)
    return container_options.container_options(container_options.container_changes(given), settings, profile)


def limits(given: Namespace) -> ResourceLimits:
    """The limits on the line."""
    return ResourceLimits(
        wall_seconds=_given(given.timeout, parse_timeout, "--timeout"),
        memory_bytes=_given(given.memory, parse_memory, "--memory"),
        cpus=_given(given.cpus, parse_number, "--cpus"),
        pids=_given(given.pids_limit, parse_count, "--pids-limit"),
        shm_bytes=_given(given.shm_size, parse_size, "--shm-size"),
        best_effort=bool(given.best_effort),
    )


def labels(given: Iterable[str]) -> dict[str, str]:
    """`K=V` each, or `K` for an empty value."""
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if not name:
            raise InvalidRequest(f"--label {text!r} has no name. Write --label name=value.")
        found[name] = value
    return found


def changes(given: Namespace, request: JobRequest) -> dict[str, Any]:
    """What `rerun`'s options change about a request: only what was given. Those of containers stand apart."""
    asked = limits(given)
    changed: dict[str, Any] = {"limits": msgspec.structs.replace(request.limits, **asked.asked())}
    if given.timeout is not None:
        changed["limits"] = msgspec.structs.replace(changed["limits"], wall_seconds=asked.wall_seconds)
    if given.best_effort:
        changed["limits"] = msgspec.structs.replace(changed["limits"], best_effort=True)
    plain: Mapping[str, Callable[[], Any]] = {
        "runner": lambda: given.runner,
        "python": lambda: given.python,
        "name": lambda: given.name,
        "profile": lambda: Profile(given.profile) if given.profile in tuple(Profile) else None,
        "grace_seconds": lambda: _given(given.grace, parse_duration, "--grace"),
        "max_output_bytes": lambda: _given(given.max_output, parse_size, "--max-output"),
        "max_transfer_bytes": lambda: _given(given.max_transfer, parse_size, "--max-transfer"),
        "outputs": lambda: _names(given.outputs, "--out") if given.outputs else None,
        "labels": lambda: {**request.labels, **labels(given.labels)} if given.labels else None,
        "secrets": lambda: tuple(dict.fromkeys((*request.secrets, *given.secrets))) if given.secrets else None,
        "fresh": lambda: given.fresh or None,
    }
    for option, unfit in (("--in", given.inputs), ("--dry-run", given.dry_run)):
        if unfit:
            raise InvalidRequest(f"rerun takes no {option}: it runs the same code with the same names. Leave it out.")
    if given.profile and given.profile not in tuple(Profile):
        raise InvalidRequest(f"--profile {given.profile!r} is not one of {', '.join(Profile)}.")
    found = {name: make() for name, make in plain.items()}
    _check_ends(given, asked, found["profile"] or request.profile)
    return {**changed, **{name: value for name, value in found.items() if value is not None}}


def _given(text: str | None, parse_text: Callable[[str, str], T], what: str) -> T | None:
    return None if text is None else parse_text(text, what)


def is_name(text: str) -> bool:
    """Whether code can use it as a variable's name."""
    return text.isidentifier() and not keyword.iskeyword(text)


def _inputs(given: list[str] | None) -> tuple[str, ...] | str:
    if not given or given == [AUTO]:
        return AUTO
    return () if given == [NONE] else _names(given, "--in")


def _names(given: Iterable[str] | None, option: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for text in given or ():
        for name in text.replace(",", " ").split():
            if not is_name(name):
                raise InvalidRequest(f"{option} {name!r} is not a variable's name. Write names with commas: a,b.")
            found[name] = None
    return tuple(found)
