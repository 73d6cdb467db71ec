"""A data set of the library `datasets` by the names of its columns: a folder that `save_to_disk` wrote, or a hub id.

{name: signs, format: huggingface, root: my-folder, options: {instruction: question, answer: label}}
{name: signs, format: huggingface, options: {hub: owner/name, instruction: question, answer: answers}}

Images inside the data set are written into the cache once, unchanged, under the hash of their content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from evertune.data.arrow import refuse_unsound
from evertune.data.arrow_process import FEW_AT_ONCE
from evertune.data.arrow_records import arrow_records
from evertune.data.columns import Columns
from evertune.data.embedded import folder, kept, refuse_many_images
from evertune.data.formats import Row
from evertune.data.images import MOST_BYTES
from evertune.utils.errors import DataError, UserError, nearest
from evertune.utils.parsing import json_value
from evertune.utils.regular_files import most_from, read_regular
from evertune.utils.safe_names import leads_out

ABOUT = {
    "title": "a data set of the library `datasets`, saved by save_to_disk or from the hub, by the names of its columns",
    "source": "https://huggingface.co/docs/datasets",
    "files": "root: the folder that save_to_disk wrote; or the option hub",
    "licence": "that of the data set",
    "citation": "Lhoest et al. 2021, Datasets: A Community Library for NLP, arXiv 2109.02846",
}
PROMPT = "{instruction}"
MOST_ABOUT = 64 << 20
"""Bytes of a JSON file of the library."""


def rows(
    place: Path,
    *,
    split: str,
    hub: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    train: str = "train",
    test: str = "test",
    image: str | None = "image",
    instruction: str = "instruction",
    answer: str = "answer",
    id: str | None = None,
    extras: Sequence[str] = (),
) -> Iterator[Row | DataError]:
    """A row per row of the split that `train` or `test` names. The other options name columns (`Columns`).

    Args:
        place: the folder that `save_to_disk` wrote; not used with `hub`.
        split: `train` or `test`.
        hub: a data set of the hub, owner/name.
        config: its configuration.
        revision: its branch, tag or commit.
        train: the split to train on.
        test: the split to test on.
        image: column of the image, None where there is none.
        instruction: column of the question or instruction.
        answer: column of the answer or answers.
        id: column of the ids; None: the numbers of the rows.
        extras: further columns that the score needs.
    """
    wanted = train if split == "train" else test
    where = f"{hub or place}, split '{wanted}'"
    columns = Columns(image, instruction, answer, id, None, extras)
    content = _opened(place, hub, config, revision, wanted)
    columns.check(content.column_names, where=where)
    most = None if hub else most_from(files(place))
    batches = content.with_format("arrow").iter(batch_size=FEW_AT_ONCE)  # images stay encoded
    for number, record in enumerate(
        arrow_records(batches, place=where, most=most, convert=labels_of(content.features)), start=1
    ):
        origin = f"{where}, row {number}"
        try:
            images = _images(record.get(image), origin) if image else ()
            yield columns.row(record, number=number, origin=origin, images=images)
        except DataError as problem:
            if problem.of_file:
                raise
            yield problem


def files(place: Path, *, hub: str | None = None, **_: Any) -> list[Path]:
    """Every file that `save_to_disk` wrote; for a data set of the hub, its revision."""
    return [] if hub else sorted(path for path in place.rglob("*") if path.is_file())


def images(place: Path, **_: Any) -> Path:
    """Where the images are written."""
    del place
    return folder()


def one_split(place: Path, *, hub: str | None = None, **_: Any) -> bool:
    """Whether it is a `Dataset`, which has no splits: then a share of it is kept for testing, as of a single file."""
    return hub is None and (place / "state.json").is_file() and not (place / "dataset_dict.json").exists()


def _opened(place: Path, hub: str | None, config: str | None, revision: str | None, split: str) -> Any:
    """The split as a `datasets.Dataset`.

    Raises:
        UserError: the library is missing, or there is no such data set or split.
    """
    try:
        from datasets import DatasetDict, load_dataset, load_from_disk
    except ImportError as problem:
        raise UserError("Hugging Face data sets need their library: pip install 'evertune[data]'") from problem
    try:
        if hub:
            return load_dataset(hub, config, revision=revision, split=split)
        _check(place)
        content = load_from_disk(str(place))
    except Exception as problem:  # the exceptions of the library's back ends are not a closed list
        raise DataError(f"{hub or place} can't be opened as a data set ({problem})", kind="missing file") from problem
    if not isinstance(content, DatasetDict):
        return content
    if split not in content:
        known = f"{nearest(split, content)} (options: {{train: SPLIT, test: SPLIT}})"
        raise DataError(f"{place} has no split '{split}'; {known}", kind="missing file")
    return content[split]


def _check(place: Path) -> None:
    """Look at every file that `load_from_disk` would open, before it does.

    Raises:
        OSError, ValueError, TypeError, KeyError: one is no regular file, too large, damaged, or not of the folder.
    """
    for path in sorted(path for path in place.rglob("*.json") if not path.is_dir()):
        content = json_value(read_regular(path, most=MOST_ABOUT))
        if path.name == "dataset_dict.json" and any(map(leads_out, content["splits"])):
            raise ValueError(f"{path} names a split that is not of its folder")
        for one in content["_data_files"] if path.name == "state.json" else ():
            if leads_out(one["filename"]):
                raise ValueError(f"{path} names the file {one['filename']!r}, which is not of its folder")
            refuse_unsound(path.parent / one["filename"])


def labels_of(features: Mapping[str, Any]) -> dict[str, Callable[[Any], Any]]:
    """By column of class labels: what makes words of their numbers."""
    return {name: partial(_label, feature) for name, feature in features.items() if _has_words(feature)}


def _has_words(feature: Any) -> bool:
    return hasattr(getattr(feature, "feature", feature), "int2str")


def _label(feature: Any, value: Any) -> Any:
    """The word of a class label, which is stored as a number, or those of a list; -1 is written where there is none."""
    if isinstance(value, list) and hasattr(feature, "feature"):
        return [word for one in value if (word := _label(feature.feature, one)) is not None]
    if not hasattr(feature, "int2str") or not isinstance(value, int):
        return value
    return feature.int2str(value) if value >= 0 else None


def _images(value: Any, origin: str) -> tuple[str, ...]:
    """Names below the cache's folder of the images in a cell."""
    if value is None:
        return ()
    cells = value if isinstance(value, list) else [value]
    refuse_many_images(cells, origin)
    return tuple(_written(one, origin) for one in cells)


def _written(value: Any, origin: str) -> str:
    content = value.get("bytes") if isinstance(value, dict) else None
    if isinstance(value, dict) and content is None and value.get("path"):
        try:
            content = read_regular(Path(value["path"]), most=MOST_BYTES)
        except (OSError, ValueError) as problem:
            raise DataError(f"{origin}: the image {value['path']} can't be read", kind="missing image") from problem
    if not isinstance(content, bytes):
        raise DataError(f"{origin}: the image's column holds no images; name another", kind="unusable image")
    return kept(content)
