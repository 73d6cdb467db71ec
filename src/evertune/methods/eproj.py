"""EProj: one expert projection per task, chosen per sample by image and instruction, without a task id.

Each expert starts from the base model and trains on its own task only; the weights of old tasks never change, so only
routing errors cause forgetting. Each option changes one decision: how keys are computed, the router, the initialisation
of an expert, and whether a similar task trains an existing expert.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from evertune.data.task import Sample, Task, drawn
from evertune.methods.base import BASE, Context, Method, MethodInfo, TaskPreview
from evertune.methods.ewc import fisher_information
from evertune.methods.expansion import POLICIES
from evertune.methods.importance import Latest
from evertune.methods.routers import CalibratedRouter, CosineRouter, Queries, Router
from evertune.methods.similarity import SimilarityBy, check_similarity, similarity_to, task_embedding
from evertune.methods.tir import normalised
from evertune.models.features import embed_images
from evertune.models.weights import copy_of, restore
from evertune.utils.errors import UserError
from evertune.utils.files import digest

Estimate = Callable[[Context, Sequence[Sample]], Mapping[str, Tensor]]
"""Importance of every trained parameter for some samples, 0 or more."""
IMPORTANCE_SAMPLES = 128
QUERIES_AT_ONCE = 256
NEW = "(new)"
"""Name of a task in a router during a trial; not a valid name of a task."""
THRESHOLD, CONFUSION_THRESHOLD, REUSE_STRENGTH = 0.5, 0.2, 100.0


class EProj(Method):
    """Model expansion with routing by keys.

    An expert trains in float32 and is then stored in the dtype of the model.

    Args:
        expert: the weights of an expert: 'all' trained ones (projection and LoRA), or the 'projection' alone, as in the
            paper. The paper's projection was pre-trained; the projector of `smol` is not, so 'all' is the default.
        keys: in 'closed' form, or by the paper's 2,000 'gradient' steps.
        router: 'cosine' as in the paper, or 'calibrated': a Gaussian per task with a shared covariance.
        routing: by 'keys', or 'oracle': uses the task of each question, the upper bound of every router. Questions of
            a task that is not learned yet then go to the base model.
        init: a new expert starts from the 'start' point, or from the expert of the most 'similar' earlier task.
        expand: a new expert 'always'; 'when-dissimilar': a task whose similarity to an earlier one reaches `threshold`
            trains that one's expert further; 'when-separable': so does a task whose questions the router takes for
            that one's, although it has learned the task: a new expert would never be chosen.
        threshold: the similarity s(k), 0..1, from which on an expert is reused.
        confusion_threshold: the share of questions, 0..1, taken for an earlier task's, from which on its expert is
            reused.
        similarity: what s is computed from, as in `tir`; used by `init=similar` and `expand=when-dissimilar`.
        reuse_strength: λ of the penalty λ Σ_i I_i (θ_i - θ_old,i)² on a reused expert, Σ_i I_i = 1.
    """

    name = "eproj"
    about = MethodInfo(
        title="EProj: one expert projection per task, routed by keys",
        kind="expansion",
        paper="He et al. 2023, arXiv 2311.16206; router=calibrated: Hayes & Kanan 2020, arXiv 1909.01520",
        formula="t* = argmax_t cos(q_img, k_img^t) + cos(q_ins, k_ins^t); k^t = norm(mean(norm(q))) over task t",
        cost="one expert and two keys per task; routing adds two small products per sample",
        fails="when two tasks share images and instructions: their keys point the same way",
    )
    in_model_dtype = True
    estimate: Estimate = staticmethod(fisher_information)
    """Where the importance of a reused expert's weights comes from."""

    def __init__(
        self,
        *,
        expert: Literal["all", "projection"] = "all",
        keys: Literal["closed", "gradient"] = "closed",
        router: Literal["cosine", "calibrated"] = "cosine",
        routing: Literal["keys", "oracle"] = "keys",
        init: Literal["start", "similar"] = "start",
        expand: Literal["always", "when-dissimilar", "when-separable"] = "always",
        threshold: float = THRESHOLD,
        confusion_threshold: float = CONFUSION_THRESHOLD,
        reuse_strength: float = REUSE_STRENGTH,
        similarity: SimilarityBy = "product",
    ) -> None:
        check_similarity(similarity, option="eproj.similarity")
        if router == "calibrated" and keys == "gradient":
            raise UserError("eproj.router=calibrated has no keys to train: leave out eproj.keys=gradient")
        for option, changed in (
            ("threshold", threshold != THRESHOLD),
            ("confusion_threshold", confusion_threshold != CONFUSION_THRESHOLD),
            ("reuse_strength", reuse_strength != REUSE_STRENGTH),
        ):
            if changed and option not in POLICIES[expand].options:
                used = " or ".join(name for name, policy in POLICIES.items() if option in policy.options)
                raise UserError(f"eproj.{option} needs eproj.expand={used}")
        if not (threshold >= 0 and confusion_threshold >= 0 and reuse_strength >= 0):
            raise UserError("eproj.threshold, eproj.confusion_threshold and eproj.reuse_strength must be 0 or more")
        self.expert, self.keys, self.router = expert, keys, router
        self.routing: str = routing
        self.init, self.expand, self.reuse_strength = init, expand, reuse_strength
        self.similarity = similarity
        self.threshold, self.confusion_threshold = threshold, confusion_threshold
        self._policy = POLICIES[expand](confusion_threshold if expand == "when-separable" else threshold)

    def setup(self, context: Context) -> None:
        """Start without experts."""
        super().setup(context)
        names = context.parameters if self.expert == "all" else context.lmm.scopes()["projection"]
        if not names:
            raise UserError(
                f"eproj.expert=projection, but the projection of {context.lmm.name} does not train: add it to "
                "model.scope, or take eproj.expert=all"
            )
        self._copied = frozenset(names)
        self._experts: dict[str, dict[str, Tensor]] = {}
        self._serves: dict[str, str] = {}  # task -> expert
        self._importance: dict[str, dict[str, Tensor]] = {}  # of each expert
        self._embeddings: dict[str, dict[str, Tensor]] = {}
        self._reused: str | None = None  # the expert that the current task trains further
        self._penalty = Latest()  # on leaving it
        seed = context.seed if self.keys == "gradient" else None
        self._router: Router = CalibratedRouter() if self.router == "calibrated" else CosineRouter(seed=seed)

    def on_known_task(self, task: Task) -> None:
        """An initial task gets keys of its own and is served by the base model."""
        self._embed(task)
        self._router.learn(task.name, self.queries(task.train))
        self._serves[task.name] = BASE

    def is_trainable(self, parameter: str) -> bool:
        """Parameters outside the expert are frozen."""
        return parameter in self._copied

    def before_task(self, task: Task) -> None:
        """Load the initial weights of this task's expert: the base model, or an earlier expert."""
        restore(self.context.parameters, self.context.start)
        self._embed(task)
        similarity = self._similarity(task)
        self._reused = self._policy.expert_for(task, self)
        if self._reused:
            self.activate(self._reused)
            importance = self._importance[self._reused]
            self._penalty.load_state_dict({"importance": importance}, self.context.lmm.device)
            self._penalty.before_task(task, {name: self.context.parameters[name] for name in importance})
        elif self.init == "similar" and similarity:
            self.activate(self._serves[max(similarity, key=similarity.__getitem__)])

    def _embed(self, task: Task) -> None:
        self.context.features.ensure(task.train)
        if self.init == "similar" or self.expand == "when-dissimilar":
            self._embeddings[task.name] = task_embedding(self.context, task.train, self.similarity)

    def _similarity(self, task: Task) -> dict[str, float]:
        """s(k) of each earlier task to `task`; empty if there is none, or if no option uses it."""
        old = {name: e for name, e in self._embeddings.items() if name in self._serves and name != task.name}
        return similarity_to(self._embeddings[task.name], old, name=task.name, by=self.similarity) if old else {}

    def similar_experts(self, task: Task) -> dict[str, float]:
        """The experts of earlier tasks -> the largest s(k) of a task that each serves to `task`."""
        near: dict[str, float] = {}
        for name, s in self._similarity(task).items():
            near[self._serves[name]] = max(s, near.get(self._serves[name], 0.0))
        return near

    def taken_for(self, task: Task) -> dict[str, float]:
        """The experts that would answer a new task's questions, although the router had learned it: expert -> share.

        A copy of the router learns a random half of the training questions and routes the others, so nothing
        changes here. The shares sum to less than 1 by that of the questions which it knows as the new task's.
        """
        if not self._router.tasks or len(task.train) < 2:
            return {}
        samples = drawn(task.train, len(task.train), random.Random(digest("halves", str(self.context.seed), task.name)))
        half = len(samples) // 2
        chosen = self._router_with(samples[:half]).choose(self.queries(samples[half:]))
        counts = Counter(self._serves[name] for name in chosen if name != NEW)
        return {expert: count / len(chosen) for expert, count in counts.items()}

    def _router_with(self, samples: Sequence[Sample]) -> Router:
        """A copy of the router that has learned `samples` as a task called `NEW`."""
        router = copy.deepcopy(self._router)
        router.learn(NEW, self.queries(samples))
        return router

    def preview_task(self, task: Task, others: Sequence[Task]) -> TaskPreview:
        """By copies of the router; no expert is trained."""
        embeddings = dict(self._embeddings)
        self._embed(task)
        expert = self._policy.expert_for(task, self) or task.name
        self._embeddings = embeddings
        router = self._router_with(task.train)
        lost = {}
        for other in others:
            self.context.features.ensure(other.test)
            queries, serves = self.queries(other.test), {**self._serves, NEW: expert}
            now = (
                [serves[name] for name in self._router.choose(queries)]
                if self._router.tasks
                else [BASE] * len(other.test)
            )
            then = [serves[name] for name in router.choose(queries)]
            lost[other.name] = sum(b == expert != a for a, b in zip(now, then, strict=True)) / len(then)
        return TaskPreview(expert, self.taken_for(task), lost)

    def adds_to_loss(self) -> bool:
        """Only while an expert is trained further."""
        return self._reused is not None and self.reuse_strength > 0

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add the gradient 2 λ I (θ - θ_old) of the penalty on a reused expert, once per optimizer step."""
        if self.adds_to_loss():
            self._penalty.add_gradient(parameters, strength=self.reuse_strength)

    def after_task(self, task: Task) -> None:
        """Store the trained expert, and let the router learn the task."""
        expert = self._reused or task.name
        self._experts[expert] = copy_of(
            {name: p.to(self.context.lmm.dtype) for name, p in self.context.parameters.items() if name in self._copied}
        )
        self.activate(expert)  # from now on the stored weights are used
        self._serves[task.name] = expert
        self._router.learn(task.name, self.queries(task.train))
        if self._policy.reuses:
            self._keep_importance(expert, task)
        self._reused, self._penalty = None, Latest()

    def _keep_importance(self, expert: str, task: Task) -> None:
        """Importance of the expert's weights for all tasks it serves: the maximum over tasks, each of sum 1."""
        choose = random.Random(digest("eproj", str(self.context.seed), task.name))
        chosen = drawn(task.train, min(IMPORTANCE_SAMPLES, len(task.train)), choose)
        found = self.estimate(self.context, chosen)
        new = normalised({name: found[name].cpu() for name in self._copied})
        old = self._importance.get(expert, new) if self._reused else new
        self._importance[expert] = {name: torch.maximum(old[name], new[name]) for name in new}

    def queries(self, samples: Sequence[Sample]) -> Queries:
        """(n, D) mean vision features and (n, width) instruction embeddings, each row of length 1.

        Raises:
            UserError: a value is not finite; the message names the sample.
        """
        parts = [samples[at : at + QUERIES_AT_ONCE] for at in range(0, len(samples), QUERIES_AT_ONCE)]
        lmm, features = self.context.lmm, self.context.features
        rows = {
            "image": torch.cat([embed_images(lmm, features, part) for part in parts]),
            "instruction": torch.cat([lmm.embed_texts([s.instruction for s in part]) for part in parts]),
        }
        for modality, values in rows.items():
            if (broken := ~torch.isfinite(values).all(1)).any():
                sample = samples[int(broken.nonzero()[0])]
                raise UserError(f"{sample.origin}: the {modality} embedding of sample '{sample.id}' is not finite")
        return {modality: normalize(values, dim=1) for modality, values in rows.items()}

    def route(self, samples: Sequence[Sample]) -> list[str] | None:
        """The expert of the task that the router takes each sample for, among the tasks learned so far."""
        if not self._router.tasks:
            return None
        return [self._serves[task] for task in self._router.choose(self.queries(samples))]

    def ranking(self, sample: Sample) -> list[tuple[str, float]]:
        """By the router's probabilities; the task that it chooses comes first of equals."""
        if not self._router.tasks:
            return []
        queries = self.queries([sample])
        shares, scores = (of(queries)[0].tolist() for of in (self._router.probabilities, self._router.scores))
        ranked = sorted(zip(scores, self._router.tasks, shares, strict=True), key=lambda one: -one[0])
        return [(task, share) for _, task, share in ranked]

    def needs_task_id(self) -> bool:
        """Only as the oracle."""
        return self.routing == "oracle"

    def expert_of(self, task: str) -> str | None:
        """The expert that was trained on `task`."""
        return self._serves.get(task)

    def activate(self, expert: str) -> None:
        """Put the expert's weights into the model."""
        experts = {**self._experts, BASE: {name: self.context.start[name] for name in self._copied}}
        if expert not in experts:
            raise UserError(f"there is no expert '{expert}'; known: {', '.join(experts)}")
        restore(self.context.parameters, experts[expert])

    def forget(self, task: str, *, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """The expert goes, and its share of the router. Other experts must not have begun from it, nor share it."""
        expert = self._serves.get(task)
        if expert is None or expert == BASE:
            raise UserError(f"'{task}' has no expert: the base model serves it")
        if others := [name for name, each in self._serves.items() if each == expert and name != task]:
            raise UserError(f"the expert of '{task}' has learned {', '.join(others)} too")
        if heirs := self._heirs(expert):
            raise UserError(f"the expert of {', '.join(heirs)} began with the weights of that of '{task}'")
        self._router.forget(task, before=before["router"], after=after["router"])
        del self._experts[expert], self._serves[task]
        self._importance.pop(expert, None)
        self._embeddings.pop(task, None)

    def _heirs(self, expert: str) -> list[str]:
        """The tasks whose expert began with the weights of another one (`init=similar`), by the rule of that time."""
        learned, heirs = list(self._serves), []
        for at, name in enumerate(learned if self.init == "similar" else ()):
            old = {other: self._embeddings[other] for other in learned[:at] if other in self._embeddings}
            if self._serves[name] == name and old:
                similarity = similarity_to(self._embeddings[name], old, name=name, by=self.similarity)
                if self._serves[max(similarity, key=similarity.__getitem__)] == expert:
                    heirs.append(name)
        return heirs

    def state_dict(self) -> dict[str, Any]:
        """Experts, the expert of each task, the router, and the state for reuse."""
        return {
            "experts": self._experts,
            "serves": self._serves,
            "router": self._router.state_dict(),
            "importance": self._importance,
            "embeddings": self._embeddings,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        self._experts, self._serves = dict(state["experts"]), dict(state["serves"])
        self._router.load_state_dict(state["router"])
        self._importance, self._embeddings = dict(state["importance"]), dict(state["embeddings"])
