"""Plain fine-tuning on one task after another: what forgets. The baseline of every table."""

from evertune.methods.base import Method, MethodInfo


class Sequential(Method):
    """Train on each task's own data and nothing else."""

    name = "sequential"
    about = MethodInfo(
        title="sequential fine-tuning",
        kind="baseline",
        paper="the lower baseline of He et al. 2023, arXiv 2311.16206 ('SeqFT')",
        formula="min_θ L_t(θ), started from θ_{t-1}",
        cost="nothing stored beyond the weights",
        fails="by forgetting; a stream on which it does not forget measures nothing",
    )
