"""Trains and evaluates a learner on a stream: one row of R after each stage, in a resumable folder.

    config.yaml   the resolved configuration          answers/03/gqa.jsonl   written before they are scored
    provenance.json    versions, fingerprints, prompts     matrix.json            R, metrics, cells, cost
    ledger.jsonl  what was finished, append-only      stages/03-gqa/         what the model knew then

The same command again continues after the last finished cell; a finished run answers at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.data import Stream, Task
from evertune.data.task import data_digest
from evertune.metrics.metrics import formulas, metrics_of, reasons_of
from evertune.reporting.held_out import FORMULAS, HeldOut
from evertune.reporting.matrix import Matrix
from evertune.runs.callback import Callback
from evertune.runs.cells import questions_of, wanted_cells, wanted_of_probes
from evertune.runs.feature_needs import settle_features
from evertune.runs.ledger import GONE, finished_cells, read_ledger, without_clock
from evertune.runs.probing import held_out_of, read_text_probe, text_rows
from evertune.runs.run_folder import added_tasks, thinned_stages
from evertune.utils import distributed
from evertune.utils.errors import RunFolderError
from evertune.utils.files import append_jsonl, digest_of_file, write_json

if TYPE_CHECKING:
    from evertune.methods import Method
    from evertune.training.learner import Learner
    from evertune.training.stages import Stage

ALREADY_SOLVED = 50.0
HARDLY_FORGETS = 5.0
FEW_STEPS = 20
"""A run warns below this number of optimizer steps: too few for a new kind of image (docs/service.md)."""


def run_stream(
    learner: Learner,
    stream: Stream,
    *,
    folder: Path,
    header: Mapping[str, Any],
    callback: Callback,
    cells: str = "all",
    keep: str = "all",
    text_probe: bool = False,
) -> Matrix:
    """Train the stages that the methods make of `stream`, evaluate tasks after every stage, and write `matrix.json`.

    Args:
        learner: at its last saved stage.
        stream: its tasks, the known ones first, are the columns of R; its probes are evaluated beside them.
        folder: the run folder.
        header: model, stream, method and seed, as in `matrix.json`.
        callback: gets the events of the run.
        cells: which of R are evaluated, see `wanted_cells`.
        keep: the stages that keep their weights, see `thinning`.
        text_probe: whether the loss on the text probe is measured before and after.
    """
    from evertune.training.thinning import thin

    plan = plan_of(learner, stream)
    refuse_other_history(folder, learner.stages, plan)
    note_stages(folder, learner.stages)
    callback.on_features_settled(str(settle_features(learner, stream, plan)))
    done, left = cells_about(folder, stream.all_tasks), plan[len(learner.stages) :]
    wanted = missing_cells(cells, stream, plan, done)
    _leave_out_thinned(wanted, folder, callback)
    texts, no_text = text_rows(text_probe, learner, folder, last=len(plan), callback=callback)
    note_few_steps(learner, left, callback)
    if left and learner.training.compile:
        callback.on_warning("train.compile: the first steps of the first task compile, which takes a minute or more")
    callback.on_run_begin(
        f"{header['method']} on {header['stream']}, seed {header['seed']}",
        training=[round(learner.training_of(task).epochs * len(task.train)) for task in left],
        answers=sum(len(task.test) for tasks in wanted.values() for task in tasks),
    )
    for number in range(len(plan) + 1):
        if number > len(learner.stages):
            learn_stage(learner, plan[number - 1], number, folder, callback)
        for task in wanted.get(number, ()):
            done[number, task.name] = evaluate_cell(learner, task, number, folder, callback)
        if number in texts:
            read_text_probe(_at(learner, number), number, folder)
        ends = number == len(plan)
        held_out = held_out_of(folder, stream.probes, done, rows=number + 1, finished=ends, no_text=no_text)
        matrix = matrix_of(header, stream, plan, done, learner, rows=number + 1, held_out=held_out)
        write_json(folder / "matrix.json", matrix.to_dict())
        if held_out:
            callback.on_held_out(number, held_out)
        name = plan[number - 1].name if number else "base"
        callback.on_row_end(number, name, matrix.R[number], matrix.tasks)
        thin(folder, keep)
    callback.on_run_end(matrix)
    return matrix


def _leave_out_thinned(wanted: dict[int, list[Task]], folder: Path, callback: Callback) -> None:
    """Take the rows of stages that have no weights any more out of what is wanted."""
    for row in sorted(thinned_stages(folder) & wanted.keys()):
        callback.on_warning(f"row {row} of R is not evaluated: stage {row} was thinned out (stages.keep)")
        del wanted[row]


def missing_cells(
    which: str, stream: Stream, plan: Sequence[Task], done: Mapping[tuple[int, str], Any]
) -> dict[int, list[Task]]:
    """By row, the tasks whose cell is wanted and not there."""
    by_name = {task.name: task for task in stream.all_tasks}
    missing: dict[int, list[Task]] = {}
    stages = [task.name for task in plan]
    columns, probes = ([task.name for task in part] for part in (stream.columns, stream.probes))
    wanted = wanted_cells(which, columns, known=len(stream.known), stages=stages)
    for row, name in (*wanted, *wanted_of_probes(which, probes, last=len(plan))):
        if (row, name) not in done:
            missing.setdefault(row, []).append(by_name[name])
    return missing


def follow_stream(learner: Learner, stream: Stream) -> tuple[Any, ...]:
    """The other processes, while the main one runs the stream; returns the first order about something else."""
    plan = plan_of(learner, stream)
    settle_features(learner, stream, plan)
    by_name = {task.name: task for task in stream.all_tasks}
    while True:
        match order := distributed.receive_command():
            case ("learn", int(number)):
                _at(learner, number - 1).learn(plan[number - 1])
            case ("answer", int(number), str(name)):
                _at(learner, number).answers(by_name[name])
            case ("text", int(number)):
                _at(learner, number).text_losses()
            case _:
                return order


def plan_of(learner: Learner, stream: Stream) -> list[Task]:
    """The training tasks by stage, as the methods make them of the stream's tasks."""
    from evertune.methods import Method
    from evertune.methods.hook_results import stages_by

    plan: list[Task] = list(stream.tasks)
    for method in learner.methods:
        if learner.current and type(method).stages is not Method.stages:
            for (
                task
            ) in stream.known:  # methods see known tasks only before the first stage, and its stages may contain them
                method.on_known_task(task)
        plan = stages_by(method, plan)
    return plan


