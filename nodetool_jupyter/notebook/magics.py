"""`%%nodetool` and `%nodetool`."""

from __future__ import annotations

from typing import Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import magic_arguments
from traitlets import Any as AnyTrait

from ..config import BY_NAME
from .options import parse, resolve, split, with_options
from .requests import nothing_started
from .session import Session

_CELL = "%%nodetool"


def _setting(name: str) -> Any:
    return AnyTrait(None, allow_none=True, help=f"{BY_NAME[name].help}.").tag(config=True)


@magics_class
class NodetoolMagics(Magics):
    """Run cells as jobs, and look after jobs.

    Defaults of `%%nodetool`, which its line and `%nodetool config` override.
    """

    runner = _setting("runner")
    profile = _setting("profile")
    background = _setting("background")
    timeout = _setting("timeout")
    grace = _setting("grace")
    python = _setting("python")
    progress = _setting("progress")
    noninteractive = _setting("noninteractive")
    thread_pool_size = _setting("thread_pool_size")
    max_workflow_threads = _setting("max_workflow_threads")
    database_url = _setting("database_url")
    docker_max_jobs = _setting("docker_max_jobs")
    docker_image = _setting("docker_image")
    docker_pull = _setting("docker_pull")
    docker_memory = _setting("docker_memory")
    docker_cpus = _setting("docker_cpus")
    docker_pids = _setting("docker_pids")
    docker_shm_size = _setting("docker_shm_size")
    docker_user = _setting("docker_user")
    docker_gpus = _setting("docker_gpus")
    docker_network = _setting("docker_network")

    def __init__(self, shell: Any) -> None:
        super().__init__(shell=shell)
        self.session = Session(shell, lambda: {name: getattr(self, name) for name in self.trait_names(config=True)})

    @no_var_expand
    @cell_magic("nodetool")
    @magic_arguments("%nodetool")  # type: ignore[no-untyped-call,untyped-decorator]  # IPython's
    @with_options
    def cell(self, line: str, cell: str) -> None:
        """Run this cell as a job: in a thread of the kernel, in a process or in a container of its own.

        The cell keeps working as a cell: the last expression is shown, plots and `display()` appear, `await`,
        `!commands` and magics work, and it fails when the job fails. Stop it with the interrupt button or
        with Cancel on its card. `_job` is the job's handle. Outside of the kernel, the variables that the
        cell reads are sent along, and those named by --out come back:

            %%nodetool --runner subprocess --memory 2g --out model
            model = train(data)

        A container sees no network and no file of yours; the options marked (docker) open what it needs:

            %%nodetool --runner docker --image python:3.12-slim -v ./data:/data:ro --cpus 2

        `%nodetool` looks after jobs: `%nodetool?`.
        """
        from . import running

        with nothing_started():
            given = parse(type(self).cell.parser, split(line), usage=_CELL)
            options = resolve(given, self.session.settings())
        running.run_cell(self.session, options, cell)

    @no_var_expand
    @line_magic("nodetool")  # type: ignore[arg-type]  # IPython's types know plain functions only
    def line(self, line: str) -> Any:
        """Look after jobs.

        %nodetool jobs [--label k=v]          list them, newest first
        %nodetool status ID                   everything about one
        %nodetool logs ID [-f]                what it wrote; -f goes on until it ends
        %nodetool attach ID                   show it here, and wait for it; an interrupt leaves it running
        %nodetool wait [ID]                   wait for it, or for every job of this kernel; likewise
        %nodetool result ID                   the value of its last expression
        %nodetool cancel ID | --all           stop it
        %nodetool rerun ID [options]          start it anew; options as in %%nodetool
        %nodetool config [NAME VALUE]         the settings, each with where it comes from; or set one
        %nodetool prune [--older-than 7d]     remove old jobs and what dead kernels left behind
        %nodetool doctor                      what works here, and what each runner can hold
        %nodetool doctor --image REF          CUDA, cuDNN and frameworks of an image, beside the driver's

        ID is the beginning of an id, or a name (of the job that runs, else the newest), or -1 for the
        last job, -2 for the one before.
        """
        from . import verbs

        return verbs.run(self.session, split(line))
