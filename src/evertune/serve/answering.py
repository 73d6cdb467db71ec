"""What a model makes of a batch of questions whose pictures are in memory: nothing of them is written anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from evertune.evaluate import Answer, answer_samples
from evertune.learner import Learner
from evertune.lmm.protocol import Generation
from evertune.tasks import Sample
from evertune.tasks.split import number_problem

IN_MEMORY = Path("(request)")


@dataclass(frozen=True, slots=True)
class Question:
    """Pictures with their SHA-256, words, and the most tokens that the answer may have.

    Attributes:
        task: whose question it is; reaches only a method that must be told.
    """

    pictures: Sequence[tuple[Image.Image, str]] = field(repr=False)
    words: str
    tokens: int
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, who gave it (None where all weights are one), and its length in tokens, end token included.

    Attributes:
        finished: whether it ended by itself; else it was cut off at the most tokens that it may have.
        ranking: learned tasks with the router's scores, the likeliest first; empty unless it was wanted.
    """

    text: str
    expert: str | None
    tokens: int
    asked_tokens: int
    finished: bool = True
    ranking: Sequence[tuple[str, float]] = ()


class Answering:
    """Answers batches with a learner; for one thread at a time.

    Args:
        learner: at the stage that answers.
        batch_size: questions that go through the model at once.
        ranked: whether replies tell the router's scores.
    """

    def __init__(self, learner: Learner, *, batch_size: int, ranked: bool = False) -> None:
        self._learner, self._batch_size, self._ranked = learner, batch_size, ranked

    def refuse(self, question: Question) -> None:
        """Stop a question that the model can't take.

        Raises:
            DataError: it takes another number of pictures.
        """
        lmm = self._learner.lmm
        if len(question.pictures) not in lmm.pictures:
            raise number_problem("the last message", len(question.pictures), lmm.pictures, model=lmm.name)

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        """One reply per question, in order."""
        found: dict[int, Reply] = {}
        with self._learner.features.held({sha: image for q in questions for image, sha in q.pictures}):
            for longest, task in dict.fromkeys((question.tokens, question.task) for question in questions):
                places = [
                    p for p, question in enumerate(questions) if (question.tokens, question.task) == (longest, task)
                ]
                found.update(zip(places, self._replies([questions[p] for p in places], longest, task), strict=True))
        return [found[place] for place in range(len(questions))]

    def _replies(self, questions: Sequence[Question], longest: int, task: str | None) -> list[Reply]:
        lmm = self._learner.lmm
        samples = [
            Sample(
                str(number),
                (IN_MEMORY,) * len(question.pictures),
                question.words,
                (),
                known_digests=tuple(sha for _, sha in question.pictures),
            )
            for number, question in enumerate(questions)
        ]
        answers = answer_samples(
            lmm,
            self._learner.methods,
            samples,
            self._learner.features,
            batch_size=self._batch_size,
            max_new_tokens=longest,
            task=task,
            reuse=False,
        )
        return [self._reply(answer) for answer in answers]

    def _reply(self, answer: Answer) -> Reply:
        said, sample = answer.text, answer.sample
        assert isinstance(said, Generation), "nothing comes from a cache of texts"
        asked, ranking = self._asked_tokens(sample), self._ranking(sample)
        return Reply(said, answer.expert, len(said.ids), asked, finished=said.finished, ranking=ranking)

    def _ranking(self, sample: Sample) -> list[tuple[str, float]]:
        return self._learner.ranking(sample) if self._ranked else []

    def _asked_tokens(self, sample: Sample) -> int:
        """What the LM reads of a question with one picture; 0 for a family without a limit, which does not say it."""
        lmm = self._learner.lmm
        parts = lmm.lengths(sample.instruction, "")
        return parts[-1].tokens - lmm.answer_tokens("") if parts else 0
