"""The Python API of whole runs, which the commands call.

result = evertune.run("parcel", model="smol", method="sequential,replay,eproj", out="runs/first")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.assets import Progress
from evertune.data import Stream, Task
from evertune.reporting.matrix import Matrix
from evertune.runs.callback import Callback
from evertune.runs.config import (
    RunConfig,
    beside,
    learner_arguments,
    load_listed_plugins,
    spelled_out,
    with_settings,
    without_effect,
)
from evertune.runs.forgetting import refuse_half_forgotten
from evertune.runs.inputs import NAMED, Inputs
from evertune.runs.plugin_code import refuse_other_code
from evertune.runs.results import Result, page_of
from evertune.runs.run_data import run_data
from evertune.runs.run_folder import FINGERPRINTS, begin, finished_matrix, identity_of, run_folders
from evertune.runs.runner import follow_stream, more_tasks, run_stream
from evertune.runs.unchecked import last_checked
from evertune.training.eval_set import keep_tasks
from evertune.training.run_origin import placeless, read_identity
from evertune.utils import distributed
from evertune.utils.config_io import read_yaml, validated
from evertune.utils.errors import RunFolderError, UserError, kind_of
from evertune.utils.files import digest_of, read_json, refuse_file, write_json
from evertune.utils.locks import alone
from evertune.utils.symlinks import refuse_links

if TYPE_CHECKING:
    from evertune.models.protocol import LMM
    from evertune.training.learner import Learner


@dataclass(frozen=True, slots=True)
class MethodRun:
    """One method of a run: its configuration, name, folder and model, and the tasks that the model knew before."""

    config: RunConfig
    spec: str
    folder: Path
    lmm: LMM
    known: Sequence[Task] = ()


def configure(
    stream: str | Path, *, settings: Sequence[str] = (), options: Mapping[str, Any] | None = None, **given: Any
) -> RunConfig:
    """Build the configuration of a run from a stream, or from a run's YAML file.

    Args:
        stream: a built-in stream, a stream's YAML, or a run's YAML (it has a key `stream`).
        settings: `key=value` entries as of `--set`; they win over everything else.
        options: per method, its own options.
        given: fields of `RunConfig`; None means "not set".

    Raises:
        UserError: an unknown key, a value of a wrong type, or an `out` that is a file.
    """
    from evertune.methods import METHODS

    where = "the settings"
    content: dict[str, Any] = {"stream": str(stream)}
    if str(stream).lower().endswith((".yaml", ".yml")):
        file = read_yaml(Path(stream))
        if isinstance(file, dict) and "stream" in file:
            file = load_listed_plugins(file, Path(stream))
            where, content = str(stream), spelled_out(file, methods=list(METHODS))
            content["stream"] = beside(Path(stream), str(file["stream"]))
            if isinstance(probes := content.get("probes"), list):
                content["probes"] = [beside(Path(stream), str(probe)) for probe in probes]
    content |= {key: value for key, value in given.items() if value is not None}
    if options:
        content["options"] = {**content.get("options", {}), **options}
    content = with_settings(content, list(settings), methods=list(METHODS))
    config = validated(RunConfig, content, where=where)
    if config.out:
        refuse_file(Path(config.out))
    return config


def refuse_no_config(config: Any) -> None:
    """Raise unless it is what `configure` gives."""
    if not isinstance(config, RunConfig):
        raise UserError(f"the configuration is {kind_of(config)}; make one: evertune.configure('parcel', model='smol')")


def method_specs(config: RunConfig) -> list[str]:
    """`sequential,replay+ewc` -> its parts, checked, with their options."""
    from evertune.methods import make_methods, parts_of, refuse_lora_twice

    specs = [spec.strip() for spec in config.method.split(",") if spec.strip()]
    if not specs or len(set(specs)) < len(specs):
        raise UserError(f"method '{config.method}': name one or more different methods, separated by commas")
    named = {part for spec in specs for part in parts_of(spec)}
    if stray := sorted(set(config.options) - named):
        raise UserError(
            f"options are given for '{stray[0]}', which is not among the methods of this run: {config.method}"
        )
    for spec in specs:
        make_methods(spec, config.options)
        refuse_lora_twice(spec, config.model_options)
    return specs


def run_config(
    config: RunConfig, *, inputs: Inputs = NAMED, callback: Callback | None = None, progress: Progress | None = None
) -> Result:
    """`run` with a complete `RunConfig`; with several processes the main one leads, and the others follow."""
    from evertune.methods import make_methods
    from evertune.models.readable import readable
    from evertune.reporting.page import write_report
    from evertune.runs.provenance import running_facts
    from evertune.runs.tracking import refuse_missing
    from evertune.utils.device import as_before

    refuse_no_config(config)
    refuse_missing(config.track)
    distributed.init()
    specs = method_specs(config)
    if not distributed.is_main_process():
        return _follow(config, specs, inputs)
    data = run_data(config, inputs, progress)
    folders = run_folders(base := out_folder(config, data), specs)
    refuse_links(base, None if len(specs) == 1 else ["report", *specs])
    model = model_description(config, inputs, progress)
    identities = {spec: identity_of(resolved(config, spec), data, model) for spec in specs}
    # Refuse a folder of another run before the first minute of training, not after the second method.
    done = {spec: finished_matrix(folders[spec], identities[spec]) for spec in specs}
    if inputs.lmm:
        for folder in folders.values():
            _refuse_other_weights(folder, inputs.lmm)
    page = page_of(base)
    with ExitStack() as held:
        held.enter_context(as_before())
        for spec in (spec for spec in specs if done[spec] is None):
            held.enter_context(alone(folders[spec]))
            done[spec] = finished_matrix(folders[spec], identities[spec])  # another process may have finished it
        open_ones = [spec for spec in specs if done[spec] is None]
        if open_ones:
            lmm = inputs.lmm or _load(config, [folders[spec] for spec in open_ones], progress)
            callback = callback or Callback()
            callback.on_model_loaded(config.model, running_facts(lmm))
            data = readable(data, lmm, skip_invalid=config.skip_invalid, warn=callback.on_warning)
            added = {s: more_tasks(folders[s], make_methods(s, config.options), data, identities[s]) for s in open_ones}
            for spec in open_ones:
                if names := ", ".join(added[spec]):
                    callback.on_warning(f"{folders[spec]} continues with tasks added to its stream: {names}")
                begin(folders[spec], identities[spec])
                if len(data.skipped):
                    write_json(folders[spec] / "skipped.json", data.skipped.as_dict())
                if inputs.stream:  # no file has them: `ask`, `check` and `learn` take them from the folder
                    keep_tasks(folders[spec], data.columns, tokens=lmm.answer_tokens)
                done[spec] = _run_one(MethodRun(config, spec, folders[spec], lmm, data.known), data, callback)
        if open_ones or not page.exists():
            write_report(list(folders.values()), page)
    distributed.send_command("end", str(base))
    distributed.shutdown()
    return Result.of(folders, {spec: matrix for spec, matrix in done.items() if matrix is not None}, base)


def model_description(config: RunConfig, inputs: Inputs, progress: Progress | None = None) -> str:
    """Hash of what a run's model is: its configuration and the files of an adapter, else its weights."""
    from evertune.models import has_weights, model_identity

    if inputs.lmm is None or has_weights(config.model):
        return digest_of(model_identity(config.model, config.model_options, progress=progress))[:16]
    return digest_of({"weights": inputs.lmm.fingerprint})[:16]


