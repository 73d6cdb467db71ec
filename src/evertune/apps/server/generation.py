"""Generates the replies to a batch of questions. Their images stay in memory and are written nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from evertune.apps.server.names import LAST, ServedModels, ServedStage, Variant
from evertune.apps.server.reload import StageReloader
from evertune.data import Sample
from evertune.data.split import number_problem
from evertune.models.protocol import LMM, Generation, Size, Turn
from evertune.models.readable import refuse_unreadable
from evertune.training.evaluator import Prediction, answer_samples
from evertune.training.learner import Learner
from evertune.utils.errors import RunFolderError

IN_MEMORY = Path("(request)")


@dataclass(frozen=True, slots=True)
class Question:
    """Images with their SHA-256, the text, and the most tokens of the answer.

    Attributes:
        task: the task of the question; used only by methods that need it.
        stops: texts before which the answer ends.
        context: earlier turns; their images come first in `images`.
        variant: which model answers.
    """

    images: Sequence[tuple[Image.Image, str]] = field(repr=False)
    words: str
    tokens: int
    task: str | None = None
    stops: tuple[str, ...] = ()
    context: tuple[Turn, ...] = ()
    variant: Variant = LAST

    @property
    def kind(self) -> tuple[Variant, int, str | None, tuple[Turn, ...]]:
        """Questions with equal keys are batched together."""
        return self.variant, self.tokens, self.task, self.context

    @property
    def sizes(self) -> list[Size]:
        """Of the images."""
        return [(image.height, image.width) for image, _ in self.images]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, its expert (None for a method without experts), and its length in tokens, end token included.

    Attributes:
        finished: whether it ended with an end token or stop text; else it was cut off at its token limit.
        ranking: learned tasks with the router's probabilities, highest first; empty unless requested.
        served: the stage that generated it.
    """

    text: str
    expert: str | None
    tokens: int
    prompt_tokens: int
    finished: bool = True
    ranking: Sequence[tuple[str, float]] = ()
    served: ServedStage = field(default_factory=ServedStage)


def samples_of(questions: Sequence[Question]) -> list[Sample]:
    """Samples whose images are held in memory, under their digests."""
    return [
        Sample(
            str(number),
            (IN_MEMORY,) * len(question.images),
            question.words,
            (),
            known_digests=tuple(sha for _, sha in question.images),
        )
        for number, question in enumerate(questions)
    ]


def refuse_number(lmm: LMM, images: int) -> None:
    """Refuse a question with the wrong number of images, before any image is decoded.

    Raises:
        DataError: the model takes another number.
    """
    if images not in lmm.images_per_sample:
        raise number_problem("the messages", images, lmm.images_per_sample, model=lmm.name)


class BatchGenerator:
    """Answers batches with a learner; for one thread at a time.

    Args:
        learner: at the stage that answers.
        follows: whether to load new stages and rollbacks of other processes.
        batch_size: questions that go through the model at once.
        ranked: whether replies contain the router's probabilities.
    """

    def __init__(self, learner: Learner, *, batch_size: int, ranked: bool = False, follows: bool = False) -> None:
        self._learner, self._batch_size, self._ranked = learner, batch_size, ranked
        self._follower = StageReloader(learner) if follows else None

    @property
    def served(self) -> ServedStage:
        """The last stage, which answers where no other is named.

        Raises:
            RunFolderError: the folder is damaged, so that no stage can answer.
        """
        if self._follower and self._follower.fault:
            raise self._follower.fault
        return self.models.last

    @property
    def models(self) -> ServedModels:
        """The models that there are, or were before the folder was damaged."""
        return self._follower.models if self._follower else ServedModels(ServedStage(self._learner.current))

    def follow(self) -> bool:
        """Load the folder's last stage; returns whether the stage changed.

        Raises:
            RunFolderError: it can't be loaded.
        """
        return self._follower is not None and self._follower.follow()

    def idle(self) -> None:
        """`follow` while no request waits; errors are reported by `served`."""
        with suppress(RunFolderError):
            self.follow()

    def refuse_number(self, images: int) -> None:
        """Refuse a question with the wrong number of images, before any image is decoded.

        Raises:
            DataError: it takes another number.
        """
        refuse_number(self._learner.lmm, images)

    def refuse(self, question: Question) -> None:
        """Refuse a question that the model can't take.

        Raises:
            DataError: it takes another number of images, can't prepare one, or can't read the words.
            UserError: the model does not support dialogues, or not this one.
        """
        self.refuse_number(len(question.images))
        lmm = self._learner.lmm
        refuse_unreadable(Sample("question", (), question.words, ()), lmm, question.sizes, question.context)

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        """One reply per question, in order.

        Raises:
            RunFolderError: the folder's last stage can't be loaded.
        """
        self.follow()
        try:
            return self._answered(questions)
        except RunFolderError:
            if not self.follow():
                raise
            return self._answered(questions)  # a stage was rolled back while it was read

    def _answered(self, questions: Sequence[Question]) -> list[Reply]:
        found: dict[int, Reply] = {}
        with self._learner.features.held({sha: image for q in questions for image, sha in q.images}):
            for kind in dict.fromkeys(question.kind for question in questions):
                places = [place for place, question in enumerate(questions) if question.kind == kind]
                found.update(zip(places, self._replies([questions[place] for place in places]), strict=True))
        return [found[place] for place in range(len(questions))]

    def _replies(self, questions: Sequence[Question]) -> list[Reply]:
        """Replies to questions with equal keys."""
        variant, longest, task, context = questions[0].kind
        served = self._follower.at(variant) if self._follower else self.served
        samples = samples_of(questions)
        answers = answer_samples(
            self._learner.lmm,
            self._learner.methods,
            samples,
            self._learner.features,
            batch_size=self._batch_size,
            max_new_tokens=longest,
            task=task,
            context=context,
            reuse=False,
            expert=variant.expert,
        )
        return [self._reply(answer, question, served) for answer, question in zip(answers, questions, strict=True)]

    def _reply(self, answer: Prediction, question: Question, served: ServedStage) -> Reply:
        generated = answer.text
        assert isinstance(generated, Generation), "nothing comes from a cache of texts"
        text, tokens, finished = self._stopped(generated, question.stops)
        prompt_tokens, ranking = self._prompt_tokens(question), self._ranking(answer.sample)
        return Reply(text, answer.expert, tokens, prompt_tokens, finished=finished, ranking=ranking, served=served)

    def _stopped(self, generated: Generation, stops: Sequence[str]) -> tuple[str, int, bool]:
        """The text before the first of `stops`, the tokens up to its end, and whether the answer ended by itself."""
        places = [place for stop in stops if (place := generated.find(stop)) >= 0]
        if not places:
            return str(generated), len(generated.ids), generated.finished
        texts = self._learner.lmm.token_texts(generated.ids)
        whole = (n for n in range(1, len(texts) + 1) if any(stop in "".join(texts[:n]) for stop in stops))
        return generated[: min(places)], next(whole, len(generated.ids)), True

    def _ranking(self, sample: Sample) -> list[tuple[str, float]]:
        return self._learner.ranking(sample) if self._ranked else []

    def _prompt_tokens(self, question: Question) -> int:
        """The number of prompt tokens of a question; 0 for a family that does not report it."""
        lmm = self._learner.lmm
        parts = lmm.lengths(question.words, "", question.sizes, question.context)
        return parts[-1].tokens - lmm.answer_tokens("") if parts else 0