def refuse_other_history(folder: Path, stages: Sequence[Stage], plan: Sequence[Task]) -> None:
    """Raise if a stage of the folder was trained on something other than the stream's task there."""
    for stage, task in zip(stages, plan, strict=False):
        if stage.task != task.name or stage.data != data_digest(task):
            raise RunFolderError(
                f"{folder}: stage {stage.number} is '{stage.task}', which this stream does not teach there"
                + (" with these data" if stage.task == task.name else "")
                + f". Go back with evertune rollback {folder} --to {stage.number - 1}, or choose another folder "
                "(--out, out=...)"
            )


def more_tasks(folder: Path, methods: Sequence[Method], stream: Stream, identity: Mapping[str, Any]) -> list[str]:
    """The names of the tasks that were appended to the stream of a run, which then continues with them.

    Raises:
        RunFolderError: something else differs, a method makes other stages of more tasks, or a stage was trained on
            something else.
    """
    from evertune.methods import Method
    from evertune.training.stages import saved_stages

    added, stages = added_tasks(folder, identity), saved_stages(folder)
    if not added or not stages:
        return added
    if whole := [method.name for method in methods if type(method).stages is not Method.stages]:
        raise RunFolderError(
            f"{folder}: {whole[0]} teaches all tasks at once, so '{added[0]}' can't be added: choose another folder "
            "(--out, out=...)"
        )
    refuse_other_history(folder, stages, stream.tasks)
    return added


