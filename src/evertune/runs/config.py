"""The configuration of a run, from a YAML file and `--set key=value`, and the recipes of models.

Only the entry points use these classes; everything else takes plain arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from evertune.runs.cells import Which
from evertune.training.run_origin import CELLS, TEXT
from evertune.utils.config_io import Settings, scalar, unit
from evertune.utils.errors import UserError
from evertune.utils.parsing import yaml_value
from evertune.utils.plugins import load_plugin
from evertune.utils.sizes import bytes_of

if TYPE_CHECKING:
    from evertune.models.feature_policy import FeaturePolicy
    from evertune.training.loop import Training

Keep = Literal["auto", "disk", "memory", "off"]

RECIPES: dict[str, dict[str, Any]] = yaml_value(Path(__file__).with_name("recipes.yaml").read_text(encoding="utf-8"))
"""Training settings by model."""


class TrainSettings(Settings):
    """How each task is trained; the same for every method."""

    epochs: float = Field(
        default=1.0, gt=0, json_schema_extra=unit("passes"), description="passes over a task's training set"
    )
    batch_size: int = Field(
        default=4,
        ge=1,
        json_schema_extra=unit("samples"),
        description="samples per micro-batch, of all processes together: not per device, as in a Trainer",
    )
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, json_schema_extra=unit("micro-batches"), description="micro-batches per optimizer step"
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, json_schema_extra=unit("1"), description="peak of the cosine schedule"
    )
    weight_decay: float = Field(
        default=0.0, ge=0, json_schema_extra=unit("1"), description="weight decay of AdamW; not on biases and norms"
    )
    warmup_ratio: float = Field(
        default=0.03,
        ge=0,
        lt=1,
        json_schema_extra=unit("share of steps"),
        description="how long the learning rate rises",
    )
    max_grad_norm: float = Field(
        default=1.0,
        gt=0,
        json_schema_extra=unit("1"),
        description="largest norm of the gradient of a step (the clip norm)",
    )
    loss_mean: Literal["sample", "token"] = Field(
        default="sample",
        description="what counts the same in the loss of a step: a sample (mean over samples of the mean over answer "
        "tokens) or a token (mean over all answer tokens, as most trainers do)",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations again on the way back: less memory, more time, the same numbers"
    )
    group_by_image: bool = Field(
        default=False,
        description="compose batches of whole images, whose tokens are computed once for all samples about them: the "
        "same loss of each sample in less time, and other samples in a batch",
    )
    compile: bool = Field(
        default=False,
        description="compile the blocks of the LM (torch.compile): the first steps take a minute or more; losses may "
        "differ by rounding",
    )
    min_steps: int | None = Field(
        default=None,
        ge=0,
        json_schema_extra=unit("optimizer steps"),
        description="fewest optimizer steps of a task: few samples come in smaller batches and more passes; by default "
        "0 in a run and 200 in evertune learn",
    )
    save_every: int | None = Field(
        default=None,
        ge=0,
        json_schema_extra=unit("optimizer steps"),
        description="optimizer steps between two saves of a task in progress; 0: never; by default as often as costs "
        "less than 5 % of the time",
    )

    @model_validator(mode="after")
    def _compatible(self) -> TrainSettings:
        """Two settings that exclude each other are refused before anything is loaded."""
        if self.group_by_image and self.gradient_checkpointing:
            from evertune.training.loop import NOT_BOTH

            raise ValueError(NOT_BOTH)
        if self.compile and (self.gradient_checkpointing or self.group_by_image):
            raise ValueError("compile can't be combined with gradient_checkpointing or group_by_image: leave one out")
        return self


class EvaluationSettings(Settings):
    """What is evaluated, and how answers are generated."""

    cells: Which = Field(
        default="all",
        description="the cells of R that are evaluated: all; learned: each task from the row before its stage on, and "
        "the base model's row; final: each task right after its stage, and the last row. Changes no score; the same "
        "command with a larger choice evaluates the others",
    )

    limit: int | None = Field(
        default=None,
        ge=1,
        json_schema_extra=unit("questions"),
        description="most questions per task: a fixed choice of the test samples, the same for every method and seed. "
        "All training samples stay. Changes every score, so it is part of what identifies a run",
    )
    text_probe: bool = Field(
        default=True,
        description="measure the loss per token on a fixed text before and after: what the model's language lost. "
        "Changes no other number",
    )
    batch_size: int = Field(
        default=128,
        ge=1,
        json_schema_extra=unit("questions"),
        description="questions answered at once; never changes an answer",
    )
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        json_schema_extra=unit("tokens"),
        description="longest answer; by default the task's longest training answer and two more",
    )


class StagesSettings(Settings):
    """What a run folder keeps of its stages."""

    keep: str = Field(
        default="all",
        pattern=r"^(all|last|every [1-9][0-9]{0,5})$",
        description="stages that keep their weights: all; last; every N (such as 'every 10') and the last. Others "
        "can't be loaded, exported or gone back to. Changes no number",
    )


class FeatureSettings(Settings):
    """Where the frozen vision features of images are kept; changes no number but by rounding."""

    keep: Keep = Field(
        default="auto",
        description="on disk in the cache, in memory, or off: computed in each batch; auto: what pays, by bytes per "
        "image, number of images and free room",
    )
    budget: str | None = Field(
        default=None,
        description="bytes, such as 2GB: of the disk for the features of all models, or of the memory of each process; "
        "by default half of what is free, at most 100 GB of the disk",
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        le=256,
        json_schema_extra=unit("processes"),
        description="processes that read and prepare images; by default measured",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, content: Any) -> Any:
        """`features: off` is `features: {keep: off}`."""
        return content if isinstance(content, dict) else {"keep": content}

    @field_validator("keep", mode="before")
    @classmethod
    def _unquoted(cls, value: Any) -> Any:
        """`off` is false in YAML."""
        return "off" if value is False else value

    @field_validator("budget", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        if value is not None:
            bytes_of(str(value))
        return None if value is None else str(value)

    def policy(self) -> FeaturePolicy:
        """For a `FeatureStore`."""
        from evertune.models.feature_policy import FeaturePolicy

        budget = None if self.budget is None else bytes_of(self.budget)
        return FeaturePolicy(keep=self.keep, budget=budget, workers=self.workers)


class SharedSettings(Settings):
    """The settings that a single run and a grid share, besides stream, model, method and seed."""

    limit: int | None = Field(
        default=None,
        ge=1,
        json_schema_extra=unit("samples"),
        description="most samples per task, of training and of test: for a first try. By default all",
    )
    data: str | None = Field(default=None, description="where the folders of published data sets are")
    probes: list[str] = Field(
        default_factory=list,
        description="streams, YAML files or files of rows that are evaluated before and after each stage and never "
        "trained. Changes no other number",
    )
    skip_invalid: bool = Field(default=False, description="train on what can be used instead of stopping")
    track: list[str] = Field(default_factory=list, description="services that get the metrics: trackio, wandb, mlflow")
    reuse: bool = Field(default=True, description="reuse identical trainings and predictions from the cache")
    deterministic: bool = Field(
        default=False,
        description="bit-identical reruns on a CPU: one thread, float32, deterministic algorithms, no reuse, features "
        "one image at a time",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="dtype of the frozen weights; what trains is float32. auto: bfloat16 where it is faster",
    )
    model_options: dict[str, Any] = Field(
        default_factory=dict,
        description="what trains in a large model, e.g. {scope: projection+lora, r: 16}; {quantization: 4bit}",
    )
    train: TrainSettings = Field(default_factory=TrainSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    stages: StagesSettings = Field(default_factory=StagesSettings)
    features: FeatureSettings = Field(default_factory=FeatureSettings)
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="per method: its own options, e.g. {replay: {ratio: 0.05}}"
    )

    @field_validator("track", "probes", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """`trackio,mlflow` is a list too."""
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class RunConfig(SharedSettings):
    """The complete configuration of a run; `evertune run FILE.yaml` reads this."""

    stream: str = Field(description="a name of `evertune ls streams`, or a YAML or JSONL file")
    model: str = Field(default="smol", description="a name of `evertune ls models`, a checkpoint folder or a hub id")
    method: str = Field(default="sequential", description="one or more methods, joined by + and listed by commas")
    seed: int = Field(
        default=0, ge=0, json_schema_extra=unit("1"), description="seed of every random choice of the run"
    )
    out: str | None = Field(default=None, description="the run folder; by default below runs/, named after the run")

    @property
    def named_probes(self) -> list[str]:
        """The probes that are in files; those that were passed as Python objects are in brackets."""
        return [name for name in self.probes if not name.startswith("(")]

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, content: Any) -> Any:
        """Defaults from the model's recipe."""
        recipe = RECIPES.get(Path(str(content.get("model"))).name) if isinstance(content, dict) else None
        train = content.get("train", {}) if recipe else None
        if not recipe or not isinstance(train, dict):
            return content
        ours = {key: recipe[key] for key in ("dtype",) if key in recipe} | content
        specs = [spec.strip().split("+") for spec in str(content.get("method", "")).split(",")]
        settings, options = recipe["train"], content.get("options") or {}
        for method, wanted in recipe.get("methods", {}).items():
            if any(method in spec for spec in specs):
                options = {**options, method: {**wanted["options"], **(options.get(method) or {})}}
            if all(method in spec for spec in specs):
                settings = {**settings, **wanted["train"]}
        return {**ours, "train": {**settings, **train}, **({"options": options} if options else {})}


