"""Settings, each with its value and where it came from; the only reader of the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .containers import (
    default_image,
    gpu_ids,
    parse_gpu_devices,
    parse_image,
    parse_network,
    parse_pull,
    parse_user,
)
from .errors import InvalidRequest
from .jobs import JobRequest, Profile
from .quantities import parse_count, parse_duration, parse_number, parse_size, parse_switch, parse_timeout

Parse = Callable[[str, str], Any]
RUNNERS = ("threaded", "subprocess", "docker")


def _text(text: str, what: str) -> str:
    return text.strip()


def _one_of(*words: str) -> Parse:
    def parse(text: str, what: str) -> str:
        if text.strip() not in words:
            raise InvalidRequest(f"{what} {text!r} is not one of {', '.join(words)}.")
        return text.strip()

    return parse


@dataclass(frozen=True)
class Setting:
    """One thing that can be set: its environment variables in order, how text is read, the default."""

    name: str
    variables: tuple[str, ...]
    parse: Parse
    default: Any
    help: str


def usable_cpus() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


_MEMORY_PER_CONTAINER = 1 << 30

SETTINGS: tuple[Setting, ...] = (
    Setting("env", ("ENV",), _text, "development", "`test` keeps jobs in memory; see also noninteractive"),
    Setting(
        "runner",
        ("NODETOOL_RUNNER", "DEFAULT_EXECUTION_STRATEGY", "JOB_EXECUTION_STRATEGY"),
        _one_of(*RUNNERS),
        "threaded",
        "where a cell runs",
    ),
    Setting("profile", ("NODETOOL_PROFILE",), _one_of(*Profile), "default", "how much a job is trusted"),
    Setting("background", ("NODETOOL_BACKGROUND",), parse_switch, False, "cells return at once"),
    Setting("timeout", ("NODETOOL_JOB_TIMEOUT",), parse_timeout, None, "seconds a job may run"),
    Setting("grace", ("NODETOOL_STOP_TIMEOUT",), parse_duration, 5.0, "seconds from the request to stop to SIGKILL"),
    Setting("python", ("NODETOOL_PYTHON",), _text, "", "interpreter of subprocess jobs (the kernel's own)"),
    Setting("progress", ("NODETOOL_PROGRESS",), _one_of("auto", "card", "text", "none"), "auto", "how a job is shown"),
    Setting("noninteractive", ("NODETOOL_NONINTERACTIVE",), parse_switch, None, "stable text, no widgets, cells wait"),
    Setting("thread_pool_size", ("THREAD_POOL_SIZE",), parse_count, None, "threaded jobs at once"),
    Setting("max_workflow_threads", ("MAX_WORKFLOW_THREADS",), parse_count, None, "threaded + subprocess at once"),
    Setting("docker_max_jobs", ("DOCKER_MAX_JOBS",), parse_count, None, "containers at once"),
    Setting("docker_image", ("NODETOOL_DOCKER_IMAGE",), parse_image, default_image(), "image of docker jobs"),
    Setting("docker_pull", ("DOCKER_PULL_POLICY",), parse_pull, "missing", "when an image is fetched"),
    Setting("docker_memory", ("DOCKER_MEMORY_LIMIT", "DOCKER_MEM_LIMIT"), parse_size, None, "memory of docker jobs"),
    Setting("docker_cpus", ("DOCKER_CPU_LIMIT",), parse_number, None, "processors of docker jobs"),
    Setting("docker_pids", ("DOCKER_PIDS_LIMIT",), parse_count, None, "processes of docker jobs"),
    Setting("docker_shm_size", ("DOCKER_SHM_SIZE",), parse_size, None, "shared memory of docker jobs"),
    Setting("docker_user", ("DOCKER_USER",), parse_user, "", "UID[:GID] of docker jobs"),
    Setting("docker_gpus", ("DOCKER_GPU_DEVICES",), parse_gpu_devices, "", "GPUs of docker jobs"),
    Setting("docker_network", ("DOCKER_NETWORK",), parse_network, "none", "network of docker jobs"),
    Setting("database_url", ("NODETOOL_DATABASE_URL",), _text, "", "where jobs are kept (SQLite in Jupyter's folder)"),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}


_OF_CONTAINERS = "docker_"
_ENVIRONMENT = "environment "
_NOTHING = " Nothing was started."


class Settings:
    """Every setting, resolved: this kernel's choices, then traitlets, the environment, the default.

    Raises `InvalidRequest` on construction when a variable can't be read; the sentence names it. What is for
    containers alone is refused where it is asked for: other programs have variables of these names, and most jobs
    are in no container.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        traits: Mapping[str, Any] | None = None,
        chosen: Mapping[str, str] | None = None,
    ) -> None:
        self.environ = dict(os.environ if environ is None else environ)
        self._traits = dict(traits or {})
        self._chosen: dict[str, str] = dict(chosen or {})
        self._unread: dict[str, str] = {}
        self._resolved = self._all_resolved()

    def __getitem__(self, name: str) -> Any:
        """The value. Raises `InvalidRequest` for one of containers that can't be read."""
        if name in self._unread:
            raise InvalidRequest(f"{self._unread[name]} `%nodetool config {name} VALUE` sets another.{_NOTHING}")
        return self._resolved[name][0]

    @property
    def unread(self) -> Mapping[str, str]:
        """Why a setting of containers can't be read, by its name."""
        return self._unread

    def or_default(self, name: str) -> Any:
        """The value, or the default where it can't be read."""
        return self._resolved[name][0]

    def origin(self, name: str) -> str:
        """Where a value came from: "config", "traitlets", "environment NAME" or "default"."""
        return self._resolved[name][1]

    def choose(self, name: str, text: str) -> None:
        """Set a value for this kernel, as `%nodetool config NAME VALUE` does."""
        if name not in BY_NAME:
            raise InvalidRequest(f"There is no setting {name!r}. `%nodetool config` lists them.")
        BY_NAME[name].parse(text, name)
        self._chosen[name] = text
        self._resolved = self._all_resolved()

    def _all_resolved(self) -> dict[str, tuple[Any, str]]:
        self._unread.clear()
        found = {}
        for setting in SETTINGS:
            try:
                found[setting.name] = self._resolve(setting)
            except InvalidRequest as error:
                if not setting.name.startswith(_OF_CONTAINERS):
                    raise
                self._unread[setting.name] = str(error).removesuffix(_NOTHING)
                found[setting.name] = self._default(setting), self._origin(setting)
        return found

    def _origin(self, setting: Setting) -> str:
        if setting.name in self._chosen:
            return "config"
        if self._traits.get(setting.name) is not None:
            return "traitlets"
        given = (variable for variable in setting.variables if self.environ.get(variable, "") != "")
        return next((f"{_ENVIRONMENT}{variable}" for variable in given), "default")

    def _resolve(self, setting: Setting) -> tuple[Any, str]:
        origin = self._origin(setting)
        if origin == "config":
            return setting.parse(self._chosen[setting.name], setting.name), origin
        if origin == "traitlets":
            return setting.parse(str(self._traits[setting.name]), f"c.NodetoolMagics.{setting.name} ="), origin
        if origin != "default":
            variable = origin.removeprefix(_ENVIRONMENT)
            return setting.parse(self.environ[variable], f"Environment variable {variable}:"), origin
        return self._default(setting), origin

    def _default(self, setting: Setting) -> Any:
        if setting.name == "noninteractive":
            return self._resolve(BY_NAME["env"])[0] == "test"
        if setting.name == "thread_pool_size":
            return usable_cpus()
        if setting.name == "max_workflow_threads":
            return 2 * usable_cpus()
        if setting.name == "docker_max_jobs":
            return max(1, min(2 * usable_cpus(), total_memory_bytes() // _MEMORY_PER_CONTAINER))
        return setting.default

    @property
    def test(self) -> bool:
        """Whether `ENV=test`: jobs are kept in memory and cells are noninteractive by default."""
        return bool(self["env"] == "test")

    @property
    def user(self) -> str:
        """Whose jobs these are: JupyterHub's user, else the operating system's."""
        if self.environ.get("JUPYTERHUB_USER"):
            return self.environ["JUPYTERHUB_USER"]
        import getpass

        try:
            return getpass.getuser()
        except (OSError, KeyError):
            return str(os.getuid())

    @property
    def database_url(self) -> str:
        """SQLAlchemy's URL of the store; "" for one in memory."""
        if self["database_url"]:
            return str(self["database_url"])
        return "" if self.test else f"sqlite:///{data_dir() / 'nodetool' / 'jobs.sqlite'}"


def environment() -> dict[str, str]:
    """This process's environment as it is now."""
    return dict(os.environ)


def data_dir() -> Path:
    """Jupyter's data folder."""
    from jupyter_core.paths import jupyter_data_dir

    return Path(jupyter_data_dir())


def runtime_dir() -> Path:
    """Jupyter's runtime folder, private to the user."""
    from jupyter_core.paths import jupyter_runtime_dir

    return Path(jupyter_runtime_dir())


_PASSED = re.compile(
    r"PATH|HOME|USER|LANG|LC_.*|TZ|TMPDIR|VIRTUAL_ENV|CONDA_PREFIX|LD_LIBRARY_PATH|"
    r"(?:https?|no|all|ftp)_proxy|(?:HTTPS?|NO|ALL|FTP)_PROXY|SSL_CERT_.*|REQUESTS_CA_BUNDLE|"
    r"OMP_.*|MKL_.*|OPENBLAS_.*|CUDA_VISIBLE_DEVICES|MPL.*"
)


_MOST_GPUS = 64
_PASSED_INTO_CONTAINERS = {"LANG", "TZ"}


def job_environment(environ: Mapping[str, str], request: JobRequest) -> dict[str, str]:
    """What a job gets of the kernel's environment: an allow-list (trusted: all; a container: next to nothing), then
    what was asked for."""

    if request.runner == "docker":
        passed = [name for name in environ if name in _PASSED_INTO_CONTAINERS]
    elif request.profile is Profile.TRUSTED:
        passed = list(environ)
    else:
        passed = [name for name in environ if _passes(name)]
    advice = _visible_devices(request.container.gpus) if request.runner == "subprocess" else {}
    return {**{name: environ[name] for name in passed}, **advice, **request.env}


@lru_cache(maxsize=1024)
def _passes(name: str) -> bool:
    return _PASSED.fullmatch(name) is not None


def _visible_devices(gpus: str) -> dict[str, str]:
    """What tells CUDA which GPUs to use, where nothing can hold it to them: ids, or the first so many; not for all."""
    ids = gpu_ids(gpus) or tuple(str(number) for number in range(min(int(gpus), _MOST_GPUS) if gpus.isdigit() else 0))
    return {"CUDA_VISIBLE_DEVICES": ",".join(ids)} if ids else {}
