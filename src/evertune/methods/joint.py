"""All tasks at once, mixed: the upper bound for a single set of weights. Needs all data at the same time."""

from collections.abc import Sequence

from evertune.data.task import ConcatDataset, Task
from evertune.methods.base import Context, Method, MethodInfo


class Joint(Method):
    """One stage with the union of all training sets, those of known tasks too.

    It trains on as many samples as a stream of the same tasks.
    """

    name = "joint"
    about = MethodInfo(
        title="joint training on all tasks",
        kind="bound",
        paper="the upper bound of He et al. 2023, arXiv 2311.16206 ('MultiTask')",
        formula="min_θ Σ_t L_t(θ)",
        cost="all data of all tasks, kept for good",
        fails="when old data may not be kept, or when training again from scratch costs too much",
    )

    def __init__(self) -> None:
        self._known: list[Task] = []

    def setup(self, context: Context) -> None:
        """Start with nothing known."""
        super().setup(context)
        self._known = []

    def on_known_task(self, task: Task) -> None:
        """Known tasks are trained again with the others."""
        self._known.append(task)

    def stages(self, tasks: Sequence[Task]) -> list[Task]:
        """A single stage called 'joint'."""
        return [Task("joint", ConcatDataset([task.train for task in [*self._known, *tasks]]), ())]
