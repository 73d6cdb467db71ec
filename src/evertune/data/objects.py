"""Tasks from objects in memory: a `datasets.Dataset`, rows as dictionaries, images as PIL has them.

The rows are written once into the cache, like those of a file (`data/rows.py`), and images that are no files under the
hash of their content. So memory does not grow with the number of rows, and the same objects are the same task.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evertune.data import embedded
from evertune.data.columns import ALIKE, Columns, is_missing
from evertune.data.formats import Row, huggingface
from evertune.data.image_index import ImageIndex
from evertune.data.issues import Issues
from evertune.data.rows import VERSION, IndexKey, indexed_by_content
from evertune.data.samples import Samples
from evertune.data.sources import ReadOptions, parted, task_of
from evertune.data.task import Task
from evertune.data.task_file import TaskFile
from evertune.metrics.own_rules import scoring_rule
from evertune.metrics.rules import Rule, rule_of
from evertune.utils.config_io import validated
from evertune.utils.errors import DataError, UserError, kind_of, nearest

EXAMPLE = 'Task.from_dataset("shapes", train=[{"image": image, "instruction": "What is it?", "answer": "a dog"}])'
ImageLike = str | Path | bytes | Image.Image | np.ndarray[Any, Any]
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_PNG = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}


def task_from_objects(
    name: str,
    *,
    train: Any,
    test: Any = None,
    image: str | Sequence[str] | None = "image",
    instruction: str = "instruction",
    answer: str = "answer",
    score: str | Rule | Callable[[str, Sequence[str]], float] = "exact",
    test_share: float = 0.2,
    skip_invalid: bool = False,
    about: Mapping[str, str] | None = None,
) -> Task:
    """What `Task.from_dataset` gives; the arguments are described there."""
    images = () if image is None else (image,) if isinstance(image, str) else image
    _refuse_odd_columns(images, instruction=instruction, answer=answer)
    if not isinstance(about, Mapping | None):
        raise UserError(f"about is {kind_of(about)}; taken is a dictionary, such as about={{'licence': 'CC BY 4.0'}}")
    columns = Columns(None, instruction, answer)
    rule = rule_of(score) if isinstance(score, str) else score if isinstance(score, Rule) else scoring_rule(score)
    content = {"name": name, "data": "memory", "score": rule.name, "test_share": test_share, "about": dict(about or {})}
    entry = validated(TaskFile, content, where="Task.from_dataset")
    problems = Issues()
    reading = ReadOptions(Path(), Path(), None, True, None, "", problems, None)
    given = {"train": train} if test is None else {"train": train, "test": test}
    halves = [_spooled(f"{name}, {split}", rows, images, columns) for split, rows in given.items()]
    for samples in halves:
        problems.add(samples.rows.problems(), task=name)
    train_samples, test_samples = halves if len(halves) == 2 else parted(halves[0], entry, reading)
    task = task_of(train_samples, test_samples, entry, reading, about=entry.about)
    if not skip_invalid:
        problems.refuse(stream=name)
    return task


def _refuse_odd_columns(images: Any, **others: Any) -> None:
    """Raise unless the columns are named by texts; `image` may be several."""
    if not isinstance(images, list | tuple) or not all(isinstance(name, str) for name in images):
        raise UserError(f"image is {kind_of(images)}; taken are the name of a column, a list of names, or None")
    for role, name in others.items():
        if not isinstance(name, str):
            raise UserError(f"{role} is {kind_of(name)}; taken is the name of a column, such as {role}={role!r}")


def _spooled(where: str, data: Any, images: Sequence[str], columns: Columns) -> Samples:
    """The samples of `data`, their rows written into the cache."""
    key = IndexKey(
        format="objects",
        version=VERSION,
        place=Path(where),
        split="",
        options={},
        prompt="{instruction}",
        allow_external_paths=True,  # the paths are those of the caller's own program
        files=(),
    )
    rows = indexed_by_content(key, _rows(where, data, images, columns))
    if not len(rows):
        problems = Issues()
        problems.add(rows.problems(), task=where)
        problems.refuse(stream=where)
        raise DataError(f"{where}: there are no rows", kind="no rows")
    return Samples(ImageIndex(rows, embedded.folder(), allow_external_paths=True))


def _rows(where: str, data: Any, images: Sequence[str], columns: Columns) -> Iterator[Row | DataError]:
    """A row per record, or what is wrong with it.

    Raises:
        UserError: `data` holds no records, or a column is missing.
    """
    records, convert = _records(where, data, images)
    number = 0
    for number, record in enumerate(records, start=1):
        origin = f"{where}, row {number}"
        if not isinstance(record, Mapping):
            raise UserError(f"{origin} is {kind_of(record)}; taken are dictionaries (or a Dataset). Example: {EXAMPLE}")
        if number == 1:
            _refuse_missing(where, [str(key) for key in record], images, columns)
        try:
            names = tuple(each for column in images for each in _image_names(record.get(column), origin))
            yield columns.row(_texts_of(record, columns, convert, origin), number=number, origin=origin, images=names)
        except DataError as problem:
            yield problem


def _texts_of(
    record: Mapping[str, Any], columns: Columns, convert: Mapping[str, Callable[[Any], Any]], origin: str
) -> dict[str, Any]:
    """The instruction and the answer of a record, values of numpy and torch as those of Python.

    Raises:
        DataError: one is missing, or the instruction is no text.
    """
    made = {}
    for column in (columns.instruction, columns.answer):
        if column not in record:
            raise DataError(f"{origin}: it has no '{column}'", kind="missing column")
        value = record[column]
        value = value.tolist() if hasattr(value, "tolist") else value
        made[column] = convert[column](value) if column in convert else value
    columns.texts(made, columns.instruction, origin)
    return made


def _records(where: str, data: Any, images: Sequence[str]) -> tuple[Iterable[Any], Mapping[str, Callable[[Any], Any]]]:
    """The records of what a caller has, and what is made of the values of a column.

    Raises:
        UserError: it is nothing that has records.
    """
    features = getattr(data, "features", None)
    if isinstance(features, Mapping) and hasattr(data, "cast_column"):
        return _undecoded(data, features, images), huggingface.labels_of(features)
    if hasattr(data, "to_dict") and hasattr(data, "iterrows"):  # pandas
        return (row for row in data.to_dict("records")), {}
    if isinstance(data, Mapping):
        inside = f"'{next(iter(data))}'" if data else "nothing"
        raise UserError(
            f"{where} is {kind_of(data)} of {len(data)} parts ({inside} ...): pass one split, train=splits['train'], "
            "or a list of dictionaries, one per row"
        )
    if isinstance(data, str | bytes | Path) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise UserError(
            f"{where} is {kind_of(data)}; taken are a datasets.Dataset, a pandas.DataFrame or any iterable of "
            f"dictionaries. For files there is evertune.load_stream. Example: {EXAMPLE}"
        )
    if hasattr(data, "__iter__"):
        return iter(data), {}
    return (data[at] for at in range(len(data))) if hasattr(data, "__len__") else iter(data), {}


def _undecoded(data: Any, features: Mapping[str, Any], images: Sequence[str]) -> Any:
    """A `Dataset` that gives the values of Python, and images as the bytes that came: nothing is encoded again.

    What `set_transform` of the caller makes of a row is left as it is.
    """
    from datasets import Image as ImageFeature

    kind = getattr(data, "format", {}).get("type")
    if kind == "custom":
        return data
    for column in images:
        if isinstance(features.get(column), ImageFeature):
            data = data.cast_column(column, ImageFeature(decode=False))
    return data if kind is None else data.with_format(None)


def _refuse_missing(where: str, names: Sequence[str], images: Sequence[str], columns: Columns) -> None:
    wanted = [("image", column) for column in images]
    for role, name in [*wanted, ("instruction", columns.instruction), ("answer", columns.answer)]:
        if name not in names:
            none = ", or image=None where there are no images" if role == "image" else ""
            raise UserError(
                f"{where}: there is no column '{name}'; {nearest(name, names, cutoff=ALIKE)} "
                f"(say which one it is: {role}=COLUMN{none})"
            )


def _image_names(value: Any, origin: str) -> tuple[str, ...]:
    """The names below `embedded.folder()` of the images in a cell, or paths; several where it is a list.

    Raises:
        DataError: it holds something else.
    """
    if is_missing(value):
        return ()
    cells = value if isinstance(value, list | tuple) else [value]
    embedded.refuse_many_images(cells, origin)
    return tuple(_image_name(cell, origin) for cell in cells)


def image_path(value: ImageLike, *, origin: str) -> Path:
    """Where an image is; what is no file is written into the cache.

    Raises:
        DataError: it is no image.
    """
    return value if isinstance(value, Path) else embedded.folder() / _image_name(value, origin)


def _image_name(value: Any, origin: str) -> str:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | Path):
        return _path_of(str(value), origin)
    if isinstance(value, bytes | bytearray):
        return embedded.kept(bytes(value))
    if isinstance(value, np.ndarray):
        value = _from_array(value, origin)
    if isinstance(value, Image.Image):
        return embedded.kept(_png(value, origin))
    raise DataError(
        f"{origin}: the image is {kind_of(value)}; taken are PIL images, bytes, paths, {{'bytes', 'path'}} and arrays "
        "of (height, width, 3) bytes",
        kind="unusable image",
    )


def _path_of(text: str, origin: str) -> str:
    if not text or URL.match(text):
        what = f"the URL {text[:200]}, which is not fetched: download it first" if text else "an empty text"
        raise DataError(f"{origin}: the image is {what}", kind="unusable image")
    return str(Path(text).absolute())


def _from_array(value: np.ndarray[Any, Any], origin: str) -> Image.Image:
    try:
        if value.dtype not in (np.uint8, np.bool_):  # Pillow would take others, and clip them: [0, 1] becomes black
            raise ValueError
        return Image.fromarray(value)
    except (TypeError, ValueError) as problem:
        complaint = f"{origin}: an array of {value.dtype} {value.shape} is no image; taken are (height, width, 3) bytes"
        raise DataError(complaint, kind="unusable image") from problem


def _png(image: Image.Image, origin: str) -> bytes:
    """`png_of` an image of the caller's, which may be empty, closed, cut off, or of values that are no bytes."""
    if image.mode in ("F", "I"):
        complaint = f"{origin}: the image has the mode {image.mode}, whose range is not known: convert it to RGB or L"
        raise DataError(complaint, kind="unusable image")
    try:
        return png_of(image)
    except (OSError, ValueError, SyntaxError, SystemError, AttributeError) as problem:  # the last two: Pillow 10
        raise DataError(f"{origin}: the image can't be read ({problem})", kind="broken image") from problem


def png_of(image: Image.Image) -> bytes:
    """The pixels of an image as a PNG file, without loss; what else the object holds (EXIF, comments) is left out."""
    if "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode not in _PNG:
        image = image.convert("RGB")
    plain = image.copy()
    plain.info = {}
    content = io.BytesIO()
    plain.save(content, "PNG", compress_level=1)  # three times faster than the default, a tenth larger
    return content.getvalue()
