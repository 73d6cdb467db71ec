"""`only`: a part of the model trains, named by region; the rest of what would train is frozen.

What trains is the method: with attention alone, or the gate and up projections, the same training changes abilities
outside of the task far less. It composes with everything.
"""

from __future__ import annotations

from evertune.methods.base import Context, Method, MethodInfo
from evertune.utils.errors import UserError


class Only(Method):
    """Train one region of what the model would train.

    Args:
        region: 'attention', 'gate-up' (of each MLP what reads the residual stream), 'mlp', 'last-K' (the last K
            blocks of every stack), 'one-per-block', or a scope of the model. Colons narrow (`attention:last-4`),
            commas add (`attention,projection`).
    """

    name = "only"
    about = MethodInfo(
        title="only a part of the model trains: attention, gate-up, last-K",
        kind="adapter",
        paper="arXiv 2510.08564 (self-attention, or gate and up projections, of LMMs)",
        formula="min over θ_region of L_t(θ); all other weights stay at θ_0",
        cost="nothing stored; less to train, hash and save",
        fails="when a task needs weights outside of the region: it learns less, which may look like less forgetting",
    )

    def __init__(self, *, region: str = "attention") -> None:
        if not region.strip(" ,"):
            raise UserError("only.region is empty: name a region, for example attention")
        self.region = region
        self._names: frozenset[str] | None = None

    def setup(self, context: Context) -> None:
        """Find the region.

        Raises:
            UserError: there is no such region, or nothing in it trains.
        """
        super().setup(context)
        words = [word.strip() for word in self.region.split(",") if word.strip()]
        found = {word: context.named(word) for word in words}
        for word, names in found.items():
            if not names:
                scopes = ", ".join(scope for scope, members in context.lmm.scopes().items() if members)
                raise UserError(
                    f"only.region={word}: nothing that {context.lmm.name} trains is there. It trains {scopes}; set "
                    "what trains with model.scope, or put adapters there: lora.target_modules"
                )
        self._names = frozenset(name for names in found.values() for name in names)

    def is_trainable(self, parameter: str) -> bool:
        """Whether it is in the region."""
        return self._names is None or parameter in self._names
