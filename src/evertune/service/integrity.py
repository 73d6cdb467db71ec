"""`evertune doctor RUN`: verifies all files of a run folder, and repairs what can be made again.

All checksums are verified: of stages, answers and stored images. `repair` makes only broken parts again: a stage is
retrained from the one before it, a cell is re-evaluated, and everything else stays unchanged.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.assets import Progress
from evertune.data import Stream, Task
from evertune.data.images import MOST_BYTES
from evertune.models.adapters import bare
from evertune.models.readable import readable
from evertune.reporting.matrix import Matrix
from evertune.runs.api import config_of, open_run, run_config
from evertune.runs.callback import Callback
from evertune.runs.config import RunConfig
from evertune.runs.forgetting import half_forgotten
from evertune.runs.inputs import OWN
from evertune.runs.ledger import GONE, cells_of, finished_cells, ledger_row, read_ledger
from evertune.runs.provenance import write_provenance
from evertune.runs.run_data import data_of
from evertune.runs.run_folder import still_holds
from evertune.runs.runner import evaluate_cell, learn_with, plan_of
from evertune.runs.unchecked import complaints
from evertune.training.eval_set import is_kept, kept_task
from evertune.training.image_store import FOLDER as KEPT
from evertune.training.image_store import IMAGES, keep_images
from evertune.training.learner import Learner
from evertune.training.run_origin import origin_of
from evertune.training.stages import (
    AFTER,
    DONE,
    FILES,
    LOG,
    SUMS,
    THINNED,
    link_of,
    load_stage,
    number_of,
    read_stage,
    refuse_foreign,
    sealed,
    stage_folder,
    stage_folders,
    verify,
)
from evertune.training.states import read_tensors, split_state
from evertune.utils.distributed import refuse_several
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import append_jsonl, has_digest, read_json, read_text, write_atomically
from evertune.utils.locks import alone
from evertune.utils.parsing import json_value, written_lines
from evertune.utils.regular_files import MOST_TEXT
from evertune.utils.safe_names import below, is_name
from evertune.utils.symlinks import described, links_below, refuse_links
from evertune.utils.temporary_files import leftovers, sweep

IMAGE_NAME = re.compile(r"[0-9a-f]{64}(\.\w{1,8})?")


@dataclass(frozen=True, slots=True)
class Finding:
    """A damaged or missing part of a run folder.

    Attributes:
        path: the file, or the folder.
        what: the problem.
        remedy: the action of `--repair`; empty if there is none.
        stage: of a broken stage, its number; else None.
        cell: of a broken cell, its stage and task; else None.
    """

    path: Path
    what: str
    remedy: str
    stage: int | None = None
    cell: tuple[int, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"path": str(self.path), "what": self.what, "remedy": self.remedy}


def examine(folder: Path) -> list[Finding]:
    """All problems of a run folder; empty if there are none. If it contains links, only those are reported.

    Raises:
        RunFolderError: it is no run folder, or its `config.yaml` is damaged, so that nothing can be verified.
    """
    config = config_of(folder)
    if links := links_below(folder):
        return [Finding(path, described(path), "") for path in links]  # their targets are not examined
    parts = (
        _provenance(folder),
        _ledger(folder),
        _stages(folder, config),
        _cells(folder),
        _matrix(folder),
    )
    found = [finding for part in (*parts, _kept(folder, config)) for finding in part]
    found += [Finding(path, what, "") for path, what in (*complaints(folder), *half_forgotten(folder))]
    return found + [Finding(path, "was left by a process that was killed", "removed") for path in leftovers(folder)]


def _provenance(folder: Path) -> Iterator[Finding]:
    try:
        read_json(folder / "provenance.json")
    except RunFolderError as problem:
        yield Finding(folder / "provenance.json", _message(problem), "written again, with the current versions")


def _ledger(folder: Path) -> Iterator[Finding]:
    path = folder / "ledger.jsonl"
    for number in _damaged_lines(path):
        yield Finding(path, f"line {number} is damaged", "the line is removed, its cell is evaluated again")


def _damaged_lines(path: Path) -> list[int]:
    return [number for number, row in _read_rows(path) if row is None]


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Number and event of each line of a ledger; None for a damaged one."""
    text = read_text(path, errors="replace") if path.exists() else ""
    return ((number, ledger_row(line)) for number, line in written_lines(text))


