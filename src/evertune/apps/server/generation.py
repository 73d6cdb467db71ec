"""What a model makes of a batch of questions whose images are in memory: nothing of them is written anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from evertune.apps.server.reload import ServedStage, StageReloader
from evertune.data import Sample
from evertune.data.split import number_problem
from evertune.models.protocol import Generation, Size, Turn
from evertune.models.readable import refuse_unreadable
from evertune.training.evaluator import Prediction, answer_samples
from evertune.training.learner import Learner
from evertune.utils.errors import RunFolderError

IN_MEMORY = Path("(request)")


@dataclass(frozen=True, slots=True)
class Question:
    """Images with their SHA-256, words, and the most tokens that the answer may have.

    Attributes:
        task: whose question it is; reaches only a method that must be told.
        stops: texts before which the answer ends.
        context: what was said before; its images are the first.
    """

    images: Sequence[tuple[Image.Image, str]] = field(repr=False)
    words: str
    tokens: int
    task: str | None = None
    stops: tuple[str, ...] = ()
    context: tuple[Turn, ...] = ()

    @property
    def kind(self) -> tuple[int, str | None, tuple[Turn, ...]]:
        """Questions of a kind go through the model together."""
        return self.tokens, self.task, self.context

    @property
    def sizes(self) -> list[Size]:
        """Of the images."""
        return [(image.height, image.width) for image, _ in self.images]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, who gave it (None where all weights are one), and its length in tokens, end token included.

    Attributes:
        finished: whether it ended by itself; else it was cut off at the most tokens that it may have.
        ranking: learned tasks with the router's probabilities, the likeliest first; empty unless it was wanted.
        served: the stage that answered.
    """

    text: str
    expert: str | None
    tokens: int
    prompt_tokens: int
    finished: bool = True
    ranking: Sequence[tuple[str, float]] = ()
    served: ServedStage = field(default_factory=ServedStage)


class BatchGenerator:
    """Answers batches with a learner; for one thread at a time.

    Args:
        learner: at the stage that answers.
        follows: whether it goes to the last stage of its folder, whatever other processes do there meanwhile.
        batch_size: questions that go through the model at once.
        ranked: whether replies tell the router's scores.
    """

    def __init__(self, learner: Learner, *, batch_size: int, ranked: bool = False, follows: bool = False) -> None:
        self._learner, self._batch_size, self._ranked = learner, batch_size, ranked
        self._follower = StageReloader(learner) if follows else None

    @property
    def served(self) -> ServedStage:
        """The stage that answers now.

        Raises:
            RunFolderError: none can, because the folder is damaged.
        """
        if self._follower and self._follower.fault:
            raise self._follower.fault
        return self._follower.served if self._follower else ServedStage(self._learner.current)

    def follow(self) -> bool:
        """Go to the folder's last stage; whether it was another one.

        Raises:
            RunFolderError: it can't be loaded.
        """
        return self._follower is not None and self._follower.follow()

    def idle(self) -> None:
        """`follow` while no request waits; `served` says what is wrong."""
        with suppress(RunFolderError):
            self.follow()

    def refuse_number(self, images: int) -> None:
        """Stop a question with another number of images than the model takes; none of them needs to be decoded.

        Raises:
            DataError: it takes another number.
        """
        lmm = self._learner.lmm
        if images not in lmm.images_per_sample:
            raise number_problem("the messages", images, lmm.images_per_sample, model=lmm.name)

    def refuse(self, question: Question) -> None:
        """Stop a question that the model can't take.

        Raises:
            DataError: it takes another number of images, can't prepare one, or can't read the words.
            UserError: it reads no dialogue, or not this one.
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
        """Of questions of one kind."""
        longest, task, context = questions[0].kind
        samples = [
            Sample(
                str(number),
                (IN_MEMORY,) * len(question.images),
                question.words,
                (),
                known_digests=tuple(sha for _, sha in question.images),
            )
            for number, question in enumerate(questions)
        ]
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
        )
        return [self._reply(answer, question) for answer, question in zip(answers, questions, strict=True)]

    def _reply(self, answer: Prediction, question: Question) -> Reply:
        generated = answer.text
        assert isinstance(generated, Generation), "nothing comes from a cache of texts"
        text, tokens, finished = self._stopped(generated, question.stops)
        prompt_tokens, ranking = self._prompt_tokens(question), self._ranking(answer.sample)
        return Reply(text, answer.expert, tokens, prompt_tokens, finished=finished, ranking=ranking, served=self.served)

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
        """What the LM reads of a question; 0 for a family without a limit, which does not say it."""
        lmm = self._learner.lmm
        parts = lmm.lengths(question.words, "", question.sizes, question.context)
        return parts[-1].tokens - lmm.answer_tokens("") if parts else 0
