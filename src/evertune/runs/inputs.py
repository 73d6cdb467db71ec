"""What a caller passes as Python objects: tasks, a loaded model, methods; and what a configuration says of them.

A configuration holds names. A stream of objects is there as `(NAME)`: no command can read it again, but the run folder
keeps what `ask`, `check` and `learn` need of its tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evertune.data import Sample, Stream, Task
from evertune.data.issues import Issues
from evertune.data.samples import Samples, part_of
from evertune.data.split import number_problem
from evertune.utils.arguments import path_of, plain_number
from evertune.utils.errors import UserError, kind_of
from evertune.utils.safe_names import refuse_task_names

if TYPE_CHECKING:
    from evertune.models.protocol import LMM

EXAMPLE = 'evertune.run([Task.from_dataset("shapes", train=rows)], model="tiny-aligned", methods=["replay"])'
PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True)
class Inputs:
    """The objects of a run, in place of what its configuration names."""

    stream: Stream | None = None
    lmm: LMM | None = None
    probes: tuple[Task, ...] = ()


OWN = "(own)"
"""The stream of a model that learns task by task: it has none but its own history."""
NAMED = Inputs()
"""Everything is named by the configuration."""


def in_python(stream: str) -> bool:
    """Whether a configuration's stream was passed as objects."""
    return stream.startswith("(") and stream.endswith(")")


def stream_of(given: Any) -> tuple[str, Stream | None]:
    """What a configuration calls a stream, and the stream itself where it was passed as objects.

    Raises:
        UserError: it is nothing that has tasks.
    """
    if isinstance(given, str | Path):
        return str(given), None
    if isinstance(given, Task):
        given = Stream(given.name, (given,))
    elif isinstance(given, Sequence) and given and all(isinstance(task, Task) for task in given):
        given = Stream("tasks", tuple(given))
    if isinstance(given, Stream):
        refuse_task_names([task.name for task in given.all_tasks], where=f"the stream '{given.name}'")
        for task in given.tasks:
            refuse_no_task(task)
            for side in ("train", "test"):
                if not len(getattr(task, side)):
                    raise UserError(f"the task '{task.name}' has no samples in '{side}': a run needs both")
    else:
        raise UserError(
            f"the stream is {kind_of(given)}; taken are the name of one, the path of a YAML file, a Stream, a Task or "
            f"a list of Tasks. Example: {EXAMPLE}"
        )
    return f"({given.name})", given


def probes_of(given: Any) -> tuple[list[str], tuple[Task, ...]]:
    """What a configuration calls probes, and those that were passed as objects.

    Raises:
        UserError: one is neither.
    """
    listed = list(given) if isinstance(given, list | tuple) else [given]
    objects = tuple(each for each in listed if isinstance(each, Task))
    for probe in objects:
        refuse_no_task(probe)
        if not len(probe.test):
            raise UserError(f"the probe '{probe.name}' has no samples in 'test', which are those that are evaluated")
    for each in listed:
        if not isinstance(each, str | Path | Task):
            raise UserError(
                f"a probe is {kind_of(each)}; taken are a Task, the name of a stream, a YAML file or a file of rows"
            )
    return [f"({each.name})" if isinstance(each, Task) else str(each) for each in listed], objects


def refuse_no_task(given: Any) -> None:
    """Raise unless it is a task of samples."""
    if not isinstance(given, Task):
        raise UserError(
            f"the task is {kind_of(given)}: make one of rows or a data set with evertune.Task.from_dataset(...)"
        )
    for side in (given.train, given.test):
        if len(side) and not isinstance(side[0], Sample):
            raise UserError(
                f"the task '{given.name}' holds {kind_of(side[0])}, not a Sample: "
                "evertune.Task.from_dataset(...) makes samples of rows"
            )


def refuse_no_path(**given: Any) -> None:
    """Raise where an argument is no path, and not None."""
    for name, value in given.items():
        if value is not None:
            path_of(value, what=name)


def lmm_of(given: Any, processor: Any = None, *, seed: int = 0) -> tuple[str | None, LMM | None]:
    """What a configuration calls a model, and the model itself where it was passed as an object.

    Raises:
        UserError: it is no model, or its processor is missing.
    """
    if given is None or isinstance(given, str | Path):
        if processor is not None:
            raise UserError("a processor is passed with a loaded model: with a name or a folder, leave it out")
        return None if given is None else str(given), None
    if hasattr(given, "answer_tokens") and hasattr(given, "collate"):
        return given.name, given
    import torch

    if not isinstance(given, torch.nn.Module):
        raise UserError(
            f"the model is {kind_of(given)}; taken are a preset's name, a checkpoint folder, what load_lmm gave "
            "or a model of transformers with its processor: evertune.run(tasks, model=model, processor=processor)"
        )
    from evertune.models.wrap import wrap

    if processor is None:
        raise UserError(
            f"the model is {kind_of(given)}: pass its processor, too: model=model, "
            "processor=AutoProcessor.from_pretrained(...)"
        )
    lmm = wrap(given, processor, seed=seed)
    return lmm.name, lmm


