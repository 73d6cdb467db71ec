"""The model that remembers, for a program: `Learner` in a folder that the commands open, too.

    learner = evertune.Learner(evertune.load_lmm("tiny-aligned"), "replay", folder="my-model")
    learner.learn(task)
    learner.evaluate(task).strict
    learner.ask(image, "what is this?").text

`evertune ask my-model ...`, `check`, `learn`, `serve` and `rollback` continue from here.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from evertune.data import Stream, Task
from evertune.methods import Method, make_methods
from evertune.runs.api import config_of, configure, model_description, model_of, resolved
from evertune.runs.callback import Callback
from evertune.runs.config import learner_arguments
from evertune.runs.inputs import OWN, Inputs, methods_of, refuse_no_task, training_settings
from evertune.runs.plugin_code import code_of_run, refuse_other_code
from evertune.runs.provenance import write_provenance
from evertune.runs.results import Result, Run, run_folder_of
from evertune.runs.run_folder import begin, is_free, refuse_no_run, refuse_other_run
from evertune.runs.runner import evaluate_cell, note_stages
from evertune.runs.unchecked import last_checked
from evertune.training import learner
from evertune.training.answer_files import read_answers
from evertune.training.eval_set import keep_task
from evertune.training.evaluator import Score, score_answers
from evertune.training.stages import saved_stages
from evertune.utils import distributed
from evertune.utils.arguments import named_arguments, path_of
from evertune.utils.errors import RunFolderError, UserError, kind_of
from evertune.utils.locks import alone

if TYPE_CHECKING:
    from evertune.models.features import OnEncoded
    from evertune.models.protocol import LMM
    from evertune.runs.config import RunConfig
    from evertune.training.loop import OnStep, Training
    from evertune.training.stages import Stage


_LAST_TASK = "evertune_last_task"
"""Attribute of a model: the last task that a `Learner` has trained it on, in place."""


def make_model_folder(folder: Path, config: RunConfig, lmm: LMM) -> None:
    """Make a model that learns task by task and has learned nothing yet, or check that the folder holds this one.

    Raises:
        RunFolderError: the folder holds something else.
    """
    content = {key: value for key, value in resolved(config, config.method).items() if key != "out"}
    described = model_description(config, Inputs(lmm=lmm))
    identity = {**content, "model_config": described, **code_of_run(config.method)}
    if not is_free(folder):
        refuse_no_run(folder)
        refuse_other_run(folder, identity)
        return
    begin(folder, identity)
    write_provenance(folder, lmm, Stream(OWN, tasks=()))


def drop_outdated_matrix(folder: Path) -> None:
    """Remove the matrix that `check --every-stage` wrote, when another task is learned; the matrix of a run stays."""
    if config_of(folder).stream == OWN:
        (folder / "matrix.json").unlink(missing_ok=True)


def _alone(folder: Path) -> AbstractContextManager[None]:
    """No other process writes in the folder; of several of one training, the first one holds it for all."""
    return alone(folder) if distributed.is_main_process() else nullcontext()


class Learner(learner.Learner):
    """A model, the methods that protect what it knows, and the folder of what it has learned.

    Args:
        lmm: what `load_lmm` or `wrap` gave. Its weights at this moment are the start point.
        methods: as in `evertune.run`, but only one: `"replay+ewc"`, or `[Replay(ratio=0.05), "ewc"]`.
        folder: where everything is written as it is learned; what is there already is loaded. None: a temporary folder,
            gone with the program unless it is saved.
        training: hyper-parameters of every task: `evertune.Training(...)`, or some of its fields in a dictionary.
        seed: decides every random choice, together with the task's name.
        progress: show progress bars.

    Raises:
        UserError: a method is unknown, or needs another. RunFolderError: `folder` holds something else, or is damaged.
    """

    @named_arguments
    def __init__(
        self,
        lmm: LMM,
        methods: str | Method | Sequence[str | Method] = "sequential",
        *,
        folder: str | Path | None = None,
        training: Training | Mapping[str, Any] | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        _refuse_no_lmm(lmm)
        spec, options = methods_of(methods if isinstance(methods, str) else [methods])
        if "," in spec:
            raise UserError(f"methods '{spec}': a Learner has one; join several by '+', or pass them in a list")
        given: dict[str, Any] = {} if training is None else {"train": training_settings(training)}
        config = configure(OWN, options=options, model=lmm.name, method=spec, seed=seed, **given)
        place = _temporary(self) if folder is None else path_of(folder, what="folder", example="models/mine")
        make_model_folder(place, config, lmm)
        self._open(lmm, config, place, progress)

    @classmethod
    @named_arguments
    def from_run(cls, path: str | Path | Run | Result, *, lmm: LMM | None = None, progress: bool = True) -> Learner:
        """The model of a run folder after its last stage, to ask it, evaluate it and teach it more.

        Args:
            path: a run of one method (`evertune run`, `evertune new`, a `Learner`): its folder, a `Run`, or a `Result`.
            lmm: the base model where it was passed as an object; None: it is loaded.
            progress: show progress bars.

        Raises:
            RunFolderError: it is no run, or damaged, or its model is another one now.
        """
        folder, made = run_folder_of(path), cls.__new__(cls)
        if lmm is not None:
            _refuse_no_lmm(lmm)
        refuse_other_code(folder)
        made._open(lmm or model_of(folder), config_of(folder), folder, progress)
        return made

    def _open(self, lmm: LMM, config: RunConfig, folder: Path, progress: bool) -> None:
        self.progress = progress and distributed.is_main_process()
        if last := vars(lmm).get(_LAST_TASK):
            logging.getLogger("evertune").warning(
                "%s was trained by another Learner (last: %s), and its weights of now are the start point of %s. To "
                "begin with the base model, load it again",
                *(lmm.name, last, folder),
            )
        self._given = lmm
        methods = make_methods(config.method, config.options)
        super().__init__(lmm, methods, folder=folder, upto=last_checked(folder), **learner_arguments(config))

    def learn(self, task: Task, *, on_step: OnStep | None = None, on_encoded: OnEncoded | None = None) -> Stage:
        """Teach one more task and save it as the next stage.

        Raises:
            DataError: an image is broken. NotFiniteError: a loss or a gradient is not finite. UserError: it is no task.
            RunFolderError: another process writes in the folder.
        """
        refuse_no_task(task)
        if on_step is not None and not callable(on_step):
            raise UserError(f"on_step is {kind_of(on_step)}; taken is a function that gets each Step")
        steps = self.training_of(task).steps(len(task.train))
        bars = tqdm(total=steps, desc=f"learn {task.name}", unit=" steps", disable=not self.progress)
        with _alone(self.folder), bars as bar:
            self._refuse_changed()

            def stepped(step: Any) -> None:
                bar.set_postfix_str(f"loss {step.loss:.3f}", refresh=False)
                bar.update()
                if on_step is not None:
                    on_step(step)

            def encoded(done: int, total: int) -> None:
                bar.set_postfix_str(f"encoding images of {done}/{total} samples")
                if on_encoded is not None:
                    on_encoded(done, total)

            vars(self._given)[_LAST_TASK] = task.name
            stage = super().learn(task, on_step=stepped, on_encoded=encoded)
            if distributed.is_main_process():
                note_stages(self.folder, self.stages)
                keep_task(self.folder, task, tokens=self.lmm.answer_tokens)
                drop_outdated_matrix(self.folder)
        return stage

    def _refuse_changed(self) -> None:
        """Raise if another learner has trained the folder since it was opened: its stage would be overwritten."""
        if saved_stages(self.folder, upto=last_checked(self.folder)) != self.stages:
            raise RunFolderError(
                f"{self.folder} has other stages than when it was opened: another Learner or command has changed it. "
                "Call refresh(), which loads its last stage, or Learner.from_run"
            )

    def evaluate(self, task: Task) -> Score:
        """Answer the test samples of `task` with the model as it is now, and score them.

        Raises:
            UserError: it is no task. DataError: an image is broken. RunFolderError: another process writes here.
        """
        refuse_no_task(task)
        with _alone(self.folder), _Answers(task, shown=self.progress) as callback:
            cell = evaluate_cell(self, task, self.current, self.folder, callback)
        return score_answers(read_answers(self.folder / cell["answers"]), task)

    def __repr__(self) -> str:
        methods = "+".join(method.name for method in self.methods)
        return (
            f"Learner({methods} on {self.lmm.name}, {self.current} of {len(self.stages)} stages, {str(self.folder)!r})"
        )

    def save(self, path: str | Path) -> Path:
        """Copy the folder, with everything that was learned, to a new place.

        Raises:
            UserError: there is something already.
        """
        place = path_of(path, what="path", example="models/copy")
        if place.exists():
            raise UserError(f"{place} exists: choose a new folder")
        if place.resolve().is_relative_to(self.folder.resolve()):
            raise UserError(f"{place} is inside {self.folder}, which is copied: choose a folder elsewhere")
        shutil.copytree(self.folder, place, ignore=shutil.ignore_patterns(".*"))
        return place


def _refuse_no_lmm(lmm: Any) -> None:
    """Raise unless it is what `load_lmm` or `wrap` gave.

    Raises:
        UserError: it is something else.
    """
    if lmm is None or isinstance(lmm, str | Path):
        example = repr(str(lmm))[:60] if lmm else "'smol'"
        raise UserError(f"the model is {kind_of(lmm)}: pass evertune.load_lmm({example})")
    if not (hasattr(lmm, "answer_tokens") and hasattr(lmm, "collate")):
        raise UserError(
            f"the model is {kind_of(lmm)}: pass what evertune.load_lmm or evertune.wrap(model, processor) gave"
        )


class _Answers(Callback):
    """A bar for the answers of one task."""

    def __init__(self, task: Task, *, shown: bool) -> None:
        self._bar = tqdm(
            total=len(task.test), desc=f"evaluate {task.name}", unit=" answers", leave=False, disable=not shown
        )

    def __enter__(self) -> _Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def on_prediction(self, done: int, total: int) -> None:
        """Move on."""
        self._bar.update(done - self._bar.n)


def _temporary(owner: object) -> Path:
    """A folder that is there as long as its owner."""
    folder = tempfile.mkdtemp(prefix="evertune-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