def _follow(config: RunConfig, specs: Sequence[str], inputs: Inputs) -> Result:
    """The other processes: they wait for a run to begin, take part in it, and read its result."""
    from evertune.models.readable import readable

    order = distributed.receive_command()
    data, lmm = None, inputs.lmm
    while order[0] == "run":
        _, spec, folder, dtype, fingerprint = order
        lmm = lmm or load_model(config.model_copy(update={"dtype": dtype}))
        data = data or readable(run_data(config, inputs, None), lmm, skip_invalid=config.skip_invalid)
        if data.fingerprint != fingerprint:
            number = distributed.rank()
            raise RunFolderError(f"process {number} reads other data than the first one: all need the same files")
        with _untouched_after(MethodRun(config, spec, Path(folder), lmm, data.known)) as learner:
            order = follow_stream(learner, data)
    distributed.shutdown()
    folders = run_folders(base := Path(order[1]), specs)
    return Result.of(folders, {spec: Matrix.read(folder) for spec, folder in folders.items()}, base)


def open_run(
    folder: Path,
    *,
    lmm: LMM | None = None,
    upto: int | None = None,
    known: Sequence[Task] = (),
    progress: Progress | None = None,
) -> Learner:
    """The model of a run folder as it was after its last stage; needs its model, not its data.

    Args:
        folder: of the run.
        lmm: the base model of `model_of`, if it is loaded already.
        upto: the last stage to load; as in `Learner`, like `known`. Default: the last stage that was checked.
        known: tasks that the model knew before.
        progress: called during downloads.

    Raises:
        RunFolderError: it is no run, or damaged, or its model has changed.
    """
    refuse_links(folder)
    refuse_half_forgotten(folder)
    refuse_other_code(folder)
    config = config_of(folder)
    lmm = lmm or model_of(folder, progress=progress)
    upto = last_checked(folder) if upto is None else upto
    return _learner(MethodRun(config, config.method, folder, lmm, known), upto=upto)


def model_of(folder: Path, *, progress: Progress | None = None) -> LMM:
    """The base model that a run began with.

    Raises:
        RunFolderError: it is no run, or damaged, or its model is another one now.
    """
    config = config_of(folder)
    refuse_other_code(folder)
    lmm = _load(config, [folder], progress)
    _refuse_other_weights(folder, lmm)
    return lmm


