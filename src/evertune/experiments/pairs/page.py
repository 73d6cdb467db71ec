"""The pages of the analysis: similarity as heat maps; pairs as heat maps, scatter and curves. One HTML file each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evertune.experiments.pairs.results import over_seeds
from evertune.experiments.pairs.sentences import TITLES, correlation_of, interval, lead, seeds_text
from evertune.reporting.figures import Figure, Section, Table, write_figures
from evertune.reporting.labels import plain
from evertune.reporting.pair_plots import (
    dynamics_plot,
    points_scale,
    scatter,
    similarity_scale,
    square_map,
)

FIRST_AND_SECOND = "Rows: the first task. Columns: the second."


def write_similarity_page(result: Mapping[str, Any], out: Path) -> Path:
    """Write the page about what `similarity_of_stream` returns."""
    known = f" Known before: {', '.join(result['known'])}." if result["known"] else ""
    return write_figures(
        out,
        title=f"How similar the tasks of {result['stream']} are",
        subtitle=f"{len(result['tasks'])} tasks, embedded by {result['model']}; text encoder: "
        f"{result['text_encoder']}.{known}",
        lead=_nearest(result),
        sections=[Section("Similarity", _similarity_figures(result), text=result["formula"])],
    )


def _nearest(result: Mapping[str, Any]) -> str:
    tasks, square = result["tasks"], result["similarity"]
    values = {(a, b): square[i][j] for i, a in enumerate(tasks) for j, b in enumerate(tasks) if i < j}
    near, far = max(values, key=lambda pair: values[pair]), min(values, key=lambda pair: values[pair])
    if values[near] == values[far]:
        return f"All pairs are equally similar ({values[near]:.2f})."
    return (
        f"Most alike: {near[0]} and {near[1]} ({values[near]:.2f}). Least: {far[0]} and {far[1]} ({values[far]:.2f})."
    )


def _similarity_figures(result: Mapping[str, Any]) -> list[Figure]:
    squares = {"similarity": result["similarity"], **result["cosines"]}
    return [
        Figure(
            TITLES[name],
            square_map(
                result["tasks"], square, scale=similarity_scale(square), label=f"{TITLES[name]}, tasks by tasks"
            ),
        )
        for name, square in squares.items()
    ]


def write_pairs_page(result: Mapping[str, Any], out: Path) -> Path:
    """Write the page about what `results_of` returns."""
    tasks = result["tasks"]
    sections = [
        Section("What one task does to another", _effects(result)),
        Section("Against similarity", _scatters(result), _correlation_table(result)),
        Section("Form or knowledge", (), _form_table(result), text=result["formulas"]["format"]),
        Section("Similarity", _similarity_figures(result), text=result["formulas"]["similarity"]),
    ]
    if curves := _curves(result):
        sections.insert(2, Section("Forgetting while the second task is learned", curves))
    return write_figures(
        out,
        title=f"Pairs of tasks of {result['stream']}",
        subtitle=f"{len(tasks) * (len(tasks) - 1)} ordered pairs of {len(tasks)} tasks, {result['model']}, "
        f"{result['method']}, {seeds_text(result)}.",
        lead=lead(result),
        sections=sections,
        notes=result["notes"],
    )


def _effects(result: Mapping[str, Any]) -> list[Figure]:
    captions = {
        "forgetting": f"Points that the first task lost. {FIRST_AND_SECOND} Orange: lost; blue: gained.",
        "forgetting_relaxed": "The same, when the right answer counts in any form.",
        "transfer": f"The second task after the first, less alone. {FIRST_AND_SECOND} Blue: the first one helped.",
    }
    return [
        Figure(
            TITLES[name].capitalize(),
            square_map(
                result["tasks"],
                result[name],
                scale=points_scale(result[name], harm=name != "transfer"),
                label=f"{TITLES[name]}: first task by second task",
            ),
            caption,
        )
        for name, caption in captions.items()
    ]


def _scatters(result: Mapping[str, Any]) -> list[Figure]:
    captions = {"forgetting": "points lost", "transfer": "points gained over the task alone"}
    figures = []
    for name, caption in captions.items():
        drawing = scatter(_points(result, name), x_title=TITLES["similarity"], label=f"{TITLES[name]} by similarity")
        text = f"Up: {caption}. Each marker is an ordered pair, named by its first task. Spearman's ρ "
        figures.append(Figure(TITLES[name].capitalize(), drawing, text + interval(correlation_of(result, name)) + "."))
    return figures


def _points(result: Mapping[str, Any], measure: str) -> dict[str, list[tuple[float, Sequence[float]]]]:
    near = {(p["first"], p["second"]): p["similarity"] for p in result["pairs"]}
    points: dict[str, list[tuple[float, Sequence[float]]]] = {}
    for pair, values in over_seeds(result["pairs"], lambda p: p[measure]).items():
        points.setdefault(pair[0], []).append((near[pair], values))
    return points


def _correlation_table(result: Mapping[str, Any]) -> Table:
    measures = list(dict.fromkeys(row["of"] for row in result["correlations"]))
    sides = list(dict.fromkeys(row["with"] for row in result["correlations"]))
    rows = [[TITLES[side], *(interval(correlation_of(result, m, side)) for m in measures)] for side in sides]
    caption = result["formulas"]["correlation"] + ". Pairs that share a task are not independent: read it as a hint."
    return Table("Rank correlation", ["with", *(TITLES[m] for m in measures)], rows, caption)


def _form_table(result: Mapping[str, Any]) -> Table:
    """By first task: strict and relaxed loss side by side."""
    rows = []
    for task in result["tasks"]:
        mine = [pair for pair in result["pairs"] if pair["first"] == task]
        strict, relaxed = (statistics.fmean(p[m] for p in mine) for m in ("forgetting", "forgetting_relaxed"))
        values = (result["alone"][task], strict, relaxed, strict - relaxed)
        rows.append([task, *(plain(value, digits=1) for value in values)])
    header = ["", "score alone", "lost, strict", "lost, any form", "lost in form only"]
    return Table("Points that each task lost, mean over what came after it", header, rows)


def _curves(result: Mapping[str, Any]) -> list[Figure]:
    """One figure per first task where the study looked during training; empty otherwise."""
    highest = max([100.0, *(point["strict"] for pair in result["pairs"] for point in pair["dynamics"])])
    figures = []
    for task in result["tasks"]:
        mine = [pair for pair in result["pairs"] if pair["first"] == task and pair["dynamics"]]
        if mine:
            curves = {second: _mean_curve([p for p in mine if p["second"] == second]) for second in _seconds(mine)}
            drawing = dynamics_plot(
                curves, tasks=result["tasks"], highest=highest, label=f"Score on {task} while other tasks are learned"
            )
            figures.append(Figure(f"Score on {task}", drawing))
    return figures


def _seconds(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(pair["second"] for pair in pairs))


def _mean_curve(pairs: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Mean over seeds, point by point: the steps are the same for every seed."""
    columns = zip(*(pair["dynamics"] for pair in pairs), strict=True)
    return [(column[0]["share"], statistics.fmean(point["strict"] for point in column)) for column in columns]