def methods_of(given: Any) -> tuple[str, dict[str, dict[str, Any]]]:
    """What a configuration calls methods (`replay,replay+ewc`), and the options of those that are objects.

    Raises:
        UserError: one is no method, or has an option that can't be written down.
    """
    options: dict[str, dict[str, Any]] = {}

    def name(part: Any) -> str:
        if isinstance(part, str):
            return part
        if isinstance(part, Sequence) and part:
            return "+".join(name(each) for each in part)
        method, own = _method_of(part)
        if options.setdefault(method, own) != own:
            raise UserError(f"'{method}' is passed twice with other options: run it twice, or use a grid")
        return method

    parts = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not parts:
        raise UserError('no methods are passed; for example methods=["sequential", "replay"]')
    return ",".join(name(part) for part in parts), options


def _method_of(given: Any) -> tuple[str, dict[str, Any]]:
    """The name and the options of a method's object, whose class is known by that name from here on."""
    from evertune.methods import METHODS, Method, options_of, refuse_unusable

    cls = given if isinstance(given, type) else type(given)
    if not issubclass(cls, Method):
        raise UserError(
            f"a method is {kind_of(given)}; taken are names (evertune ls methods) and objects of classes that extend "
            "evertune.Method, such as Replay(ratio=0.05)"
        )
    refuse_unusable(given)
    if cls.name not in METHODS or METHODS[cls.name] is not cls:
        METHODS.add(cls.name, cls, made_by=cls)
    if isinstance(given, type):
        return cls.name, {}
    own = {option: plain_number(getattr(given, option)) for option in options_of(cls.name)}
    for option, value in own.items():
        if not _is_plain(value):
            raise UserError(
                f"{cls.name}.{option} is {kind_of(value)}, which a run can't write down; options are numbers, texts, "
                "and lists or dictionaries of these"
            )
    again = cls(**own)
    for option, value in own.items():
        if (other := getattr(again, option)) != value:
            raise UserError(
                f"{cls.__name__}({option}={value!r:.40}) has the attribute {option} = {other!r:.40}, and a run is made "
                f"again from what is written down: keep the option as it is given, self.{option} = {option}"
            )
    return cls.name, own


def training_settings(given: Any) -> dict[str, Any]:
    """The settings `train` of a configuration from what was passed as `args`.

    Raises:
        UserError: it is something else.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    if is_dataclass(given) and type(given).__module__.startswith("evertune."):
        return asdict(given)  # type: ignore[arg-type]
    raise UserError(
        f"args is {kind_of(given)}; taken are evertune.Training(...) or a dictionary with its fields: "
        "args={'epochs': 2, 'learning_rate': 1e-4}"
    )


def taken(stream: Stream, takes: range, *, model: str, skip_invalid: bool) -> Stream:
    """The stream without the samples whose number of images the model does not take.

    Raises:
        DataError: there are some, and `skip_invalid` is not set.
    """
    problems = Issues()

    def usable(task: Task) -> Task:
        return replace(task, train=_usable(task, "train"), test=_usable(task, "test"))

    def _usable(task: Task, side: str) -> Any:
        samples = getattr(task, side)
        wrong = [at for at, number in enumerate(_image_counts(samples)) if number not in takes]
        found = (number_problem(samples[at].origin, len(samples[at].images), takes, model=model) for at in wrong)
        problems.add(found, task=task.name)
        left = np.delete(np.arange(len(samples)), wrong)
        if not wrong:
            return samples
        return part_of(samples, left.tolist())

    made = stream.each(usable)
    if not skip_invalid:
        problems.refuse(stream=stream.name)
    skipped = Issues()
    for each in (stream.skipped, problems):
        skipped.merge(each)
    return replace(made, skipped=skipped)


def _image_counts(samples: Sequence[Any]) -> Sequence[int]:
    if isinstance(samples, Samples):  # of an index, without reading a row
        counts: list[int] = samples.rows.counts[samples.chosen].tolist()
        return counts
    return [len(sample.images) for sample in samples]


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(part) for key, part in value.items())
    return isinstance(value, PLAIN)
