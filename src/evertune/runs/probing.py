"""What a run measures beside its matrix: the scores of its probes after each stage, and the text probe.

    ledger.jsonl   {"event": "text", "stage": 0, "losses": [[nll, tokens], ...], "text": HASH}; probes have cells
    matrix.json    "held_out": scores, changes with intervals, loss per token before and after

A probe is evaluated like a task, so its answers are files and cells of the ledger, too; it is no column of R.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.data import Task
from evertune.metrics.rules import RULES
from evertune.metrics.statistics import clustered_intervals
from evertune.reporting.held_out import CHANGE, TEXT_CHANGE, Change, HeldOut, TextProbe
from evertune.runs.callback import Callback
from evertune.runs.ledger import GONE, read_ledger
from evertune.runs.same_questions import clusters_of
from evertune.training.answer_files import read_answers
from evertune.utils import distributed
from evertune.utils.files import append_jsonl, digest

if TYPE_CHECKING:
    from evertune.training.learner import Learner

NO_PROBES = "needs probes (probes: in the stream's YAML, or --probe)"
NO_TEXT = "evaluation.text_probe is off"
NOT_ASKED = "needs every probe before the first stage and after the last"
Cells = Mapping[tuple[int, str], Mapping[str, Any]]
Losses = Sequence[tuple[float, int]]
"""Of each passage: negative log-likelihood in nats, tokens."""


def text_rows(wanted: bool, learner: Learner, folder: Path, *, last: int, callback: Callback) -> tuple[set[int], str]:
    """The rows in which the text probe is to be read now, and why there are none ever; '' where there are."""
    from evertune.training.text_probe import why_not

    if not wanted:
        return set(), NO_TEXT
    if reason := why_not(learner.lmm):
        callback.on_warning(f"no text probe: {reason} (evaluation.text_probe=false leaves it out)")
        return set(), reason
    return {0, last} - finished_texts(folder).keys(), ""


def read_text_probe(learner: Learner, number: int, folder: Path) -> None:
    """Measure the loss of each passage with the model as it is, and record it in the ledger."""
    distributed.send_command("text", number)
    event = {"event": "text", "stage": number, "losses": learner.text_losses(), "text": text_digest()}
    append_jsonl(folder / "ledger.jsonl", {**event, "time": time.time()})


def text_digest() -> str:
    """Short hash of the passages and their instruction."""
    from evertune.training.text_probe import passages

    return digest(*(part for sample in passages() for part in (sample.instruction, *sample.answers)))[:16]


def finished_texts(folder: Path) -> dict[int, Losses]:
    """By row, the losses of the ledger on the text of this version, without those of stages that were rolled back."""
    found: dict[int, Losses] = {}
    for row in read_ledger(folder):
        if row["event"] in GONE:
            found = {number: losses for number, losses in found.items() if number <= row["to"]}
        if row["event"] == "text" and row.get("text") == text_digest() and _is_sound(row["losses"]):
            found[row["stage"]] = row["losses"]
    return found


def _is_sound(losses: Any) -> bool:
    return bool(losses) and all(
        isinstance(pair, list) and len(pair) == 2 and math.isfinite(pair[0]) and type(pair[1]) is int and pair[1] > 0
        for pair in losses
    )


def held_out_of(
    folder: Path, probes: Sequence[Task], cells: Cells, *, rows: int, finished: bool, no_text: str
) -> HeldOut | None:
    """What the first `rows` rows say; None without probes and text probe.

    Args:
        folder: of the run, with the answers of `cells`.
        probes: of the stream.
        cells: by row and name.
        rows: how many rows there are.
        finished: whether the last of them is that of the last stage, so that changes can be computed.
        no_text: why the text probe is not read; '' where it is.
    """
    if not probes and no_text == NO_TEXT:
        return None
    names = [probe.name for probe in probes]
    scores, relaxed = (
        [[cells.get((number, name), {}).get(key) for name in names] for number in range(rows)]
        for key in ("score", "relaxed")
    )
    changes: list[Change | None] = [None] * len(names)
    change = None
    if finished:
        changes, change = _changes(folder, names, cells, last=rows - 1)
    text = _text_probe(finished_texts(folder), last=rows - 1 if finished else None) if not no_text else None
    reasons = {CHANGE: "" if change else NOT_ASKED if names else NO_PROBES}
    reasons[TEXT_CHANGE] = no_text or ("" if text and text.change else "needs the loss before and after")
    known = {name: reason for name, reason in reasons.items() if reason} if finished else {}
    return HeldOut(names, scores, relaxed, changes, change, text, known)


def _changes(
    folder: Path, names: Sequence[str], cells: Cells, *, last: int
) -> tuple[list[Change | None], Change | None]:
    """The change of each probe that was evaluated before and after, and of the mean over all, if all were."""
    evaluated = [name for name in names if (0, name) in cells and (last, name) in cells]
    if not evaluated:
        return [None] * len(names), None
    both = [(cells[0, name], cells[last, name]) for name in evaluated]
    pairs = [[read_answers(folder / cell["answers"]) for cell in pair] for pair in both]
    differences = [[b["score"] - a["score"] for a, b in zip(*pair, strict=True)] for pair in pairs]
    images = [[tuple([row["image"]] if "image" in row else row["images"]) for row in pair[0]] for pair in pairs]
    each, overall = clustered_intervals(list(zip(differences, clusters_of(images), strict=True)))
    is_mean = [(rule := RULES.get(cell["score_rule"])) is None or rule.whole is None for cell, _ in both]
    found = {
        name: Change(after["score"] - before["score"], interval if mean else None)
        for name, (before, after), interval, mean in zip(evaluated, both, each, is_mean, strict=True)
    }
    if len(found) < len(names):
        return [found.get(name) for name in names], None
    mean = statistics.fmean(change.value for change in found.values())
    return [found[name] for name in names], Change(mean, overall if all(is_mean) else None)


def _text_probe(texts: Mapping[int, Losses], *, last: int | None) -> TextProbe | None:
    if 0 not in texts:
        return None
    before, after = texts[0], texts.get(last) if last is not None else None
    tokens = sum(count for _, count in before)
    base = sum(nll for nll, _ in before) / tokens
    if after is None or [count for _, count in after] != [count for _, count in before]:
        return TextProbe(base, None, tokens)
    mean = tokens / len(before)
    differences = [(b - a) / mean for (a, _), (b, _) in zip(before, after, strict=True)]  # their mean is the change
    (interval,), _ = clustered_intervals([(differences, range(len(differences)))])
    change = sum(nll for nll, _ in after) / tokens - base
    return TextProbe(base, base + change, tokens, Change(change, interval))
