"""The notebooks run as they were saved: without widgets, and with a store of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from nbval import plugin

# the tests measure what is covered; nbval's own way of doing so in the notebook's kernel fails with warnings as errors
plugin.setup_coverage = plugin.teardown_coverage = lambda *_, **__: None

_data = tempfile.TemporaryDirectory(prefix="ntj-notebooks-")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Iterator[None]:
    """A notebook's kernel starts while its first cell is set up, and takes this environment."""
    with patch.dict(os.environ, NODETOOL_NONINTERACTIVE="1", JUPYTER_DATA_DIR=_data.name):
        return (yield)


def pytest_unconfigure() -> None:
    """Remove the store."""
    _data.cleanup()
