"""Which tasks were added to the stream of a run: at its end, and all before as they were."""

from __future__ import annotations

import pytest

from evertune.runs.run_folder import added_tasks, begin
from evertune.utils.errors import RunFolderError

OLD = {"seed": 0, "data": {"a": "1", "b": "2"}, "model_config": "m"}


@pytest.fixture
def folder(tmp_path):
    begin(tmp_path / "run", OLD)
    return tmp_path / "run"


def test_tasks_at_the_end(folder):
    new = OLD | {"data": {"a": "1", "b": "2", "c": "3"}}
    assert added_tasks(folder, OLD) == [] and added_tasks(folder, new) == ["c"]
    begin(folder, new)
    assert added_tasks(folder, new) == []


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data": {"a": "9", "b": "2", "c": "3"}}, "the samples of 'a' were others"),
        ({"data": {"a": "1", "b": "9", "c": "3"}}, "the samples of 'b' were others"),
        ({"data": {"c": "3", "a": "1", "b": "2"}}, "its task 1 is 'a', that of the stream is 'c'"),
        ({"data": {"b": "2", "a": "1", "c": "3"}}, "its task 1 is 'a', that of the stream is 'b'"),
        ({"data": {"a": "1"}}, "the stream has no 'b' any more"),
        ({"data": {"a": "1", "b": "2", "c": "3"}, "seed": 1}, "seed=0; requested seed=1"),
        ({"data": {"a": "1", "b": "2", "c": "3"}, "model_config": "n"}, "model_config"),
    ],
)
def test_what_is_another_run_all_the_same(folder, other, message):
    with pytest.raises(RunFolderError, match=message):
        added_tasks(folder, OLD | other)