def without_effect(config: RunConfig) -> dict[str, Any]:
    """Settings that change no number of a run, for `model_dump(exclude=...)`, so that run folders stay comparable."""
    defaults = {
        key: True for key in ("skip_invalid", "model_options", "deterministic", "probes") if not getattr(config, key)
    }
    unset = {"loss_mean": config.train.loss_mean == "sample", "min_steps": config.train.min_steps is None}
    unset["group_by_image"] = not config.train.group_by_image
    unset["compile"] = not config.train.compile
    train = {"gradient_checkpointing", "save_every", *(key for key, is_unset in unset.items() if is_unset)}
    usual = {CELLS: "all", "limit": None, TEXT: True}
    evaluation = {"batch_size", *(key for key, value in usual.items() if getattr(config.evaluation, key) == value)}
    stages = {"stages": True} if config.stages.keep == "all" else {}
    return {
        "data": True,
        "track": True,
        "features": True,
        "train": train,
        "evaluation": evaluation,
        **stages,
        **defaults,
    }


def with_settings(content: dict[str, Any], settings: list[str], *, methods: list[str]) -> dict[str, Any]:
    """Apply `--set key=value` entries: `train.epochs=2`, `replay.ratio=0.05` of a method, `model.scope=lora`."""
    result: dict[str, Any] = {**content}
    for entry in settings:
        key, equals, text = entry.partition("=")
        if not equals or not key.strip():
            raise UserError(f"the setting {entry!r:.80}: write it as key=value, for example train.learning_rate=5e-4")
        _place(result, key.strip(), scalar(text), methods)
    return result


