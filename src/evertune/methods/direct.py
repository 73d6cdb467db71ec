"""Each task tuned alone from the base model: R*, the reference score of a task. A bound, not a usable method."""

from evertune.data.task import Task
from evertune.methods.base import Method, MethodInfo
from evertune.models.weights import restore


class Direct(Method):
    """Go back to the base model before each task."""

    name = "direct"
    about = MethodInfo(
        title="direct fine-tuning, each task alone",
        kind="bound",
        paper="the per-task reference of He et al. 2023, arXiv 2311.16206 ('DirectFT')",
        formula="min_θ L_t(θ), started from θ_0; R*_t = R[t,t]",
        cost="one set of weights per task if all are kept",
        fails="as a continual method: it keeps nothing; its diagonal is what counts",
    )

    def before_task(self, task: Task) -> None:
        """Restore the start point."""
        restore(self.context.parameters, self.context.start)