def _refuse_other_weights(folder: Path, lmm: LMM) -> None:
    provenance = folder / "provenance.json"
    if provenance.exists() and read_json(provenance)["model_fingerprint"] != lmm.fingerprint:
        raise RunFolderError(
            f"{folder} was made with another {lmm.name} than the one that is loaded now; if it was "
            "passed as an object, pass it again: Learner.from_run(folder, lmm=...). A run that begins from a PeftModel "
            "can be opened by its folder alone where the adapter is saved first (save_pretrained) and given as a path"
        )


def config_of(folder: Path) -> RunConfig:
    """The configuration of a run folder.

    Raises:
        RunFolderError: it is no run folder, or its configuration is damaged.
    """
    if not (folder / "config.yaml").exists():
        raise RunFolderError(f"{folder} is no run folder: {_why_none(folder)}")
    settings = {key: value for key, value in read_identity(folder).items() if key not in FINGERPRINTS}
    return validated(RunConfig, settings, where=str(folder / "config.yaml"))


def _why_none(folder: Path) -> str:
    """Why a folder is none of a run; a folder of runs names the first of them."""
    if not folder.exists():
        return "it does not exist"
    below = sorted(path.parent for path in folder.glob("*/config.yaml"))
    return f"it holds runs; name one of them, e.g. {below[0]}" if below else "it has no config.yaml"


def out_folder(config: RunConfig, stream: Stream) -> Path:
    """Where the run is written."""
    return Path(config.out) if config.out else Path("runs") / f"{stream.name}-{Path(config.model).name}-s{config.seed}"


def load_model(config: RunConfig, *, progress: Progress | None = None) -> LMM:
    """The base model of a configuration."""
    return _load(config, (), progress)


def _load(config: RunConfig, folders: Sequence[Path], progress: Progress | None) -> LMM:
    """Load the model; a run in one of `folders` resumes in its first dtype."""
    from evertune.models import load_lmm
    from evertune.utils.device import settle

    settle(deterministic=config.deterministic)
    dtype = config.dtype
    for folder in folders:
        path = folder / "provenance.json"
        if dtype == "auto" and path.exists():
            dtype = read_json(path)["dtype"]
    return load_lmm(config.model, seed=config.seed, dtype=dtype, options=config.model_options, progress=progress)


def _run_one(run: MethodRun, stream: Stream, callback: Callback) -> Matrix:
    from evertune.models.adapters import bare
    from evertune.runs.provenance import write_provenance
    from evertune.runs.tracking import all_of, tracking

    config, spec = run.config, run.spec
    if changes := write_provenance(run.folder, bare(run.lmm), stream):
        callback.on_environment_changed(changes)
    distributed.send_command(
        "run", spec, str(run.folder), str(run.lmm.dtype).removeprefix("torch."), stream.fingerprint
    )
    header = header_of(config, spec, stream=stream.name)
    name = f"{stream.name}-{header['model']}-{spec}-s{config.seed}"
    tracked = tracking(
        run.folder, to=config.track, name=name, group=stream.name, known=len(stream.known), callback=callback
    )
    with _untouched_after(run) as learner, tracked as tracks:
        how: dict[str, Any] = {"header": header, "cells": config.evaluation.cells, "keep": config.stages.keep}
        how["text_probe"] = config.evaluation.text_probe
        return run_stream(learner, stream, folder=run.folder, callback=all_of(callback, tracks), **how)


def header_of(config: RunConfig, spec: str, *, stream: str) -> dict[str, Any]:
    """The description of a run in its `matrix.json`."""
    settings = placeless(resolved(config, spec))
    return {
        "model": Path(config.model).name,
        "stream": stream,
        "method": spec,
        "seed": config.seed,
        "settings": {key: settings[key] for key in ("limit", "train", "evaluation", "options")},
    }


@contextmanager
def _untouched_after(run: MethodRun) -> Iterator[Learner]:
    """A learner; on exit, also by an error, the model is restored to the base model."""
    from evertune.models.adapters import bare
    from evertune.models.weights import copy_of, restore

    run = replace(run, lmm=bare(run.lmm))  # the previous run may have left adapters
    start = copy_of(run.lmm.trainable())
    try:
        yield _learner(run)
    finally:
        restore(run.lmm.trainable(), start)


def _learner(run: MethodRun, *, upto: int | None = None) -> Learner:
    from evertune.methods import make_methods
    from evertune.training.learner import Learner

    config = run.config
    methods = make_methods(run.spec, config.options)
    return Learner(run.lmm, methods, folder=run.folder, known=run.known, upto=upto, **learner_arguments(config))


def resolved(config: RunConfig, spec: str) -> dict[str, Any]:
    """The configuration of one method's run, its options with their defaults."""
    from evertune.methods import make_methods, options_of, parts_of

    made = {method.name: method for method in make_methods(spec, config.options)}
    options = {part: {o: getattr(made[part], o) for o in options_of(part)} for part in parts_of(spec)}
    content = config.model_dump(exclude={"reuse": True, **without_effect(config)})
    return {**content, "method": spec, "options": options}