def _stages(folder: Path, config: RunConfig) -> Iterator[Finding]:
    again = "" if config.stream == OWN else "trained again from the stage before it"
    places, origin = stage_folders(folder), _origin(folder)
    before: str | None = ""
    done = {number_of(place): place for place in places if (place / DONE).exists()}
    for place in places:
        if not (place / DONE).exists():
            later = max(done, default=0) > number_of(place)
            remedy = again if later else "removed; the same command again teaches it"
            yield Finding(place, "was never finished", remedy, stage=number_of(place) if later else None)
    for number in range(1, max(done, default=0) + 1):
        if number not in {number_of(place) for place in places}:
            yield Finding(folder / "stages" / f"{number:02d}-...", "is missing", again, stage=number)
        elif number in done and (wrong := _wrong_with(folder, done[number], origin, before)):
            can_be = not (number - 1 in done and (done[number - 1] / THINNED).exists())
            yield Finding(wrong[0], wrong[1], again if can_be else "", stage=number)
            before = None  # the next one can be verified only after this one has been trained again
            continue
        before = link_of(sealed(done[number] / DONE)) if number in done else None


def _origin(folder: Path) -> dict[str, str]:
    try:
        return origin_of(folder)
    except RunFolderError:  # the provenance is damaged, which is a separate finding
        return {}


def _wrong_with(folder: Path, place: Path, origin: Mapping[str, str], before: str | None) -> tuple[Path, str] | None:
    """The damaged file of a finished stage, and its problem."""
    try:
        content = sealed(place / DONE)
        refuse_foreign(place, content, origin=origin, before=before)
        written = content.get(SUMS, {})
        gone = FILES if (place / THINNED).exists() else ()
        for file in written if isinstance(written, dict) else ():
            if not is_name(file):
                raise RunFolderError(f"{place / DONE} names the file {file!r:.80}, which is none of a stage")
            if file not in gone:
                verify(place, file)
        for held in () if gone else split_state(load_stage(folder, read_stage(place))[1]).held:
            dict(held)  # loading verifies it
    except UserError as problem:
        named = [path for path in place.iterdir() if str(path) in str(problem)]
        return (named or [place / LOG if str(place / LOG) in str(problem) else place])[0], _message(problem)
    return None


def _message(problem: Exception) -> str:
    """The problem in an error message, without the file's name and the advice."""
    first = str(problem).split(". Run evertune doctor")[0]
    return " ".join(word for word in first.split(" ") if "/" not in word)


def _cells(folder: Path) -> Iterator[Finding]:
    whole = finished_cells(folder) if not _damaged_lines(folder / "ledger.jsonl") else {}
    for key, row in _noted(folder).items():
        path = below(folder, row["cell"]["answers"])
        if has_digest(path, row["sha256"], most=MOST_TEXT):
            continue
        what = "were changed: their checksum is not the one written down" if path.exists() else "are missing"
        if key not in whole:
            yield Finding(path, what, "evaluated again", cell=key)


def _noted(folder: Path) -> Mapping[tuple[int, str], Mapping[str, Any]]:
    """The last valid row of each cell, from the readable lines."""
    return cells_of(_rows(folder))


def _matrix(folder: Path) -> Iterator[Finding]:
    path = folder / "matrix.json"
    if not path.exists():
        return
    try:
        matrix = Matrix.read(folder)
        if matrix.finished and not _damaged_lines(folder / "ledger.jsonl") and not still_holds(folder, matrix):
            yield Finding(path, "says other things than stages and answers do", "made again from them")
    except RunFolderError as problem:
        yield Finding(path, _message(problem), "made again from the answers")