def cells_about(folder: Path, tasks: Sequence[Task]) -> dict[tuple[int, str], dict[str, Any]]:
    """The finished cells, without those of a former task with other questions but the name of one of `tasks`."""
    questions = {task.name: questions_of(task) for task in tasks}
    return {
        key: cell
        for key, cell in finished_cells(folder).items()
        if key[1] not in questions or cell.get("questions") == questions[key[1]]
    }


def note_few_steps(learner: Learner, tasks: Sequence[Task], callback: Callback) -> None:
    """Warn of too short trainings."""
    sizes = [(task.name, learner.training_of(task).steps(len(task.train)), len(task.train)) for task in tasks]
    for warning in few_steps(sizes):
        callback.on_warning(warning)


def few_steps(sizes: Iterable[tuple[str, int, int]]) -> list[str]:
    """Warnings of trainings with too few steps, one for all tasks of equal size.

    Args:
        sizes: task, optimizer steps, samples.
    """
    groups: dict[tuple[int, int], list[str]] = {}
    for task, steps, samples in sizes:
        if steps < FEW_STEPS:
            groups.setdefault((steps, samples), []).append(task)
    return [
        f"{', '.join(tasks)}: {steps} optimizer step{'s' * (steps != 1)} on {samples} samples"
        f"{' each' * (len(tasks) > 1)}, too few to learn much from: raise train.min_steps or train.epochs, "
        "or lower train.batch_size"
        for (steps, samples), tasks in groups.items()
    ]


def _at(learner: Learner, number: int) -> Learner:
    """The learner as it was after stage `number`."""
    if learner.current != number:
        learner.load(number)
    return learner


def learn_stage(learner: Learner, task: Task, number: int, folder: Path, callback: Callback) -> Stage:
    """Learn `task` as stage `number`, and record it in the ledger.

    Raises:
        NotFiniteError: a loss or a gradient is not finite; the ledger lists its samples.
    """
    from evertune.training.gradients import NotFiniteError

    distributed.send_command("learn", number)
    _at(learner, number - 1)
    callback.on_task_begin(number, task)
    try:
        stage = learn_with(learner, task, callback)
    except NotFiniteError as problem:
        about = {"stage": number, "task": task.name, "what": problem.what, "samples": problem.samples}
        append_jsonl(folder / "ledger.jsonl", {"event": "not finite", **about, "time": time.time()})
        raise
    training = learner.training_of(task).as_dict()
    event = {"event": "stage", "stage": number, "task": task.name, "training": training, "time": time.time()}
    append_jsonl(folder / "ledger.jsonl", event)
    callback.on_task_end(stage)
    return stage


def learn_with(learner: Learner, task: Task, callback: Callback) -> Stage:
    """Learn `task`; `callback` gets the events of encoding and training."""
    training = learner.training_of(task)
    effective = training.batch_size * training.gradient_accumulation_steps
    return learner.learn(
        task, on_step=lambda step: callback.on_step_end(step, samples=effective), on_encoded=callback.on_encode
    )


def evaluate_cell(learner: Learner, task: Task, number: int, folder: Path, callback: Callback) -> dict[str, Any]:
    """One cell: answers are written down first, then read back and scored; each row of the file gets its score."""
    from evertune.training.evaluator import score_file, write_answers

    distributed.send_command("answer", number, task.name)
    _at(learner, number)
    callback.on_evaluate_begin(number, task)
    started = time.perf_counter()
    path = folder / "answers" / f"{number:02d}" / f"{task.name}.jsonl"
    write_answers(path, learner.answers(task, on_answered=callback.on_prediction, on_encoded=callback.on_encode))
    score = score_file(path, task)
    cell = {
        "stage": number,
        "task": task.name,
        "questions": questions_of(task),
        "score": score.strict,
        "score_rule": score.rule,
        "relaxed": score.relaxed,
        "standard_error": score.standard_error,
        "n": score.n,
        "answers": str(path.relative_to(folder)),
        **_routing(learner, task, score.experts, score.n),
    }
    record = {"event": "cell", "cell": cell, "sha256": digest_of_file(path), "seconds": time.perf_counter() - started}
    append_jsonl(folder / "ledger.jsonl", record)
    callback.on_evaluate_end(number, task, score.strict)
    return {**cell, "seconds": record["seconds"]}


