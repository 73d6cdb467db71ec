"""Images to features: data workers read and prepare images while the vision tower encodes the ones before.

Workers are processes of PyTorch's DataLoader. Without a number from the user there are none for the first moments of
a stream, in which the time for preparing and for encoding is measured; then as many as keep the tower busy.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from evertune.data.images import read_image, unprepared
from evertune.models.protocol import Encoder
from evertune.utils.device import is_deterministic
from evertune.utils.errors import DataError, UserError

ENCODE_BATCH = 64
"""Images that the tower encodes at once."""
PIECE = 8
"""Images of one errand of a data worker."""
MEASURED_SECONDS = 0.5
"""So long images are prepared in this process, before data workers are worth their start."""
NO_WORKER = -1


class ImageSource(NamedTuple):
    """An image: its SHA-256, its file, and the origin of a row that has it."""

    sha256: str
    path: Path
    origin: str

    @property
    def where(self) -> str:
        """What an error about it begins with."""
        return f"{self.origin}: the image {self.path}: "


@dataclass(frozen=True, slots=True)
class Group:
    """Images that are encoded together; `signature` is what the caller finds them by."""

    signature: tuple[str, ...]
    sources: tuple[ImageSource, ...]


class Prepared(NamedTuple):
    """A group whose images are prepared for the tower."""

    group: Group
    images: list[Any]


class FeatureEncoder:
    """Encodes groups of images, one after another.

    Args:
        lmm: whose tower encodes.
        workers: data workers; None: as many as measurement suggests.
    """

    def __init__(self, lmm: Encoder, *, workers: int | None = None) -> None:
        self._lmm, self._workers = lmm, workers
        self._at_once = 1 if is_deterministic() else ENCODE_BATCH
        self.prepare_seconds, self.encode_seconds, self.images = 0.0, 0.0, 0
        """Measured, for so many images."""

    def prepared(self, groups: Iterator[Group]) -> Iterator[Prepared]:
        """The groups in their order, read and prepared ahead by data workers.

        Raises:
            DataError: an image is broken or can't be prepared; the message names file and line.
        """
        before = self.prepare_seconds
        for group in groups:
            yield Prepared(group, self._prepared_here(group.sources))
            if count := self._worker_count(self.prepare_seconds - before):
                yield from self._by_workers(groups, count)

    def _prepared_here(self, sources: Sequence[ImageSource]) -> list[Any]:
        started = time.perf_counter()
        made = [_checked(prepare(self._lmm, source)) for source in sources]
        self.prepare_seconds += time.perf_counter() - started
        self.images += len(sources)
        return made

    def _worker_count(self, spent: float) -> int:
        """How many data workers a stream gets after so many seconds of preparing."""
        if not sys.platform.startswith("linux") or multiprocessing.current_process().daemon:
            return 0  # a worker that is not forked would get a copy of the model
        if self._workers is not None:
            return self._workers
        if spent < MEASURED_SECONDS or not self.encode_seconds:
            return 0
        return min(math.ceil(self.prepare_seconds / self.encode_seconds), cores_of_process())

    def _by_workers(self, groups: Iterator[Group], count: int) -> Iterator[Prepared]:
        """Prepare the rest of `groups` in `count` processes; in this one after a worker has ended."""
        at_work = torch.full((count,), NO_WORKER).share_memory_()  # type: ignore[no-untyped-call]
        pending: list[_Errand] = []
        errands = _errands(groups)
        loader = DataLoader(
            _Errands(self._lmm, at_work),
            sampler=_noted(errands, pending),
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=count,
            multiprocessing_context="fork",
            generator=torch.Generator(),  # the training's own numbers stay as they are
        )
        made: list[Any] = []
        with _children_as_before():
            arrived = iter(loader)
        while True:
            try:
                images = next(arrived, None)
            except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as problem:
                if isinstance(problem, RuntimeError) and "worker" not in str(problem):
                    raise
                _note_ended(problem, pending, at_work)
                yield from self._finished_here(chain(pending, errands), made)
                return
            if images is None:
                return
            errand = pending.pop(0)
            made += [_checked(image) for image in images]
            if errand.is_last:
                yield Prepared(errand.group, made)
                made = []

    def _finished_here(self, pending: Iterable[_Errand], made: list[Any]) -> Iterator[Prepared]:
        """What ended workers have left."""
        for errand in pending:
            made += self._prepared_here(errand.sources)
            if errand.is_last:
                yield Prepared(errand.group, made)
                made = []

    def encode(self, prepared: Prepared) -> dict[str, Tensor]:
        """{SHA-256: (V, D) features} of a group.

        Raises:
            DataError: an image can't be encoded; the message names file and line.
        """
        sources, started = prepared.group.sources, time.perf_counter()
        made: list[Tensor] = []
        for start in range(0, len(sources), self._at_once):
            part = slice(start, start + self._at_once)
            made += self._encoded(prepared.images[part], sources[part])
        self.encode_seconds += time.perf_counter() - started
        return {source.sha256: features for source, features in zip(sources, made, strict=True)}

    def encode_now(self, sources: Sequence[ImageSource]) -> dict[str, Tensor]:
        """{SHA-256: (V, D) features}, prepared in this process.

        Raises:
            DataError: as `prepared` and `encode`.
        """
        made: dict[str, Tensor] = {}
        for start in range(0, len(sources), ENCODE_BATCH):
            group = Group((), tuple(sources[start : start + ENCODE_BATCH]))
            made |= self.encode(Prepared(group, self._prepared_here(group.sources)))
        return made

    def encode_images(self, images: Mapping[str, Image.Image]) -> dict[str, Tensor]:
        """{SHA-256: (V, D) features} of images in memory."""
        made: list[Tensor] = []
        wanted = list(images.values())
        for start in range(0, len(wanted), self._at_once):
            made += self._lmm.encode(wanted[start : start + self._at_once])
        return dict(zip(images, made, strict=True))

    def _encoded(self, images: Sequence[Any], sources: Sequence[ImageSource]) -> list[Tensor]:
        try:
            return list(self._lmm.encode_prepared(images))
        except (ValueError, ArithmeticError, LookupError) as problem:
            if len(images) > 1:  # which one?
                for image, source in zip(images, sources, strict=True):
                    self._encoded([image], [source])
            if isinstance(problem, UserError) and not isinstance(problem, DataError):
                raise
            raise DataError(f"{sources[0].where}{problem}", kind="image that can't be prepared") from problem


def prepare(lmm: Encoder, source: ImageSource) -> Any:
    """An image as the tower takes it; an error as a value, since it may have to leave a data worker."""
    try:
        image, content = read_image(source.path, origin=source.origin)
        if content != source.sha256:  # what is stored under a key must be made of just those bytes
            changed = "was changed while it was in use; run the same command again"
            raise DataError(f"{source.origin}: the image {source.path} {changed}")
    except DataError as problem:
        return problem
    try:
        return lmm.prepare(image)
    except (ValueError, ArithmeticError, LookupError) as problem:
        if isinstance(problem, UserError) and not isinstance(problem, DataError):
            return problem
        fault = problem if isinstance(problem, DataError) else unprepared((image.height, image.width), problem)
        return DataError(f"{source.where}{fault}", kind=fault.kind)


def _checked(prepared: Any) -> Any:
    if isinstance(prepared, UserError):
        raise prepared
    return prepared


def cores_of_process() -> int:
    """Cores for the data workers of this process: its share where several run on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class _Errand(NamedTuple):
    """A part of a group for one data worker."""

    group: Group
    sources: tuple[ImageSource, ...]
    number: int
    is_last: bool