def spelled_out(content: dict[str, Any], *, methods: list[str]) -> dict[str, Any]:
    """The content of a YAML file; dotted keys as in `--set` (`train.epochs: 2`, `replay.ratio: 0.05`) become nested."""
    dotted = {key: value for key, value in content.items() if isinstance(key, str) and "." in key}
    result = {key: value for key, value in content.items() if key not in dotted}
    for key, value in dotted.items():
        _place(result, key, value, methods)
    return result


def _place(content: dict[str, Any], key: str, value: Any, methods: list[str]) -> None:
    """Set the value of a dotted key; the groups above it are copied, since a caller may share them."""
    parts = key.split(".")
    if parts == ["features"] and not isinstance(value, dict):
        parts = ["features", "keep"]
    if parts[0] in methods:
        parts = ["options", *parts]
    elif parts[0] == "model" and len(parts) > 1:
        parts[0] = "model_options"
    for part in parts[:-1]:
        group = content.get(part) or {}
        if part == "features" and part in content and not isinstance(content[part], dict):
            group = {"keep": content[part]}
        if not isinstance(group, dict):
            raise UserError(f"{key}: '{part}' is {group!r:.40} here, expected a group of settings")
        content[part] = {**group}
        content = content[part]
    content[parts[-1]] = value


def load_listed_plugins(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The content of a run's or a grid's YAML without its `plugins`, which are loaded; files count from the YAML.

    Raises:
        UserError: they are no list, one can't be loaded, or the YAML is the record of a run folder: that may be from
            elsewhere, and no code is run for it.
    """
    if "format" in content:
        raise UserError(f"{path} is the record of a run folder, and no run's YAML: evertune learn takes the folder")
    listed = content.get("plugins") or []
    if not (isinstance(listed, list) and all(isinstance(spec, str) for spec in listed)):
        raise UserError(f"{path}: plugins: expected a list, for example [own_method.py, my_package:MyMethod]")
    for spec in listed:
        load_plugin(spec, beside=path.parent)
    return {key: value for key, value in content.items() if key != "plugins"}


def beside(config: Path, stream: str) -> str:
    """A stream's path in the YAML of a run or a grid is relative to that file."""
    path = config.parent / stream
    return str(path) if path.suffix and path.is_file() else stream


def training_of(config: RunConfig) -> Training:
    """The hyper-parameters of a run's training."""
    from evertune.training.loop import Training

    return Training(**{**config.train.model_dump(), "min_steps": config.train.min_steps or 0})


def learner_arguments(config: RunConfig) -> dict[str, Any]:
    """What a configuration says of a learner, beside model, methods and folder."""
    return {
        "training": training_of(config),
        "seed": config.seed,
        "evaluation_batch": config.evaluation.batch_size,
        "max_new_tokens": config.evaluation.max_new_tokens,
        "reuse": config.reuse and not config.deterministic,  # a cache knows what others have done
        "features": config.features.policy(),
    }
