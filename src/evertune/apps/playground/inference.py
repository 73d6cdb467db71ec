"""Queries every stage of every run with one question; earlier predictions are cached.

There is one model in memory and one lock. The lock is held for one stage at a time, so that of two users
neither waits until all stages have answered the other.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from evertune.apps.playground.model_session import ModelSession
from evertune.apps.playground.runs import Run
from evertune.apps.playground.uploads import read_bounded
from evertune.apps.server.generation import BatchGenerator, Question, Reply
from evertune.apps.server.reload import has_moved
from evertune.data.images import image_of_bytes
from evertune.utils.errors import DataError, UserError

LONGEST_QUESTION = 4000
"""Characters; no model here reads more."""
REMEMBERED = 4096
"""Answers, a few hundred bytes each."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query: an image with its SHA-256, or none; the words; the task, where it is known."""

    image: tuple[Image.Image, str] | None = field(repr=False)
    words: str
    task: str | None = None

    @property
    def sha(self) -> str:
        """Of the image; '' without one."""
        return self.image[1] if self.image else ""


def image_at(path: Path | None) -> tuple[Image.Image, str] | None:
    """The uploaded image, if there is one.

    Raises:
        DataError: it is no regular file, too large, broken or no image.
    """
    return image_of_bytes(read_bounded(path), where="the image") if path else None


def query_of(path: Path | None, words: str, task: str | None) -> Query:
    """A checked query.

    Raises:
        DataError: there are no words, too many of them, or the image can't be used.
    """
    words = words.strip()
    if not words:
        raise DataError("the question has no words: ask something")
    if len(words) > LONGEST_QUESTION:
        raise DataError(f"the question has {len(words):,} letters; at most {LONGEST_QUESTION:,} are taken: ask shorter")
    return Query(image_at(path), words, task)


class StageInference:
    """Queries every stage of every run.

    Args:
        runs: the runs.
        session: their model.
        tokens: longest answer.
    """

    def __init__(self, runs: Sequence[Run], session: ModelSession, *, tokens: int) -> None:
        self._runs, self._session, self._tokens = list(runs), session, tokens
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[int, int, str, str, str | None], Reply] = OrderedDict()

    def refresh(self) -> list[Run]:
        """The current runs; cached predictions of a run that another process changed are dropped.

        Raises:
            UserError: one has learned nothing any more. RunFolderError: one is damaged.
        """
        with self._lock:
            for number, run in enumerate(self._runs):
                if has_moved(run.folder, run.marks):
                    self._runs[number] = self._session.run(run.folder, name=run.name)
                    for key in [key for key in self._known if key[0] == number]:
                        del self._known[key]
            return list(self._runs)

    def replies(self, query: Query) -> Iterator[tuple[int, int, Reply | UserError]]:
        """(run, stage, reply) for each stage of each run; after an error the run's remaining stages are skipped."""
        for number, run in enumerate(list(self._runs)):
            for stage in range(len(run.stages) + 1):
                try:
                    yield number, stage, self._reply(number, stage, query)
                except UserError as problem:
                    yield number, stage, problem
                    break

    def _reply(self, number: int, stage: int, query: Query) -> Reply:
        run = self._runs[number]
        task = query.task if run.needs_task else None
        key = (number, stage, query.sha, query.words, task)
        with self._lock:
            if key not in self._known:
                if run.needs_task and task is None:
                    raise UserError(f"{run.name} needs the task of a question: choose one of its questions")
                self._known[key] = self._answered(run, stage, query, task)
                while len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]

    def _answered(self, run: Run, stage: int, query: Query, task: str | None) -> Reply:
        learner = self._session.at(run, stage)
        images = [query.image] if query.image else []
        if len(images) not in learner.lmm.images_per_sample:
            wants = "no image" if images else "an image: choose or drop one"
            raise DataError(f"{learner.lmm.name} takes {wants}", kind="wrong number of images")
        question = Question(images, query.words, self._tokens, task)
        answering = BatchGenerator(learner, batch_size=1, ranked=True)
        answering.refuse(question)
        return answering([question])[0]