def _kept(folder: Path, config: RunConfig) -> Iterator[Finding]:
    """Findings in the evaluation sets of a model in service."""
    again = "" if config.stream == OWN else "copied again from the stream"
    for path in sorted((folder / KEPT).glob("*.json")):
        try:
            kept_task(folder, path.stem)
        except RunFolderError as problem:
            yield Finding(path, _message(problem), again)
    for image in sorted((folder / KEPT / IMAGES).glob("*")):
        if not image.name.startswith(".") and image.is_file() and not has_digest(image, image.stem, most=MOST_BYTES):
            yield Finding(image, "was changed: it is not the image of its name", again)
    for name in sorted(images_named(folder)):
        if not (folder / KEPT / IMAGES / name).exists():
            yield Finding(folder / KEPT / IMAGES / name, "is missing", again)


def images_named(folder: Path) -> set[str]:
    """The stored images that readable tasks and stages refer to."""
    named: set[str] = set()
    for path in (folder / KEPT).glob("*.json"):
        with suppress(RunFolderError):
            named.update(_images_in(read_json(path)))
    for place in stage_folders(folder):
        with suppress(RunFolderError, KeyError, ValueError):
            refuse_foreign(place, sealed(place / DONE), origin=_origin(folder), before=None)
            named.update(_images_in(json_value(read_tensors(place / FILES[1], only=())[1]["state"])))
    return named


def _images_in(value: Any) -> Iterator[str]:
    """Names of stored images anywhere in a value (`Sample.to_row`)."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        if key in ("image", "images"):
            texts = inner if isinstance(inner, list) else [inner]
            yield from (text for text in texts if isinstance(text, str) and IMAGE_NAME.fullmatch(text))
        yield from _images_in(inner)


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What `repair` found, and the problems that remain."""

    found: list[Finding]
    left: list[Finding]


def repair(
    folder: Path, *, data: str | None = None, callback: Callback | None = None, progress: Progress | None = None
) -> RepairResult:
    """Make only the broken parts of a run folder again.

    Args:
        folder: of a run, or of a model in service.
        data: where the folders of published data sets are, as for `run`.
        callback: gets the events of training and evaluation.
        progress: called during downloads.

    Raises:
        RunFolderError: it is no run folder, or another process works in it.
        DataError: the stream's data have changed, so that a stage can't be trained again.
    """
    refuse_several("doctor")
    refuse_links(folder)
    config = config_of(folder).model_copy(update={"data": data, "out": str(folder)})
    callback = callback or Callback()
    with alone(folder):
        found = examine(folder)
        cells = _lost_cells(folder) | {finding.cell for finding in found if finding.cell}
        _remove(folder, found)
        stream = None if config.stream == OWN or not found else data_of(config, progress=progress)
        if stream is not None and config.skip_invalid:
            stream = readable(stream, bare(open_run(folder, upto=0, progress=progress).lmm), skip_invalid=True)
        if not (folder / "provenance.json").exists():
            lmm = bare(open_run(folder, upto=0, progress=progress).lmm)
            write_provenance(folder, lmm, stream or Stream(OWN, tasks=()))
        if stream is not None:
            _copy_again(folder, {f.path.stem for f in found if f.path.parent == folder / KEPT / IMAGES}, stream)
        for number in sorted(finding.stage for finding in found if finding.stage and finding.remedy):
            _teach_again(folder, number, stream, callback, progress)
        if cells and not any(finding.stage and not finding.remedy for finding in found):
            _ask_again(folder, sorted(cells), stream, callback, progress)
    if stream is not None and found and _is_complete(folder, stream, progress):
        run_config(config, callback=callback, progress=progress)
    return RepairResult(found, examine(folder))


def _copy_again(folder: Path, lost: set[str], stream: Stream) -> None:
    """Restore changed or missing images from the data of the stream, by their SHA-256."""
    for task in stream.all_tasks if lost else ():
        for sample in (*task.train, *task.test):
            if lost & set(sample.image_digests):
                keep_images(folder, sample)


