"""What a run began with: its configuration as the folder says it, and the format of the folder."""

from __future__ import annotations

import pytest
import yaml

from evertune.runs.run_folder import begin, finished_matrix
from evertune.training.run_origin import FORMAT, read_identity
from evertune.utils.errors import RunFolderError

IDENTITY = {"stream": "toy", "model": "random", "method": "sequential", "data": {"a": "1"}}


def test_the_format_of_a_folder_is_written_and_is_no_setting(tmp_path):
    begin(tmp_path / "run", IDENTITY)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["format"] == FORMAT
    assert read_identity(tmp_path / "run") == IDENTITY


@pytest.mark.parametrize("line", ["", "format: 1\n", "format: 99\n", "format: [1]\n"])
def test_a_folder_of_another_format_is_one_line(tmp_path, line):
    """Folders from before there was a line `format` have other names of settings, metrics and files."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(line + yaml.safe_dump({**IDENTITY, "train": {"accumulate": 2}}))
    for read in (read_identity, lambda place: finished_matrix(place, IDENTITY)):
        with pytest.raises(RunFolderError, match=r"run has the run folder format .*, this version of evertune reads 2"):
            read(folder)
