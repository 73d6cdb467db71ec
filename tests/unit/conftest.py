"""Fixtures of the unit tests: the published layouts, laid out once."""

from __future__ import annotations

import pytest
from published import lay_out


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A folder as `--data` wants it; not to be changed."""
    return lay_out(tmp_path_factory.mktemp("published"))