def _lost_cells(folder: Path) -> set[tuple[int, str]]:
    """Cells that the matrix has and no readable line of the ledger."""
    try:
        named = {(cell["stage"], cell["task"]) for cell in Matrix.read(folder).cells}
    except RunFolderError:
        return set()
    number = max((number_of(place) for place in stage_folders(folder)), default=0)
    gone_back = any(row.get("event") in GONE for row in _rows(folder))
    return set() if gone_back else {key for key in named - set(_noted(folder)) if key[0] <= number}


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [row for _, row in _read_rows(folder / "ledger.jsonl") if row is not None]


def _remove(folder: Path, found: list[Finding]) -> None:
    """Delete small broken files; a broken stage stays until it is trained again."""
    sweep(folder)
    rows = _rows(folder)
    if _damaged_lines(folder / "ledger.jsonl"):
        write_atomically(folder / "ledger.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    for finding in found:
        if finding.remedy and finding.stage is None and finding.path.is_file() and finding.path.suffix != ".jsonl":
            finding.path.unlink()
        if finding.remedy and finding.stage is None and finding.path.parent.name == "stages":
            for path in finding.path.iterdir():
                path.unlink()
            finding.path.rmdir()


def _teach_again(
    folder: Path, number: int, stream: Stream | None, callback: Callback, progress: Progress | None
) -> None:
    """Train a stage from the one before it, and note whether it is bit-identical."""
    assert stream is not None
    learner = open_run(folder, upto=number - 1, known=stream.known, progress=progress)
    plan = plan_of(learner, stream)
    if number > len(plan):
        raise RunFolderError(
            f"{folder}: stage {number} was trained by evertune learn and can't be trained again: run "
            f"evertune rollback {folder} --to {number - 1}, then evertune learn with its data"
        )
    task = plan[number - 1]
    wanted = _link_wanted(folder, number)
    callback.on_task_begin(number, task)
    stage = learn_with(learner, task, callback)
    callback.on_task_end(stage)
    same = None if wanted is None else wanted == link_of(sealed(stage_folder(folder, number, task.name) / DONE))
    append_jsonl(folder / "ledger.jsonl", {"event": "repair", "stage": number, "same": same, "time": time.time()})
    if same is False and any(number_of(path) > number for path in stage_folders(folder)):
        raise RunFolderError(
            f"{folder}: stage {number} was trained again, but is not bit-identical: another machine or other versions "
            f"({folder / 'provenance.json'}). Later stages rest on the lost one; to have them again too, go back with "
            f"evertune rollback {folder} --to {number} and run the same command"
        )


def _link_wanted(folder: Path, number: int) -> str | None:
    """`link_of` a stage as originally written, from the stage after it or its own file; None if neither has it."""
    places, origin = {number_of(place): place for place in stage_folders(folder)}, _origin(folder)
    for place in (places[n] for n in (number + 1, number) if n in places):
        with suppress(RunFolderError):
            content = sealed(place / DONE)
            refuse_foreign(place, content, origin=origin, before=None)
            return link_of(content) if place is places.get(number) else str(content[AFTER])
    return None


def _ask_again(
    folder: Path,
    cells: list[tuple[int, str]],
    stream: Stream | None,
    callback: Callback,
    progress: Progress | None,
) -> None:
    learner = open_run(folder, known=stream.known if stream else (), progress=progress)
    tasks: dict[str, Task] = {task.name: task for task in stream.all_tasks} if stream else {}
    for number, name in cells:
        task = tasks.get(name) or (kept_task(folder, name) if is_kept(folder, name) else None)
        if task and number <= len(learner.stages):
            evaluate_cell(learner, task, number, folder, callback)


def _is_complete(folder: Path, stream: Stream, progress: Progress | None) -> bool:
    """Whether all stages of a run's stream were trained: then it has a matrix."""
    learner: Learner = open_run(folder, known=stream.known, progress=progress)
    return len(learner.stages) >= len(plan_of(learner, stream)) and bool(read_ledger(folder))
