"""What a run says about routing: the task's own expert, how often it was found, and whether the task was told."""

from __future__ import annotations

import pytest

from evertune.data import Stream
from evertune.methods import make_methods
from evertune.methods.base import BASE
from evertune.reporting.page import write_report
from evertune.runs.callback import Callback
from evertune.runs.runner import run_stream
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import UserError


@pytest.fixture
def run(lmm, tasks, tmp_path):
    def run(spec="eproj", **options):
        learner = Learner(
            lmm,
            make_methods(spec, {"eproj": options} if options else {}),
            folder=tmp_path / "run",
            training=Training(learning_rate=1e-2),
            max_new_tokens=2,
        )
        header = {"model": "random", "stream": "toy", "method": spec, "seed": 0}
        stream = Stream("toy", tuple(tasks), {})
        matrix = run_stream(learner, stream, folder=tmp_path / "run", header=header, callback=Callback())
        return learner, {(cell["stage"], cell["task"]): cell for cell in matrix.cells}

    return run


def test_cells_count_what_the_router_got_right(run, tmp_path):
    _, cells = run()
    for (stage, task), cell in cells.items():
        assert cell["task_id"] == "inferred"
        if stage <= int(task[-1]):
            assert cell["own_expert"] is None and cell["router_accuracy"] is None, "not learned yet"
        else:
            assert cell["own_expert"] == task
            assert cell["router_accuracy"] == 100 * cell["experts"].get(task, 0) / cell["n"]
    assert cells[1, "task-0"]["router_accuracy"] == 100
    right = sum(cells[3, f"task-{n}"]["experts"].get(f"task-{n}", 0) for n in range(3))
    page = write_report([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert f"was chosen for {right} of 12" in page


def test_a_reused_expert_is_right_for_all_tasks_it_serves(run, tmp_path):
    _, cells = run(expand="when-dissimilar", threshold=0.0)
    assert cells[3, "task-2"]["own_expert"] == "task-0" and cells[3, "task-2"]["router_accuracy"] == 100
    page = write_report([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "was chosen for 12 of 12" in page and page.count('class="own"') == 3


def test_the_oracle_says_that_it_was_told(run, tasks, tmp_path):
    learner, cells = run(routing="oracle")
    assert {cell["task_id"] for cell in cells.values()} == {"given"}
    assert {cell["router_accuracy"] for cell in cells.values()} == {None}
    assert cells[1, "task-1"]["experts"] == {BASE: 4} and cells[2, "task-1"]["experts"] == {"task-1": 4}
    assert cells[1, "task-1"]["score"] == cells[0, "task-1"]["score"]
    page = write_report([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "received the task" in page and "was chosen for" not in page
    image = tasks[0].test[0].images[0]
    with pytest.raises(UserError, match="say which it is"):
        learner.ask(image, "colour?")
    assert learner.ask(image, "colour?", task="task-1").expert == "task-1"


def test_without_experts_there_is_nothing_to_route(run):
    _, cells = run("sequential")
    assert {cell["task_id"] for cell in cells.values()} == {"inferred"}
    assert all(cell["own_expert"] is None and cell["router_accuracy"] is None for cell in cells.values())
