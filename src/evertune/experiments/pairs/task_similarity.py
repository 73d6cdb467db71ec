"""How similar the tasks of a stream are, for people and machines: what `evertune similarity` prints and plots.

The rule itself is `evertune.methods.similarity`, the one that methods use; here it is applied to a whole stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.utils.errors import UserError

if TYPE_CHECKING:
    from evertune.assets import Progress
    from evertune.data import Stream, Task
    from evertune.methods.similarity import TextEncoder
    from evertune.models.protocol import Encoder

FORMAT = 1
DIGITS = 6
OWN_ENCODER = "the model's own"
FORMULA = (
    "s(i,j) = product over image, instruction, answer of sigmoid((C - mean C) / std C), "
    "C the cosines of all pairs of tasks; with a single pair the product of its cosines, negative ones 0"
)

Square = list[list[float | None]]
"""Rows and columns are tasks; None on the diagonal."""


def check_tasks(stream: Stream, tasks: Sequence[Task]) -> None:
    """Raise a UserError where there is nothing to compare, or nothing to embed a task from."""
    if len(tasks) < 2:
        raise UserError(
            f"stream '{stream.name}' has {len(tasks)} task{'s' * (len(tasks) != 1)} to compare: similarity is "
            "between tasks, so it needs two or more"
        )
    for task in tasks:
        if not task.train:
            raise UserError(f"task '{task.name}' of stream '{stream.name}' has no training samples to embed")


def similarity_of_tasks(
    lmm: Encoder, tasks: Sequence[Task], *, text_encoder: TextEncoder | None = None
) -> dict[str, Any]:
    """The cosines per modality and the combined similarity of `tasks`, each a square over them, JSON-able.

    Args:
        lmm: gives the embeddings of images, and of texts unless there is a `text_encoder`.
        tasks: two or more, with training samples.
        text_encoder: texts -> (n, width).

    Raises:
        UserError: an embedding is not finite. DataError: an image is broken.
    """
    from evertune.methods.similarity import SAMPLES, embed_task, evenly_spaced, pair_cosines, similarity_matrix
    from evertune.models.features import FeatureStore

    features = FeatureStore(lmm)
    embedded = {}
    for task in tasks:
        features.ensure(evenly_spaced(task.train, SAMPLES))
        embedded[task.name] = embed_task(lmm, features, task.train, text_encoder=text_encoder)
    names, combined = list(embedded), similarity_matrix(embedded)
    return {
        "tasks": names,
        "samples": {task.name: min(len(task.train), SAMPLES) for task in tasks},
        "cosines": {m: _square(table, names) for m, table in pair_cosines(embedded).items()},
        "similarity": [[_rounded(combined[a][b]) for b in names] for a in names],
        "formula": FORMULA,
    }


def _square(table: Mapping[tuple[str, str], float], names: Sequence[str]) -> Square:
    """Both halves of a table of unordered pairs."""
    return [[_rounded(table.get((a, b), table.get((b, a)))) for b in names] for a in names]


def _rounded(value: float | None) -> float | None:
    """Without the last bits of float32: equal similarities must be ties."""
    return None if value is None else round(value, DIGITS)


def similarity_of_stream(
    stream: Stream, model: str, *, text_encoder: str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """`similarity_of_tasks` of a whole stream, its known tasks first, with what it depends on.

    Args:
        stream: its known tasks are compared too.
        model: a preset or a checkpoint folder.
        text_encoder: folder or hub name; default: the model's own.
        progress: called during downloads.

    Raises:
        UserError: fewer than two tasks, a task without training samples, or an encoder that can't be loaded.
    """
    from evertune.models import load_lmm

    check_tasks(stream, stream.columns)
    encoder = loaded_encoder(text_encoder)
    lmm = load_lmm(model, dtype="float32", progress=progress)
    return {
        "format": FORMAT,
        "stream": stream.name,
        "model": Path(model).name,
        "text_encoder": text_encoder or OWN_ENCODER,
        "known": [task.name for task in stream.known],
        **similarity_of_tasks(lmm, stream.columns, text_encoder=encoder),
    }


def loaded_encoder(name: str | None) -> TextEncoder | None:
    """The text encoder of this name; None stands for the model's own."""
    from evertune.models.text_encoder import load_text_encoder

    return load_text_encoder(name) if name else None
