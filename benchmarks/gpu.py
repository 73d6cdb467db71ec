"""Training and evaluation of large models on a GPU, against `transformers.Trainer` and `generate` on the same shapes.

    python benchmarks/gpu.py                                  # all parts, about ten minutes; the same command resumes
    python benchmarks/gpu.py --shapes llava --parts train,trainer
    python benchmarks/gpu.py --toy --device cpu               # a few thousand weights: whether it works

Random weights in the shapes of LLaVA-1.5-7B, Qwen2.5-VL-3B and InstructBLIP-Vicuna-7B (`shapes.py`), in bfloat16 on a
GPU. Each line that is printed is also in `--out`; a part that is there is not measured again, one that failed is. No
part is begun after `--minutes`. Shares are of the speed of a large product, measured in the same process. They count
the operations of evertune's step for both sides: the tower, which a Trainer computes in every step, is time only.

`train`, `compiled` (`train.compile`), `trainer`: tokens per second of the LM's sequence, share of that speed, peak
memory, and `plan`'s estimate.
`evaluate`, `generate`: questions per second. `attention:KIND`, `adamw`: seconds of a step. `method:NAME`: seconds of a
step beside those of `sequential`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from gpu_sides import generate_seconds, trainer_seconds
from shapes import SHAPES, Shape, as_lmm, build, task_of
from torch.utils.flop_counter import FlopCounterMode

SCOPES = {"llava": ("lora", "projection"), "qwen": ("lora", "projection"), "instructblip": ("own",)}
COMMON = ("train", "compiled", "trainer", "evaluate", "generate", "adamw")
ATTENTION = ("eager", "sdpa", "flash_attention_2")
METHODS = ("replay", "agem", "ewc", "mas", "lwf", "tir+ewc", "eproj", "olora", "lora", "moelora")
OPTIONS = {name: {name: {"target_modules": "attention"}} for name in ("lora", "moelora")}
"""Their adapters are beside the attention layers of the LM, so they train other parameters than the rest do."""
BATCH = {"llava": 8, "qwen": 8, "instructblip": 16}
TOKENS = 8
WARM, STEPS, SIDE = 3, 8, 8192


def parts_of(shape: str, scope: str) -> list[str]:
    """The parts of a shape and what trains in it; attention and methods are measured once."""
    found = [*COMMON]
    if scope == SCOPES[shape][0] and shape != "instructblip":
        found += [f"attention:{kind}" for kind in ATTENTION]
    if (shape, scope) == ("llava", "projection"):
        found += [f"method:{name}" for name in ("sequential", *METHODS)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--parts", help="default: all; `attention` and `method` are all of their kind")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--worker", nargs=2, metavar=("SHAPE", "SCOPE"), help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.worker:
        work(*wanted.worker, wanted)
        return
    until = time.time() + 60 * wanted.minutes
    for shape in wanted.shapes.split(","):
        for scope in SCOPES[shape]:
            if time.time() < until and open_parts(shape, scope, wanted):
                more = ["--worker", shape, scope, "--until", str(until)]
                subprocess.run([sys.executable, __file__, *sys.argv[1:], *more], check=False)
    left = [f"{s}/{c}/{p}" for s in wanted.shapes.split(",") for c in SCOPES[s] for p in open_parts(s, c, wanted)]
    print(f"left: {', '.join(left)}; the same command measures them" if left else f"complete: {wanted.out}")


def open_parts(shape: str, scope: str, wanted: argparse.Namespace) -> list[str]:
    """The requested parts that are not in the file yet."""
    lines = wanted.out.read_text().splitlines() if wanted.out.exists() else []
    done = {row["part"] for row in map(json.loads, lines) if "problem" not in row}
    parts = parts_of(shape, scope)
    if wanted.parts:
        names = wanted.parts.split(",")
        parts = [part for part in parts if part in names or part.partition(":")[0] in names]
    return [part for part in parts if f"{shape}/{scope}/{part}" not in done]


def work(name: str, scope: str, wanted: argparse.Namespace) -> None:
    """In a process of its own: build the model once, measure part after part."""
    with tempfile.TemporaryDirectory() as place, mock.patch.dict(os.environ, {"EVERTUNE_CACHE": f"{place}/cache"}):
        bench = Bench(name, scope, Path(place), toy=wanted.toy, device=torch.device(wanted.device))
        for part in open_parts(name, scope, wanted):
            if time.time() > wanted.until:
                return
            started = time.perf_counter()
            try:
                found = bench.measure(part)
            except Exception as problem:
                found = {"problem": f"{type(problem).__name__}: {problem}"[:300]}
            row = {"part": f"{name}/{scope}/{part}", **found, "took": round(time.perf_counter() - started, 1)}
            print(json.dumps(row), flush=True)
            with wanted.out.open("a") as out:
                out.write(json.dumps({**row, **bench.about()}) + "\n")


class Bench:
    """One model, and the measurements of its parts."""

    def __init__(self, name: str, scope: str, place: Path, *, toy: bool, device: torch.device) -> None:
        from evertune.models.features import FeatureStore

        self.name, self.scope, self.place, self.toy, self.device = name, scope, place, toy, device
        attention = "sdpa" if device.type == "cuda" else "eager"
        self.shape: Shape = build(name, toy=toy, device=device, folder=place / "config", attention=attention)
        self.lmm = as_lmm(self.shape, {} if scope == "own" else {"scope": scope})
        self.batch = 2 if toy else BATCH[name]
        self.warm, self.steps = (1, 2) if toy else (WARM, STEPS)
        self.side = (64, 48) if toy else (640, 480)
        self.task = task_of(place / "images", samples=2 * self.batch, side=self.side)
        self.features = FeatureStore(self.lmm)
        started = time.perf_counter()
        self.features.ensure(self.task.train)
        self.encoded = len(self.task.train) / (time.perf_counter() - started)
        self.tokens = self.lmm.lengths(self.task.train[0].instruction, "a" * TOKENS, [self.side[::-1]])[-1].tokens
        self.product = product_speed(self.shape.model.dtype, device, side=256 if toy else SIDE)

    def about(self) -> dict[str, Any]:
        """What the numbers depend on."""
        import transformers

        on_gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "cpu",
            "toy": self.toy,
            "dtype": str(self.shape.model.dtype),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "batch": self.batch,
            "tokens_per_sample": self.tokens,
            "product_per_second": self.product,
            "images_encoded_per_second": round(self.encoded, 1),
            "date": time.strftime("%Y-%m-%d"),
        }

    def measure(self, part: str) -> dict[str, Any]:
        """The numbers of a part."""
        kind, _, which = part.partition(":")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        actions: dict[str, Callable[..., dict[str, Any]]] = {
            "train": self._train,
            "compiled": partial(self._train, compiled=True),
            "trainer": self._trainer,
            "evaluate": self._evaluate,
            "generate": self._generate,
            "adamw": self._adamw,
            "attention": self._attention,
            "method": self._method,
        }
        return actions[kind](*([which] if which else []))

    def _train(self, *, compiled: bool = False) -> dict[str, Any]:
        from evertune.training.loop import Training, train

        how: dict[str, Any] = {"learning_rate": 1e-5, "compile": compiled}
        training = Training(epochs=self._epochs(), batch_size=self.batch, **how)
        times = Times(self.device)
        train(self.lmm, [], self.task.train, self.features, training=training, seed=0, on_step=times.tick)
        more = {"first_step": round(times.each(0)[0], 2), "planned_bytes": self._planned(training)}
        return self._speed(times.each(self.warm)) | more

    def _trainer(self) -> dict[str, Any]:
        times = Times(self.device)
        trainer_seconds(self.lmm, self.shape, self.task, self.place, batch=self.batch, steps=self._count(), on=times)
        return self._speed(times.each(self.warm))

    def _speed(self, seconds: Sequence[float]) -> dict[str, Any]:
        """Of steps: tokens per second, share of the product's speed, peak memory."""
        step = statistics.median(seconds)
        return {
            "tokens_per_second": round(self.batch * self.tokens / step),
            "share": round(self._operations() / step / self.product, 3),
            "step": round(step, 4),
            "spread": [round(min(seconds), 4), round(max(seconds), 4)],
            "peak_bytes": self._peak(),
        }

    def _evaluate(self) -> dict[str, Any]:
        samples = self.task.test[: self.batch]
        questions, counts = [s.instruction for s in samples], [len(s.images) for s in samples]
        kept = self.features.get(samples)

        def answer() -> None:
            self.lmm.generate(kept, questions, max_new_tokens=TOKENS, images=counts)

        return self._answers(answer)

    def _generate(self) -> dict[str, Any]:
        return self._answers(generate_seconds(self.lmm, self.shape, self.task.test[: self.batch], tokens=TOKENS))

    def _answers(self, answer: Callable[[], Any]) -> dict[str, Any]:
        seconds = timed(answer, self.device, rounds=self._count())[self.warm :]
        per_second = self.batch / statistics.median(seconds)
        spread = [round(self.batch / max(seconds), 2), round(self.batch / min(seconds), 2)]
        return {"questions_per_second": round(per_second, 2), "spread": spread, "peak_bytes": self._peak()}

    def _adamw(self) -> dict[str, Any]:
        """Seconds of an optimizer step over what trains, by kind: PyTorch's default, and `fused`."""
        parameters = list(self.lmm.trainable().values())
        copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
        for copy in copies:
            copy.grad = torch.ones_like(copy)
        kinds = {"default": {}, "fused": {"fused": True}}
        found: dict[str, Any] = {"parameters": sum(p.numel() for p in copies)}
        for kind, options in kinds.items():
            optimizer = torch.optim.AdamW(copies, lr=0.0, **options)
            found[kind] = statistics.median(timed(optimizer.step, self.device, rounds=self._count())[self.warm :])
        return found

    def _attention(self, kind: str) -> dict[str, Any]:
        from transformers.utils import is_flash_attn_2_available

        if kind == "flash_attention_2" and not is_flash_attn_2_available():
            return {"left_out": "flash-attn is not installed"}
        before = self.shape.model.config._attn_implementation
        self.shape.model.set_attn_implementation(kind)
        try:
            seconds = timed(self._one_step, self.device, rounds=self._count())[self.warm :]
        finally:
            self.shape.model.set_attn_implementation(before)
        return {"step": round(statistics.median(seconds), 4), "peak_bytes": self._peak()}

    def _method(self, name: str) -> dict[str, Any]:
        """Seconds of a step of the second task, when importances, buffers, teachers and experts are there."""
        from evertune.methods import make_methods
        from evertune.models.adapters import bare
        from evertune.training.learner import Learner
        from evertune.training.loop import Training

        training = Training(epochs=self._epochs(), batch_size=self.batch, learning_rate=1e-5)
        folder = self.place / "methods" / name
        methods = make_methods(name, OPTIONS.get(name))
        learner = Learner(bare(self.lmm), methods, folder=folder, training=training, reuse=False)
        second = task_of(self.place / "images", name="second", samples=2 * self.batch, side=self.side)
        learner.learn(self.task)
        times = Times(self.device)
        learner.learn(second, on_step=times.tick)
        seconds = times.each(self.warm)
        learner.load(0)
        shutil.rmtree(folder)
        return {"step": round(statistics.median(seconds), 4), "peak_bytes": self._peak()}

    def _one_step(self) -> None:
        batch = self.task.train[: self.batch]
        self.lmm.module()(self.lmm.collate(batch, self.features.get(batch))).loss.backward()
        self.lmm.module().zero_grad(set_to_none=True)

    def _operations(self) -> int:
        with FlopCounterMode(display=False) as counter:
            self._one_step()
        return int(counter.get_total_flops())

    def _planned(self, training: Any) -> int:
        """What `evertune plan` says that a training step takes."""
        from evertune.data import Stream
        from evertune.methods import make_methods
        from evertune.models.meta import on_paper
        from evertune.runs.plan.estimate import plan_on_paper
        from evertune.runs.plan.outline import PlanSettings

        options = {} if self.scope == "own" else {"scope": self.scope}
        paper = on_paper(self.shape.config, name=self.name, options=options)
        about: dict[str, Any] = {"name": "sequential", "how": PlanSettings(training)}
        dtype = str(self.shape.model.dtype).removeprefix("torch.")
        plan = plan_on_paper(paper, make_methods("sequential"), Stream("noise", [self.task]), dtype=dtype, **about)
        return sum(plan.memory.values())

    def _peak(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None

    def _count(self) -> int:
        return self.warm + self.steps

    def _epochs(self) -> float:
        return self._count() * self.batch / len(self.task.train)


class Times:
    """The ends of steps, from now on; a GPU is waited for."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._ends = device, [now(device)]

    def tick(self, *_: Any) -> None:
        self._ends.append(now(self._device))

    def each(self, warm: int) -> list[float]:
        """Seconds of each step after the first `warm`."""
        pairs = zip(self._ends, self._ends[1:], strict=False)
        return [end - start for start, end in pairs][warm:]


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(action: Callable[[], Any], device: torch.device, *, rounds: int) -> list[float]:
    """Seconds of each of `rounds` calls."""
    return list(_timed(action, device, rounds))


def _timed(action: Callable[[], Any], device: torch.device, rounds: int) -> Iterator[float]:
    for _ in range(rounds):
        start = now(device)
        action()
        yield now(device) - start


def product_speed(dtype: torch.dtype, device: torch.device, *, side: int) -> float:
    """Operations per second of a product of two square matrices, the best of eight."""
    left, right = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    return 2 * side**3 / min(timed(lambda: torch.mm(left, right), device, rounds=8))


if __name__ == "__main__":
    main()
