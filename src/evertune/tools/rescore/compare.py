"""Score a file of answers by our rules and by those of public evaluators, and sort what differs by its reason.

A number beside another one says little; the reasons, which add up to the difference, say whose answers they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evertune.metrics.rules import CellScore, Rule, rule_of, score_cell
from evertune.tools.rescore.formats import Format, format_of
from evertune.tools.rescore.pairing import Case, Missing, beside, by_question, pair, pair_by_line
from evertune.tools.rescore.peers import Peer
from evertune.tools.rescore.predictions import PredictionRecord, read_predictions, read_totals
from evertune.tools.rescore.reasons import ScoreDifference, reason_for
from evertune.utils.errors import DataError, UserError

SAME = 1e-9
# `Result.text` has two decimals.
REPRODUCED = 0.00501
EXAMPLE_LETTERS = 60
TOTAL_KEYS = ("Accuracy", "Average", "Final Score Norm")


@dataclass(frozen=True, slots=True)
class OurScore:
    """One of our scores in points: strict, relaxed of the form, and the standard error of the strict one."""

    rule: str
    about: str
    strict: float
    relaxed: float
    standard_error: float | None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why scores differ: how many answers, how many points it moves their score, and one of the answers."""

    why: str
    answers: int
    points: float
    example: str


@dataclass(frozen=True, slots=True)
class TheirScore:
    """The score of a public evaluator in points.

    Attributes:
        points: None when it can't be computed here; `problem` says why.
        reported: whether the `Result.text` beside the answers has this number; None when there is no number.
        differences: from our main score, largest first; empty where answers have no scores of their own.
    """

    name: str
    source: str
    does: str
    points: float | None
    problem: str
    reported: bool | None
    differences: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class RescoreResult:
    """What came of a file of answers."""

    file: str
    gold: str
    format: str
    questions: int
    missing: int
    empty: int
    ours: tuple[OurScore, ...]
    theirs: tuple[TheirScore, ...]
    reported: dict[str, float]


def rescore(
    file: Path,
    *,
    format: str,
    gold: Path | None = None,
    scores: Sequence[str] = (),
    split: str = "test",
    missing: Missing = "fail",
    prediction: str | None = None,
) -> RescoreResult:
    """Score the answers in `file`.

    Args:
        file: `merge.jsonl`, `ans_gt.json`, or a list of answers.
        format: name of a `formats.Format`.
        gold: the gold file; not needed for `ans_gt.json`, which holds it.
        scores: names of our rules instead of the format's own.
        split: of ScienceQA's problems.
        missing: `wrong` counts questions without an answer as wrong instead of failing.
        prediction: the key of the prediction in each row of `file`; default: by the names of its keys.

    Raises:
        UserError: a file is broken, ids don't match, or a rule can't be applied; the message says where.
    """
    layout = format_of(format)
    rules = [rule_of(name) for name in scores or layout.rules]
    predicted = read_predictions(file, key=prediction)
    cases = _cases(layout, predicted, file=file, gold=gold, split=split, missing=missing)
    _check_golds(cases, {*rules, *map(rule_of, layout.rules)}, where=gold or file)
    texts, golds = [case.predicted or "" for case in cases], [case.gold.answers for case in cases]
    cells = [score_cell(rule, texts, golds) for rule in rules]
    totals = read_totals(file)
    return RescoreResult(
        file=str(file),
        gold=str(gold or file),
        format=layout.name,
        questions=len(cases),
        missing=sum(case.predicted is None for case in cases),
        empty=sum(case.predicted is not None and not case.predicted.strip() for case in cases),
        ours=tuple(
            OurScore(rule.name, rule.about, cell.strict, cell.relaxed, cell.standard_error)
            for rule, cell in zip(rules, cells, strict=True)
        ),
        theirs=tuple(_theirs(peer, cases, cells[0], totals) for peer in layout.peers),
        reported=totals,
    )


def _cases(
    layout: Format,
    predicted: Sequence[PredictionRecord],
    *,
    file: Path,
    gold: Path | None,
    split: str,
    missing: Missing,
) -> list[Case]:
    if gold is None:
        if not all(one.gold for one in predicted):
            raise UserError(f"{file} holds no gold answers: name the gold file with --gold")
        return beside(predicted)
    golds = layout.read(gold, split)
    predicted = by_question(predicted, golds, gold=gold)
    if layout.by_line and {one.id for one in predicted} != {one.id for one in golds}:
        return pair_by_line(predicted, golds, file=file, gold=gold)
    return pair(predicted, golds, file=file, gold=gold, missing=missing)


def _check_golds(cases: Sequence[Case], rules: Iterable[Rule], *, where: Path) -> None:
    """Refuse gold answers that a score can't use, with their question."""
    checks = [rule.check_gold for rule in rules if rule.check_gold]
    for case in cases if checks else ():
        try:
            for check in checks:
                for answer in case.gold.answers:
                    check(answer)
        except UserError as problem:
            raise DataError(f"{where}, question '{case.gold.id}': {problem}") from problem


def _theirs(peer: Peer, cases: Sequence[Case], ours: CellScore, totals: dict[str, float]) -> TheirScore:
    scores = peer.scores(cases)
    try:
        points, problem = peer.points(cases, scores), ""
    except UserError as missing:
        points, problem = None, str(missing)
    total = next((totals[key] for key in TOTAL_KEYS if key in totals), None)
    met = None if points is None or total is None else abs(points - total) < REPRODUCED
    reasons: tuple[Reason, ...] = ()
    if points is not None and peer.each:
        reasons = _reasons(peer, list(zip(cases, ours.each, scores, strict=True)), points - ours.strict)
    return TheirScore(peer.name, peer.source, peer.does, points, problem, met, reasons)


def _reasons(peer: Peer, scored: Sequence[tuple[Case, float, float | None]], gap: float) -> tuple[Reason, ...]:
    """Differences by reason; with questions that leave their average the points add up to the `gap` too."""
    groups: dict[str, list[ScoreDifference]] = {}
    for case, mine, theirs in scored:
        if theirs is not None and abs(theirs - mine) > SAME:
            found = ScoreDifference(case, mine, theirs)
            groups.setdefault(reason_for(found, peer), []).append(found)
    reasons = [_reason(why, found, len(scored)) for why, found in groups.items()]
    left_out = sum(theirs is None for _, _, theirs in scored)
    if left_out:
        rest = gap - sum(reason.points for reason in reasons)
        reasons.append(Reason("questions without an answer leave their average", left_out, rest, ""))
    return tuple(sorted(reasons, key=lambda reason: -abs(reason.points)))


def _reason(why: str, found: Sequence[ScoreDifference], questions: int) -> Reason:
    points = 100 * sum(one.theirs - one.ours for one in found) / questions
    first = found[0]
    return Reason(why, len(found), points, f"'{_short(first.predicted)}' for '{_short(first.case.first)}'")


def _short(text: str) -> str:
    """One line that is safe to print: no escape sequences, no halves of letters."""
    plain = "".join(sign if sign.isprintable() else "�" for sign in " ".join(text.split()))
    return plain if len(plain) <= EXAMPLE_LETTERS else plain[: EXAMPLE_LETTERS - 1] + "…"
