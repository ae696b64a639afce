"""What a failure in a container says more: how the code gets what it could not have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodetool_jupyter.containers import Bind, ContainerOptions
from nodetool_jupyter.events import JobUpdate
from nodetool_jupyter.jobs import Profile
from nodetool_jupyter.notebook.hints import with_hint
from tests.docker.jobs import Jobs
from tests.workflows.seeing import of, text


@pytest.mark.parametrize("profile", Profile)
def test_a_package_that_the_image_lacks_can_be_had_in_every_profile(jobs: Jobs, profile: Profile) -> None:
    job, _ = jobs.run("import no_such_package.part", profile=profile)
    assert with_hint(job.message, job.request) == (
        "ModuleNotFoundError: No module named 'no_such_package'. The container has its image's packages, not this "
        "kernel's. Add --requirements no_such_package, or choose an --image that has it."
    )


def test_a_module_of_ones_own_is_shown_and_not_fetched_from_strangers(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ntj_own.py").write_text("def double(n):\n    return 2 * n\n")
    monkeypatch.syspath_prepend(tmp_path)
    bind = Bind(f"{tmp_path}/ntj_own.py", "/job/ntj_own.py", True)
    shown = f"{bind.source}:{bind.target}:ro"
    said = f"'ntj_own' is a module of yours, which the container doesn't see; show it with -v {shown}."
    assert hinted(jobs, "import ntj_own") == f". {said}"
    unreadable = "Input 'double' can't be read in the job: its Python has no module 'ntj_own'"
    told = with_hint(f"{unreadable}. Install it there (…)", jobs.run("1")[0].request)
    assert told == f"{unreadable}. {said}"
    strange = unreadable.replace("ntj_own", "no_such_thing")
    assert "Add --requirements no_such_thing, choose" in with_hint(
        f"{strange}. Install it there", jobs.run("1")[0].request
    )
    _, events = jobs.run("import ntj_own\nntj_own.double(4)", container=ContainerOptions(binds=(bind,)))
    assert of(events, JobUpdate)[-1].status == "completed"


def test_files_are_passed_to_untrusted_code(jobs: Jobs) -> None:
    job, _ = jobs.run("open('data.csv')", profile=Profile.UNTRUSTED)
    assert with_hint(job.message, job.request).endswith(
        "The untrusted profile sees no files of yours. Pass what the code needs with --in."
    )


def hinted(jobs: Jobs, code: str, **fields: object) -> str:
    """How a job's failure is told; its own words are left out."""
    job, events = jobs.run(code, **fields)
    said = with_hint(job.message, job.request, of(events, JobUpdate)[-1].traceback or "")
    return said.removeprefix(job.message)


def test_a_file_is_offered_only_where_it_is_and_a_command_is_the_images_to_have(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.csv").touch()
    Path("nosuchcmd").touch()
    shown = ". A container sees none of this machine's files; show it this one with -v "
    assert hinted(jobs, "open('nothing.csv')") == ""
    assert hinted(jobs, "open('here.csv')") == f"{shown}./here.csv:/job/here.csv:ro."
    for profile in (Profile.DEFAULT, Profile.UNTRUSTED):
        assert hinted(jobs, "import subprocess\nsubprocess.run(['nosuchcmd'])", profile=profile) == (
            ". The image lacks 'nosuchcmd'. Choose an --image that has it."
        )
    own = f"{tmp_path}/nosuchcmd"
    assert hinted(jobs, f"import subprocess\nsubprocess.run([{own!r}])") == f"{shown}{tmp_path}:{tmp_path}:ro."
    after = "import subprocess\ntry:\n    subprocess.run(['nosuchcmd'])\nexcept OSError:\n    open('here.csv')"
    assert hinted(jobs, after) == f"{shown}./here.csv:/job/here.csv:ro."


def test_a_shown_folder_that_the_jobs_user_may_not_write_to_is_told_with_its_owner(jobs: Jobs, tmp_path: Path) -> None:
    for folder, owner in (("yours", 1000), ("yours/below", 1001), ("roots", 0)):
        (tmp_path / folder).mkdir(mode=0o755)
        os.chown(tmp_path / folder, owner, owner)
    tmp_path.chmod(0o755)
    binds = (Bind(str(tmp_path / "yours"), "/data"), Bind(str(tmp_path / "roots"), "/data/roots"))
    for path, owner in (("out.csv", 1000), ("below/out.csv", 1001)):
        place = (tmp_path / "yours" / path).parent
        assert hinted(jobs, f"open('/data/{path}', 'w')", container=ContainerOptions(binds=binds[:1])) == (
            f". The job runs as user 65534, unless the image names one, and {place} belongs to {owner}:{owner}. "
            f"Add --user {owner}:{owner}, or let the job's user go there with chown or chmod."
        )
    options = ContainerOptions(binds=binds[1:], user="1000:1000")
    assert hinted(jobs, "open('/data/roots/out.csv', 'w')", container=options) == (
        f". The job runs as user 1000:1000, and {tmp_path}/roots belongs to 0:0. "
        "Let the job's user go there with chown or chmod, or show a folder of yours, with --user UID:GID."
    )


def test_what_is_the_notebooks_is_told_to_be_there(jobs: Jobs) -> None:
    job, _ = jobs.run("from nodetool_jupyter import progress, run")
    assert with_hint(job.message, job.request) == (
        "ImportError: nodetool_jupyter.run is for the notebook. Jobs are started there, not from within a job, which "
        "has progress, output, cancelled, fed, save."
    )
    assert hinted(jobs, "import nodetool_jupyter.notebook") == (
        ". Jobs are started from the notebook, not from within a job."
    )


def test_commands_run_in_an_image_without_ipython_and_a_magic_is_told_with_the_containers_remedy(jobs: Jobs) -> None:
    code = "get_ipython().system('echo {6 * 7}; pwd')\nlines = get_ipython().getoutput('id -u')\n"
    job, events = jobs.run(code + "print(lines, _exit_code)\nget_ipython().run_line_magic('time', '1')")
    assert text(events) == "42\n/job\n['65534'] 0\n"
    assert job.message.endswith(
        "This cell uses %time, and IPython is not installed in its container. "
        "Add --requirements ipython, choose an --image that has it, or use plain Python."
    )
