"""Why their score of an answer is not ours: the first reason that applies, most telling first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from evertune.metrics.vqa import normalise
from evertune.tools.rescore.pairing import Case
from evertune.tools.rescore.peers import NO, YES, Peer


@dataclass(frozen=True, slots=True)
class ScoreDifference:
    """An answer that the two score differently: strict score of ours and theirs, 0 to 1 (CIDEr 0 to 10)."""

    case: Case
    ours: float
    theirs: float

    @property
    def predicted(self) -> str:
        """The prediction; empty when there is none."""
        return self.case.predicted or ""


def reason_for(found: ScoreDifference, peer: Peer) -> str:
    """The first reason that applies."""
    return next(words for words, applies in _reasons(found, peer) if applies)


def _reasons(found: ScoreDifference, peer: Peer) -> Iterator[tuple[str, bool]]:
    """Every reason, the most telling first, and whether it applies; what an evaluator is known for is in between."""
    case, predicted, golds = found.case, found.predicted, found.case.gold.answers
    more, plain = found.theirs > found.ours, normalise(predicted)
    same = {normalise(gold) for gold in golds}
    yield (
        "another line's answer was scored: they go by place, not by id",
        (peer.by_place and case.in_place != case.predicted),
    )
    yield "an empty answer is right for them", not predicted.strip() and found.theirs > 0
    yield (
        "'Unanswerable' is wrong for them, whatever the answer is",
        (bool(peer.wrong_word) and peer.wrong_word in predicted and found.theirs == 0),
    )
    yield "they compare with one answer, we with all annotators", peer.one_answer and len(same) > 1
    yield peer.because, bool(peer.because)
    yield (
        "yes and true, no and false are the same for them",
        (all(text.strip().upper() in YES | NO for text in (predicted, case.first))),
    )
    yield "a list gets the share of it that is named", 0 < found.theirs < 1 and len(golds) == 1
    yield (
        "nothing is left of either text after their clean-up",
        (more and not any(sign.isascii() and sign.isalnum() for sign in predicted)),
    )
    yield (
        "a part of the answer is right for them",
        (more and any(predicted.strip().casefold() in gold.casefold() for gold in golds)),
    )
    yield (
        "an answer that merely contains the gold is right for them",
        (more and any(_squeezed(gold) in _squeezed(predicted) for gold in golds)),
    )
    yield (
        "the same words in another form (case, articles, punctuation, numbers) are wrong for them",
        (found.ours > found.theirs and plain in same),
    )
    yield "another rule", True


def _squeezed(text: str) -> str:
    return "".join(text.casefold().replace(".", "").split())