def _errands(groups: Iterator[Group]) -> Iterator[_Errand]:
    number = 0
    for group in groups:
        starts = range(0, max(1, len(group.sources)), PIECE)
        for start in starts:
            yield _Errand(group, group.sources[start : start + PIECE], number, start == starts[-1])
            number += 1


def _noted(errands: Iterator[_Errand], pending: list[_Errand]) -> Iterator[_Errand]:
    """The errands, each of which is in `pending` until its images have come back."""
    for errand in errands:
        pending.append(errand)
        yield errand


class _Errands(Dataset[list[Any]]):
    """Prepares the images of an errand, in a data worker; `at_work` says at which image each worker is."""

    def __init__(self, lmm: Encoder, at_work: Tensor) -> None:
        self._lmm, self._at_work = lmm, at_work

    def __getitem__(self, errand: _Errand) -> list[Any]:
        made, info = [], get_worker_info()
        worker = info.id if info else NO_WORKER
        for place, source in enumerate(errand.sources):
            self._at_work[worker] = errand.number * PIECE + place
            made.append(prepare(self._lmm, source))
        return made


def _unchanged(made: list[Any]) -> list[Any]:
    """Prepared images as they are: by default a DataLoader makes lists of tuples and tensors of arrays."""
    return made


@contextmanager
def _children_as_before() -> Iterator[None]:
    """What a DataLoader does at the end of a child is undone: it raises, wherever the main thread is at that moment.

    Without it `next` finds the end of a worker within seconds.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)


def _note_ended(problem: Exception, pending: Sequence[_Errand], at_work: Tensor) -> None:
    """Say that a data worker has ended and at which images they were; the run continues without workers."""
    images = {errand.number * PIECE + place: s.path for errand in pending for place, s in enumerate(errand.sources)}
    names = [str(images[number]) for number in at_work.tolist() if number in images]
    logging.getLogger("evertune").warning(
        f"a data worker has ended ({problem}), perhaps for lack of memory; the workers were at the images "
        f"{', '.join(names) or '(none)'}. Images are prepared in the main process from here on, as with "
        "features.workers=0"
    )
