"""What a failure in a container says more: how the code gets what it could not have."""

from __future__ import annotations

import pytest

from nodetool_jupyter.jobs import Profile
from nodetool_jupyter.notebook.hints import with_hint
from tests.docker.jobs import Jobs


@pytest.mark.parametrize("profile", Profile)
def test_a_package_that_the_image_lacks_can_be_had_in_every_profile(jobs: Jobs, profile: Profile) -> None:
    job, _ = jobs.run("import no_such_package.part", profile=profile)
    assert with_hint(job.message, job.request) == (
        "ModuleNotFoundError: No module named 'no_such_package'. The container has its image's packages, not this "
        "kernel's. Add --requirements no_such_package, or choose an --image that has it."
    )


def test_files_are_passed_to_untrusted_code(jobs: Jobs) -> None:
    job, _ = jobs.run("open('data.csv')", profile=Profile.UNTRUSTED)
    assert with_hint(job.message, job.request).endswith(
        "The untrusted profile sees no files of yours. Pass what the code needs with --in."
    )
