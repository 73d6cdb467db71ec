"""The model card of an exported checkpoint: what it learned, how, and its scores so far.

All of it is read from the run folder's ledger and stages, so that a model that was taught task by task has one too.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

from evertune.models import PRESETS
from evertune.reporting.tables import matrix_as_markdown
from evertune.runs.api import config_of, header_of
from evertune.runs.ledger import finished_cells, read_ledger
from evertune.runs.unchecked import last_checked
from evertune.training.stages import saved_stages
from evertune.utils.config_io import value_text
from evertune.utils.files import read_json

CARD = """---
base_model: {model}
tags: [continual-learning, evertune]
---
# {model}, after {stage} of {stages} tasks of {stream}

{model} taught one task after another by {evertune} with the method `{method}`,
seed {seed}{expert}.

{table}

Scores of 100 points on each task's test samples, rows in the order of learning; the first row is the base model.
{gaps}

- Licence: {licence}.
- How it was trained: {training}.
- Checked when it was written: {checked}.
- {loading}
"""
LINKS = ("homepage", "repository", "source", "documentation")
"""Labels of the project's addresses, the best first."""


def project_link() -> str:
    """The name of this project as Markdown, with the address that its metadata have; without where they have none."""
    pairs = (entry.partition(",") for entry in metadata("evertune").get_all("Project-URL") or [])
    links = {label.strip().lower(): address.strip() for label, _, address in pairs}
    if homes := metadata("evertune").get_all("Home-page"):
        links["homepage"] = homes[0]
    address = next((links[label] for label in (*LINKS, *links) if label in links), None)
    return f"[evertune]({address})" if address else "evertune"


def card_of(run: Path, source: Path, *, stage: int, expert: str | None, checked: str) -> str:
    """The card of the model of `run` after `stage`; `source` is the folder of the model that it was made from."""
    config, made = config_of(run), scores_of(run)
    name = Path(config.model).name
    ours = read_json(source / "config.json").get("family") == "smol"
    shown = {**made, "R": made["R"][: stage + 1]}
    return CARD.format(
        model=name,
        stage=stage,
        stages=made["of"],
        stream=made["stream"],
        method=made["method"],
        seed=made["seed"],
        evertune=project_link(),
        expert=f", the expert of `{expert}`" if expert else "",
        table=matrix_as_markdown(shown["tasks"], shown["stages"], shown["R"][: stage + 1]),
        gaps="What was not asked has no score.\n" if any(score is None for row in shown["R"] for score in row) else "",
        licence=PRESETS.get(config.model, {}).get(
            "licence", f"that of the model it was made from ({name}) and of the data"
        ),
        training=_training(run, stage, made["settings"]["train"]),
        checked=checked,
        loading="`lm/` is an ordinary folder of `transformers`; with its projector it is loaded by `evertune --model`."
        if ours
        else "Loads with `transformers` (`AutoModelForImageTextToText.from_pretrained`), and with `evertune --model`.",
    )


def scores_of(run: Path) -> dict[str, Any]:
    """What a run is of and its R as far as it was asked, by its stages now; None where a cell was not asked.

    The columns are the tasks of the run's matrix, where it has one, and those that were taught since.
    """
    config, stages, cells = (
        config_of(run),
        [stage.task for stage in saved_stages(run, upto=last_checked(run))],
        finished_cells(run),
    )
    path = run / "matrix.json"
    planned: Mapping[str, Any] = read_json(path) if path.exists() else {"stages": [], "tasks": []}
    more = [name for name in stages if name not in (*planned["tasks"], *planned["stages"])]
    tasks = [*planned["tasks"], *more]
    whole = planned["stages"] if planned["stages"][: len(stages)] == stages else stages
    return {
        **header_of(config, config.method, stream=planned.get("stream", run.resolve().name)),
        "stages": stages,
        "of": len(whole),
        "tasks": tasks,
        "R": [[cells.get((number, name), {}).get("score") for name in tasks] for number in range(len(stages) + 1)],
    }


def _training(run: Path, stage: int, settings: Mapping[str, Any]) -> str:
    """The hyper-parameters of a stage: as the ledger has them, else those of the run."""
    noted = [
        row["training"]
        for row in read_ledger(run)
        if row["event"] == "stage" and row["stage"] == stage
        if isinstance(row.get("training"), dict)
    ]
    values = noted[-1] if noted else settings
    return ", ".join(f"{name.replace('_', ' ')} {value_text(value)}" for name, value in values.items())