def _routing(learner: Learner, task: Task, experts: Mapping[str, int], n: int) -> dict[str, Any]:
    """Answers by expert, and the routing accuracy: the percentage for the task's own expert, if there was a choice."""
    own, given = learner.expert_of(task.name), learner.needs_task_id()
    return {
        "task_id": "given" if given else "inferred",
        "experts": experts,
        "own_expert": own,
        "router_accuracy": None if own is None or given else 100 * experts.get(own, 0) / n,
    }


def note_stages(folder: Path, stages: Sequence[Stage]) -> None:
    """Add stages to the ledger that a killed process had saved but not recorded."""
    noted: set[int] = set()
    for row in read_ledger(folder):
        if row["event"] in GONE:
            noted = {number for number in noted if number <= row["to"]}
        if row["event"] == "stage":
            noted.add(row["stage"])
    for stage in stages:
        if stage.number not in noted:
            event = {"event": "stage", "stage": stage.number, "task": stage.task, "time": time.time()}
            append_jsonl(folder / "ledger.jsonl", event)


def matrix_of(
    header: Mapping[str, Any],
    stream: Stream,
    plan: list[Task],
    cells: Mapping[tuple[int, str], dict[str, Any]],
    learner: Learner,
    *,
    rows: int,
    held_out: HeldOut | None = None,
) -> Matrix:
    """The first `rows` rows; None where `cells` has no score. The cells of probes follow those of tasks in each row."""
    tasks, known = [task.name for task in stream.columns], len(stream.known)
    evaluated = [*tasks, *(held_out.probes if held_out else ())]
    kept = [cells[key] for number in range(rows) for name in evaluated if (key := (number, name)) in cells]
    R, relaxed = (
        [[cells.get((number, name), {}).get(score) for name in tasks] for number in range(rows)]
        for score in ("score", "relaxed")
    )
    finished = rows == len(plan) + 1
    return Matrix(
        **header,
        known=tasks[:known],
        tasks=tasks,
        stages=[task.name for task in plan],
        R=R,
        relaxed=relaxed,
        metrics=metrics_of(R, known=known) | (held_out.metrics() if held_out else {}) if finished else {},
        not_computed=reasons_of(R, known=known) | (held_out.not_computed if held_out else {}) if finished else {},
        formulas=formulas(known=known) | (FORMULAS if held_out else {}),
        held_out=held_out,
        warnings=_warnings(learner.methods, R, known) if finished else [],
        cost=_cost(learner, kept),
        cells=[without_clock(cell) for cell in kept],
    )


def _cost(learner: Learner, cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "train_seconds": round(sum(stage.seconds for stage in learner.stages), 2),
        "evaluate_seconds": round(sum(cell["seconds"] for cell in cells), 2),
        "samples_trained": sum(stage.samples for stage in learner.stages),
        "trained_parameters": learner.stages[-1].trained_parameters if learner.stages else 0,
        "stored_bytes": learner.stages[-1].stored_bytes if learner.stages else 0,
        "stages_reused": sum(stage.reused for stage in learner.stages),
    }


def _warnings(methods: Sequence[Method], R: list[list[float | None]], known: int) -> list[str]:
    """Warnings about an uninformative stream: solved before training, or hardly any forgetting by plain tuning."""
    found = []
    new = R[0][known:]
    if solved := sum(score is not None and score >= ALREADY_SOLVED for score in new):
        tasks = "new tasks" if known else "tasks"
        found.append(f"the base model already solves {solved} of {len(new)} {tasks} (>= {ALREADY_SOLVED:.0f})")
    lost = metrics_of(R, known=known)["forgetting"]
    if any(method.about.kind == "baseline" for method in methods) and lost is not None and lost < HARDLY_FORGETS:
        found.append(f"sequential tuning forgets {lost:.1f} points only: this stream can't distinguish methods")
    return found
