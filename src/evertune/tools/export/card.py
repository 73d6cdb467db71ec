"""The model card of an exported checkpoint: what it learned, how, and its scores so far.

All of it is read from the run folder's ledger and stages, so that a model that learned task by task has one too.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

from evertune.models.presets import known_licence
from evertune.models.quantization import quantization_of
from evertune.reporting.tables import matrix_as_markdown
from evertune.runs.api import config_of, header_of
from evertune.runs.ledger import finished_cells, read_ledger
from evertune.runs.unchecked import last_checked
from evertune.tools.export.base import Base
from evertune.training.stages import saved_stages
from evertune.utils.config_io import value_text
from evertune.utils.files import read_json

CARD = """---
{data}
---
# {model}, after {stage} of {stages} tasks of {stream}

{model}, trained on one task after another by {evertune} with the method `{method}`,
seed {seed}{expert}.

{table}

Scores of 100 points on each task's test samples, rows in the order of learning; the first row is the base model.
{gaps}

- Base model: {base}.
- Licence: {licence}.
- How it was trained: {training}.
{checked}
## How to load it

{loading}
"""
OF_TRANSFORMERS, OF_EVERTUNE, OF_PEFT = "transformers", "evertune", "peft"
"""Whose classes load what was exported: `library_name` of a card."""
LOADING = {
    OF_TRANSFORMERS: """```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(FOLDER)
processor = AutoProcessor.from_pretrained(FOLDER)
```

FOLDER is the folder of this file, or its id on the hub. `evertune run --model FOLDER` takes it too.""",
    OF_EVERTUNE: """`evertune run --model FOLDER` loads it. The model is no class of `transformers`, which loads its LM
alone, without images: `AutoModelForCausalLM.from_pretrained(FOLDER, subfolder="lm")`.""",
    OF_PEFT: """```python
from peft import {auto}

model = {auto}.from_pretrained(FOLDER)
```

FOLDER is the folder of this file, or its id on the hub. Or, on a base model that is loaded already:
`PeftModel.from_pretrained(model, FOLDER)`.{more}""",
}
SEVERAL = """There is an adapter of each stage, in a folder of its own. Of the last one:

```python
from peft import PeftModel
from transformers import {auto}

model = {auto}.from_pretrained({base})
model = PeftModel.from_pretrained(model, FOLDER, subfolder="{adapter}")
```

FOLDER is the folder of this file, or its id on the hub.{more}"""
"""peft's `AutoPeftModel` would look for the base model in the subfolder, too."""
PROJECTOR = """
The adapter is that of the language model. The projector, which transformers has no class for, is in
`projector.safetensors`."""
HUB_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "Llama 2 Community": "llama2"}
"""The hub's identifiers of licences."""
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


def card_of(
    run: Path,
    base: Base,
    form: str,
    *,
    stage: int,
    expert: str | None,
    checked: str | None = None,
    adapter: str = "",
    loading: str = "",
) -> str:
    """The card of the model of `run` after `stage`.

    Args:
        run: the run folder.
        base: the model that it was made from.
        form: whose classes load it: `OF_TRANSFORMERS`, `OF_EVERTUNE`, `OF_PEFT`.
        stage: after which stage.
        expert: whose weights these are.
        checked: what was compared when it was written.
        adapter: where the card is of several adapters, the subfolder of the last.
        loading: how it is loaded, instead of what `form` says.
    """
    config, made = config_of(run), scores_of(run)
    name = Path(config.model).name
    kind = quantization_of(config.model_options)
    licence = known_licence(config.model) or known_licence(base.name)
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
        gaps="Cells without a score were not evaluated.\n"
        if any(score is None for row in shown["R"] for score in row)
        else "",
        base=(f"[{base.hub_id}](https://huggingface.co/{base.hub_id})" if base.hub_id else f"`{name}`, a local folder")
        + (f"; its language model was quantized ({kind}, bitsandbytes) in training" if kind != "none" else ""),
        licence=licence or f"that of the model it was made from ({name}) and of the data",
        training=_training(run, stage, made["settings"]["train"]),
        checked=f"- Checked when it was written: {checked}.\n" if checked else "",
        loading=loading or _loading(form, base, adapter),
        data=_metadata(base, form, licence),
    )


def _metadata(base: Base, form: str, licence: str | None) -> str:
    """The YAML at the head of a card, with the keys of the hub; a local folder is no `base_model` there."""
    from huggingface_hub import ModelCardData

    return ModelCardData(
        base_model=base.hub_id,
        library_name=form,
        pipeline_tag="image-text-to-text",
        tags=["continual-learning", "evertune", *(["lora"] if form == OF_PEFT else [])],
        license=_licence_id(licence) if licence else None,
    ).to_yaml()


def _licence_id(licence: str) -> str:
    """The hub's identifier of a preset's licence, which may name that of the data behind it."""
    return HUB_LICENCES.get(licence.partition(";")[0].removesuffix(" (both)"), "other")


def _loading(form: str, base: Base, adapter: str) -> str:
    if form != OF_PEFT:
        return LOADING[form]
    more = PROJECTOR if base.is_smol else ""
    if adapter:
        auto = "AutoModelForCausalLM" if base.is_smol else "AutoModelForImageTextToText"
        where = f'"{base.hub_id}"' if base.hub_id else "BASE_MODEL"
        return SEVERAL.format(auto=auto, base=where, adapter=adapter, more=more)
    return LOADING[form].format(auto="AutoPeftModelForCausalLM" if base.is_smol else "AutoPeftModel", more=more)


def scores_of(run: Path) -> dict[str, Any]:
    """What a run is of and its R as far as it was evaluated, by its stages now; None where a cell was not evaluated.

    The columns are the tasks of the run's matrix, where it has one, and those that were learned since.
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
