"""The expert of each question, by the router of a model; and what the server behind calls its adapter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from evertune.apps.server.generation import Question, refuse_number, samples_of
from evertune.apps.server.names import LAST, ServedModels, ServedStage
from evertune.apps.server.reload import StageReloader
from evertune.methods.base import BASE, Method
from evertune.training.learner import Learner
from evertune.utils.errors import RunFolderError, UserError

READ = 20_000
"""Characters of a question that the router reads: counting the tokens of a very long one takes seconds."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The expert of a question, and the stage whose router chose it; `BASE` where the base model answers."""

    expert: str
    served: ServedStage


class Chooser:
    """Routes batches of questions; for one thread at a time. Follows the folder like the server.

    Args:
        learner: at its last stage.

    Raises:
        UserError: its method has no experts to choose from, or needs the task of a question.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._follower = StageReloader(learner)
        _refuse_without_router(learner)

    @property
    def served(self) -> ServedStage:
        """The stage whose router chooses now.

        Raises:
            RunFolderError: the folder is damaged.
        """
        if self._follower.fault:
            raise self._follower.fault
        return self.models.last

    @property
    def models(self) -> ServedModels:
        """The names that requests may give: the model's, which is routed, and its experts."""
        return replace(self._follower.models, stages={})

    @property
    def folders(self) -> dict[str, str]:
        """The names of the adapters of `evertune export --for`, by expert: the stage that the expert is of."""
        known = self._follower.models.stages.values()
        return {stage.task: f"{stage.stage:02d}-{stage.task}" for stage in known if stage.task}

    def idle(self) -> None:
        """Load the folder's last stage while no request waits; errors are reported by `served`."""
        with suppress(RunFolderError):
            self._follower.follow()

    def refuse_number(self, images: int) -> None:
        """Refuse a question with the wrong number of images, before any image is decoded.

        Raises:
            DataError: the model takes another number.
        """
        refuse_number(self._learner.lmm, images)

    def refuse(self, question: Question) -> None:
        """Nothing more: what the words may be is the other server's business."""

    def __call__(self, questions: Sequence[Question]) -> list[Choice]:
        """The choice for each question, in order.

        Raises:
            RunFolderError: the folder's last stage can't be loaded. UserError: the method mixes several experts.
        """
        self._follower.follow()
        served = self._follower.at(LAST)
        samples = samples_of([replace(question, words=question.words[:READ]) for question in questions])
        with self._learner.features.held({sha: image for q in questions for image, sha in q.images}):
            routes = (method.route(samples) for method in self._learner.methods)
            routed = next((found for found in routes if found is not None), [BASE] * len(questions))
        if mixed := next((each for each in routed if not isinstance(each, str)), None):
            raise UserError(f"the method mixes adapters for a question ({mixed!r:.80}); a server takes one per request")
        return [Choice(str(expert), served) for expert in routed]


def _refuse_without_router(learner: Learner) -> None:
    names = "+".join(method.name for method in learner.methods)
    if not any(type(method).route is not Method.route for method in learner.methods):
        raise UserError(f"'{names}' has one set of weights and nothing to route: evertune serve answers with it")
    if learner.needs_task_id():
        raise UserError(f"'{names}' needs the task of each question, which a request does not say")


def adapter_names(
    experts: Iterable[str], listed: Sequence[str], folders: Mapping[str, str], given: Mapping[str, str]
) -> dict[str, str]:
    """What the other server calls the adapter of each expert.

    Args:
        experts: of the last stage, with `BASE`.
        listed: the models that the server says it has.
        folders: the names of exported adapters; a server may load one that it does not list.
        given: by the user, which come first.
    """
    found = dict(given)
    for expert in experts:
        if expert in found:
            continue
        if expert == BASE:
            bases = [each for each in listed if each.endswith(":base")] or list(listed)
            found[BASE] = next(iter(bases), BASE)
            continue
        alike = (each for each in listed if re.fullmatch(rf"(\d+-|.*:expert=){re.escape(expert)}", each))
        found[expert] = expert if expert in listed else next(alike, folders.get(expert, expert))
    return found
