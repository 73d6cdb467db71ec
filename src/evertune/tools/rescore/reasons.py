"""Why their score of an answer is not ours: the first reason that applies, most telling first."""

from __future__ import annotations

from collections.abc import Callable
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


Applies = Callable[[ScoreDifference, Peer], bool]


def _another_line(found: ScoreDifference, peer: Peer) -> bool:
    return peer.by_place and found.case.in_place != found.case.predicted


def _empty(found: ScoreDifference, peer: Peer) -> bool:
    del peer
    return not found.predicted.strip() and found.theirs > 0


def _wrong_word(found: ScoreDifference, peer: Peer) -> bool:
    return bool(peer.wrong_word) and peer.wrong_word in found.predicted and found.theirs == 0


def _several(found: ScoreDifference, peer: Peer) -> bool:
    """Only one answer was looked at, and others say something else."""
    plain = {normalise(gold) for gold in found.case.gold.answers}
    return peer.one_answer and len(plain) > 1


def _other_script(found: ScoreDifference, peer: Peer) -> bool:
    del peer
    return found.theirs > found.ours and not any(sign.isascii() and sign.isalnum() for sign in found.predicted)


def _fragment(found: ScoreDifference, peer: Peer) -> bool:
    del peer
    return found.theirs > found.ours and any(
        found.predicted.strip().casefold() in gold.casefold() for gold in found.case.gold.answers
    )


def _contains(found: ScoreDifference, peer: Peer) -> bool:
    del peer
    plain = _squeezed(found.predicted)
    return found.theirs > found.ours and any(_squeezed(gold) in plain for gold in found.case.gold.answers)


def _form(found: ScoreDifference, peer: Peer) -> bool:
    del peer
    plain = normalise(found.predicted)
    return found.ours > found.theirs and any(normalise(gold) == plain for gold in found.case.gold.answers)


def _squeezed(text: str) -> str:
    return "".join(text.casefold().replace(".", "").split())


def _share(found: ScoreDifference, peer: Peer) -> bool:
    del peer
    return 0 < found.theirs < 1 and len(found.case.gold.answers) == 1


def _yes_is_true(found: ScoreDifference, peer: Peer) -> bool:
    del peer
    return all(text.strip().upper() in YES | NO for text in (found.predicted, found.case.first))


Reasons = tuple[tuple[str, Applies], ...]
FIRST: Reasons = (
    ("another line's answer was scored: they go by place, not by id", _another_line),
    ("an empty answer is right for them", _empty),
    ("'Unanswerable' is wrong for them, whatever the answer is", _wrong_word),
    ("they compare with one answer, we with all annotators", _several),
)
# In between comes what an evaluator is known for itself.
THEN: Reasons = (
    ("yes and true, no and false are the same for them", _yes_is_true),
    ("a list gets the share of it that is named", _share),
    ("nothing is left of either text after their clean-up", _other_script),
    ("a part of the answer is right for them", _fragment),
    ("an answer that merely contains the gold is right for them", _contains),
    ("the same words in another form (case, articles, punctuation, numbers) are wrong for them", _form),
)


def reason_for(found: ScoreDifference, peer: Peer) -> str:
    """The first reason that applies."""
    own: Reasons = ((peer.because, lambda *_: bool(peer.because)),)
    for words, applies in (*FIRST, *own, *THEN):
        if applies(found, peer):
            return words
    return "another rule"
