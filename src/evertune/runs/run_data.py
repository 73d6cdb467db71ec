"""The data of a run: the stream that its configuration names or that was passed as objects, with its probes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.assets import Progress
from evertune.data import Stream, Task, load_stream
from evertune.data.issues import Issues
from evertune.data.sources import ReadOptions
from evertune.data.stream import named_probes, read_probes, with_probes
from evertune.runs.config import RunConfig
from evertune.runs.inputs import Inputs, in_python, taken
from evertune.utils.errors import UserError

if TYPE_CHECKING:
    from evertune.models.protocol import LMM


def run_data(config: RunConfig, inputs: Inputs, progress: Progress | None) -> Stream:
    """The tasks of a run, every image decoded once."""
    if inputs.stream is None and not inputs.probes:
        return data_of(config, decode=True, lmm=inputs.lmm, progress=progress)
    how: dict[str, Any] = {"model": config.model, "skip_invalid": config.skip_invalid}
    stream = inputs.stream or data_of(config, decode=True, lmm=inputs.lmm, progress=progress)
    problems = Issues()
    problems.merge(stream.skipped)
    more, evaluated = [*inputs.probes, *(_named_probes(config, progress) if inputs.stream else ())], Issues()
    stream = with_probes(stream.limited(config.limit), [probe.limited(config.limit) for probe in more], evaluated)
    if not config.skip_invalid:
        evaluated.refuse(stream=stream.name)
    problems.merge(evaluated)
    whole = taken(replace(stream, skipped=problems), _takes(config, inputs.lmm), **how)
    return whole.evaluated(config.evaluation.limit)


def _named_probes(config: RunConfig, progress: Progress | None) -> list[Task]:
    """Probes that have a name, beside a stream of objects; what can't be used of them is refused."""
    problems = Issues()
    reading = ReadOptions(Path(), Path(), config.limit, True, None, Path(config.model).name, problems, progress)
    found = read_probes([named_probes(name) for name in config.named_probes], reading, data=config.data)
    problems.refuse(stream="the probes")
    return found


def data_of(
    config: RunConfig, *, decode: bool = False, lmm: LMM | None = None, progress: Progress | None = None
) -> Stream:
    """The stream of a run, as `load_stream` reads it for the run's model.

    Raises:
        DataError: a row or, with `decode`, an image can't be used, or the model takes another number of images.
    """
    if in_python(config.stream):
        raise UserError(
            f"the tasks of '{config.stream.strip('()')}' were passed as Python objects and are in no file: call "
            "evertune.run with the same tasks again"
        )
    return load_stream(
        config.stream,
        limit=config.limit,
        data=config.data,
        skip_invalid=config.skip_invalid,
        decode=decode,
        takes=_takes(config, lmm),
        model=Path(config.model).name,
        progress=progress,
        probes=config.named_probes,
    ).evaluated(config.evaluation.limit)


def _takes(config: RunConfig, lmm: LMM | None) -> range:
    """How many images a sample may have."""
    from evertune.models import images_taken

    return images_taken(config.model) if lmm is None else lmm.images_per_sample
