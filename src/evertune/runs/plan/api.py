"""Plans a run and its cost: measured on this machine, or estimated for a model whose weights are not here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evertune.assets import Progress
from evertune.runs.api import method_specs, refuse_no_config
from evertune.runs.config import RunConfig, training_of
from evertune.runs.run_data import data_of
from evertune.utils.arguments import named_arguments

if TYPE_CHECKING:
    from evertune.runs.plan.estimate import Estimate
    from evertune.runs.plan.outline import PlanSettings
    from evertune.runs.plan.planner import Plan


@named_arguments
def plan(config: RunConfig, *, progress: Progress | None = None) -> list[Plan] | list[Estimate]:
    """The plan and cost of each method of a run on this machine; nothing is trained.

    For a model whose weights are not here (a large preset, a hub id, a folder with only a configuration) the plan is
    estimated from its configuration.

    Raises:
        UserError: it is no configuration.
    """
    from evertune.models import has_weights

    refuse_no_config(config)
    return _measured_plan(config, progress=progress) if has_weights(config.model) else _plan_on_paper(config, progress)


def _plan_on_paper(config: RunConfig, progress: Progress | None) -> list[Estimate]:
    from evertune.methods import make_methods
    from evertune.models import load_on_paper
    from evertune.runs.plan.estimate import plan_on_paper

    specs = method_specs(config)
    stream = data_of(config, progress=progress)
    paper = load_on_paper(config.model, options=config.model_options)
    how: dict[str, Any] = {"how": _settings(config), "dtype": config.dtype}
    return [plan_on_paper(paper, make_methods(spec, config.options), stream, name=spec, **how) for spec in specs]


def _measured_plan(config: RunConfig, *, progress: Progress | None = None) -> list[Plan]:
    from evertune.methods import make_methods
    from evertune.models import load_lmm
    from evertune.runs.plan.planner import measure_pace, plan_run
    from evertune.utils.device import use_threads

    specs = method_specs(config)
    stream = data_of(config, progress=progress)
    use_threads()
    options = config.model_options
    lmm = load_lmm(config.model, seed=config.seed, dtype=config.dtype, options=options, progress=progress)
    how = _settings(config)
    pace = measure_pace(lmm, stream, how.training, batch=config.evaluation.batch_size)
    made = {spec: make_methods(spec, config.options) for spec in specs}
    return [plan_run(lmm, methods, stream, name=spec, how=how, pace=pace) for spec, methods in made.items()]


def _settings(config: RunConfig) -> PlanSettings:
    from evertune.runs.plan.outline import PlanSettings

    return PlanSettings(training_of(config), config.evaluation.cells, config.stages.keep, config.features.policy())
