"""`evertune.run`: methods over a stream of tasks, from names or from objects.

result = evertune.run("parcel", model="smol", methods="sequential,replay,eproj", out="runs/first")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.data import Stream, Task
from evertune.runs.api import configure, run_config
from evertune.runs.callback import Callback
from evertune.runs.inputs import Inputs, lmm_of, methods_of, probes_of, refuse_no_path, stream_of, training_settings
from evertune.runs.results import Result
from evertune.utils import distributed
from evertune.utils.arguments import named_arguments, refuse_wrong_hooks
from evertune.utils.errors import UserError, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evertune.methods import Method
    from evertune.models.protocol import LMM
    from evertune.training.loop import Training


def _listed(given: Any, *, what: str) -> list[str]:
    """A list; one text is a list of one.

    Raises:
        UserError: it is something else.
    """
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list | tuple) or not all(isinstance(each, str) for each in listed):
        example = 'settings=["train.epochs=2"]' if what == "settings" else 'track=["trackio"]'
        raise UserError(f"{what} is {kind_of(given)}; taken is a list of texts, for example {example}")
    return list(listed)


def _one_of(callbacks: Sequence[Callback], *, progress: bool) -> Callback:
    """One callback that tells all of them, and progress bars where they are shown.

    Raises:
        UserError: they are no callbacks.
    """
    from evertune.runs.progress_bars import ProgressBars
    from evertune.runs.tracking.callback import all_of

    if not isinstance(callbacks, list | tuple) or not all(isinstance(each, Callback) for each in callbacks):
        raise UserError(f"callbacks is a list of objects that extend evertune.Callback, not {callbacks!r:.80}")
    for each in callbacks:
        refuse_wrong_hooks(type(each), Callback, prefixes=("on_",))
    bars = [ProgressBars()] if progress and distributed.is_main_process() else []
    return all_of(*bars, *callbacks)


@named_arguments
def run(
    stream: str | Path | Stream | Task | Sequence[Task],
    *,
    model: str | Path | LMM | Any = None,
    processor: Any = None,
    methods: str | Method | Sequence[str | Method | Sequence[str | Method]] | None = None,
    args: Training | Mapping[str, Any] | None = None,
    seed: int | None = None,
    limit: int | None = None,
    out: str | Path | None = None,
    data: str | Path | None = None,
    skip_invalid: bool = False,
    deterministic: bool = False,
    settings: str | Sequence[str] = (),
    probes: str | Path | Task | Sequence[str | Path | Task] = (),
    track: str | Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Result:
    """Run one or more methods over a stream and write a report; the same call again continues.

    Args:
        stream: a built-in stream, a YAML file, or tasks: a `Stream`, a `Task`, a list of `Task`.
        model: a preset or a checkpoint folder, what `load_lmm` or `wrap` gave, or a loaded model of transformers;
            default `smol`. It is as before when the run ends.
        processor: of a loaded model.
        methods: names: `"sequential,replay+ewc"`, those joined by `+` run together; or a list of names and objects:
            `["sequential", Replay(ratio=0.05)]`, where an inner list runs together. Default `sequential`.
        args: hyper-parameters of the training: `evertune.Training(...)`, or some of its fields in a dictionary.
        seed: of everything random.
        limit: at most this many training and test samples per task.
        out: the run folder; with several methods each gets a folder in it. Default `runs/STREAM-MODEL-sSEED`.
        data: where the folders of published data sets are.
        skip_invalid: train on the valid rows and list the others in `skipped.json`, instead of stopping.
        deterministic: the same call is bit-identical on the same kind of CPU, whatever the cache holds; slower.
        settings: `key=value`, e.g. `train.epochs=2` or `replay.ratio=0.05`.
        probes: what is evaluated before and after each stage and never trained: a `Task` of which the test samples are
            evaluated, or the name of a stream, a YAML file or a file of rows.
        track: services that get the metrics, beside the files of the run folder: `trackio`, `wandb`, `mlflow`.
        callbacks: get the events of the run.
        progress: show progress bars.

    Raises:
        UserError: an argument is of another kind or has a wrong value. DataError: a row can't be used. RunFolderError:
            `out` holds another run.
    """
    callback = _one_of(callbacks, progress=progress)
    refuse_no_path(out=out, data=data)
    name, tasks = stream_of(stream)
    evaluated, own_probes = probes_of(probes)
    model_name, lmm = lmm_of(model, processor, seed=seed or 0)
    spec, options = (None, {}) if methods is None else methods_of(methods)
    given: dict[str, Any] = {"train": training_settings(args), "track": _listed(track, what="track")}
    given |= {"skip_invalid": skip_invalid, "deterministic": deterministic, "probes": evaluated}
    given |= {key: str(place) for key, place in (("out", out), ("data", data)) if place}
    given = {key: value for key, value in given.items() if value}
    given |= {"model": model_name, "method": spec, "seed": seed, "limit": limit}
    config = configure(name, settings=_listed(settings, what="settings"), options=options, **given)
    return run_config(config, inputs=Inputs(tasks, lmm, own_probes), callback=callback)
