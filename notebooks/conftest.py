"""The notebooks run as they were saved: without widgets, and with a store of their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from nbval import plugin

from tests.components import require
from tests.engine.fixtures import make_image_ahead
from tests.engine.images import DEFAULT
from tests.engine.shared import shared_engine

# the tests measure what is covered; nbval's own way of doing so in the notebook's kernel fails with warnings as errors
plugin.setup_coverage = plugin.teardown_coverage = lambda *_, **__: None

IN_CONTAINERS = {"03-containers.ipynb"}
"""Notebooks that need a Docker engine, and show its containers beside bubblewrap."""

_data = tempfile.TemporaryDirectory(prefix="ntj-notebooks-")


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.option.collectonly and any(item.path.name in IN_CONTAINERS for item in session.items):
        make_image_ahead()


@pytest.hookimpl(wrapper=True, trylast=True)  # inside of what pytest itself prepares, so that a skip finds it
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """A notebook's kernel starts while its first cell is set up, and takes this environment."""
    found = {"DOCKER_HOST": f"unix://{_data.name}/no-engine.sock"}  # never the person's own
    if item.path.name in IN_CONTAINERS:
        require("bubblewrap", shutil.which("bwrap"), "apt-get install bubblewrap")
        found = {**shared_engine(item.config).environ, "NODETOOL_DOCKER_IMAGE": DEFAULT}
    with patch.dict(os.environ, NODETOOL_NONINTERACTIVE="1", JUPYTER_DATA_DIR=_data.name, **found):
        return (yield)


def pytest_unconfigure() -> None:
    """Remove the store."""
    _data.cleanup()
