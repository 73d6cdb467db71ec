"""A stream by hand, with `transformers.Trainer`: three ways to learn it, all tasks asked after each task.

    python benchmarks/peers/trainer_stream.py          # sequential, eproj, replay; tiny-aligned on pocket-b1
    python benchmarks/peers/trainer_stream.py --limit 64 --method replay

What evertune is measured against: what one writes who has the library's pages and no tool for streams. For each task
`Trainer.train`; then every task is answered anew by batched `generate` with left padding. Replay is a concatenated data
set. EProj is a copy of the trained weights per task; a question goes to the task whose mean image and instruction are
nearest. Data, scores, the rows' order and AdamW with its schedule are evertune's, so that accuracies can be compared.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evertune.data import Task, load_stream
from evertune.data.task import Sample, drawn
from evertune.metrics.rules import rule_of, score_cell
from evertune.models import load_lmm
from evertune.models.weights import copy_of, restore
from evertune.training.evaluator import longest_answer
from evertune.training.loop import Training, sample_order
from evertune.utils.device import use_threads
from evertune.utils.files import digest
from peers.models import peer_of, rows_of
from peers.trainers import make_trainer, recipe_of

Weights = dict[str, Tensor]
Expert = Callable[[Sequence[Sample]], list[str | None]]
"""The expert of each question; None: the model as it is."""
REPLAYED = 0.01


class ByHand:
    """A model of the library, and what a script does with it."""

    def __init__(self, lmm: Any, training: Training, *, workers: int, asked_at_once: int = 128, seed: int = 0) -> None:
        self.lmm, self.peer, self.training, self.workers = lmm, peer_of(lmm), training, workers
        self.model, self.processor, self.asked_at_once, self.seed = lmm.blip, lmm.processor, asked_at_once, seed
        self.processor.tokenizer.padding_side = "left"  # of the LM only: the Q-Former counts places from the left
        self.start = copy_of(lmm.trainable())
        self.widths = [lmm.blip.config.vision_config.hidden_size, lmm.blip.config.text_config.hidden_size]

    def teach(self, task: Task, memory: Sequence[Sample] = ()) -> None:
        """One task, and what is replayed, in evertune's random order of the same samples."""
        seed = int(digest(str(self.seed), task.name)[:8], 16)
        rows = rows_of(list(sample_order([*task.train, *memory], epochs=self.training.epochs, seed=seed)))
        with tempfile.TemporaryDirectory() as folder:
            options = {"training": self.training, "workers": self.workers, "folder": Path(folder)}
            make_trainer(self.peer, self.lmm, rows, **options)[0].train()
        self.model.eval()

    @torch.no_grad()
    def answers(self, samples: Sequence[Sample], longest: int) -> list[str]:
        """Greedy, batch by batch."""
        said: list[str] = []
        for start in range(0, len(samples), self.asked_at_once):
            some = samples[start : start + self.asked_at_once]
            inputs = self.processor(
                images=images_of(some),
                text=[s.instruction for s in some],
                padding=True,
                return_tensors="pt",
            )
            tokens = self.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
            new = tokens[:, inputs["input_ids"].shape[1] :]
            said += [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]
        return said

    @torch.no_grad()
    def looks(self, samples: Sequence[Sample]) -> Tensor:
        """(n, D) [CLS] of each image beside the mean word of its instruction, each half of length 1."""
        made = []
        table = self.model.get_input_embeddings()
        for start in range(0, len(samples), self.asked_at_once):
            some = samples[start : start + self.asked_at_once]
            pixels = self.processor.image_processor(images_of(some), return_tensors="pt").pixel_values
            seen = self.model.vision_model(pixels).last_hidden_state[:, 0]
            texts = [self.processor.tokenizer(s.instruction, return_tensors="pt").input_ids[0] for s in some]
            read = torch.stack([table(text).mean(0) for text in texts])
            made.append(torch.cat([normalize(seen, dim=1), normalize(read, dim=1)], dim=1))
        return torch.cat(made)

    def row(self, tasks: Sequence[Task], expert_of: Expert, experts: dict[str, Weights]) -> list[float]:
        """The score of every task, each question answered by its expert."""
        return [self.score(task, expert_of, experts) for task in tasks]

    def score(self, task: Task, expert_of: Expert, experts: dict[str, Weights]) -> float:
        samples = list(task.test)
        chosen, now = expert_of(samples), copy_of(self.lmm.trainable())
        said: dict[int, str] = {}
        for name in sorted(set(chosen), key=str):
            places = [place for place, other in enumerate(chosen) if other == name]
            if name is not None:
                restore(self.lmm.trainable(), experts[name])
            texts = self.answers([samples[place] for place in places], longest_answer(self.lmm, task, None))
            said |= dict(zip(places, texts, strict=True))
        restore(self.lmm.trainable(), now)
        golds = [list(sample.answers) for sample in samples]
        return score_cell(rule_of(task.score), [said[place] for place in range(len(samples))], golds).strict


def images_of(samples: Sequence[Sample]) -> list[Image.Image]:
    return [Image.open(sample.images[0]).convert("RGB") for sample in samples]


def nobody(samples: Sequence[Sample]) -> list[str | None]:
    return [None] * len(samples)


def sequential(hand: ByHand, tasks: Sequence[Task], first: list[float]) -> list[list[float]]:
    R = [first]
    for task in tasks:
        hand.teach(task)
        R.append(hand.row(tasks, nobody, {}))
    return R


def replay(hand: ByHand, tasks: Sequence[Task], first: list[float]) -> list[list[float]]:
    R, memory = [first], []
    for task in tasks:
        hand.teach(task, memory)
        R.append(hand.row(tasks, nobody, {}))
        choose = random.Random(digest("replay", str(hand.seed), task.name))  # as evertune chooses
        memory += drawn(task.train, max(1, round(REPLAYED * len(task.train))), choose)
    return R


def eproj(hand: ByHand, tasks: Sequence[Task], first: list[float]) -> list[list[float]]:
    R, experts, keys = [first], {}, {}

    def nearest(samples: Sequence[Sample]) -> list[str | None]:
        names = list(keys)
        best = hand.looks(samples) @ torch.stack([keys[name] for name in names]).T
        return [names[place] for place in best.argmax(1).tolist()]

    for task in tasks:
        restore(hand.lmm.trainable(), hand.start)
        hand.teach(task)
        experts[task.name] = copy_of(hand.lmm.trainable())
        halves = hand.looks(task.train).mean(0).split(hand.widths)
        keys[task.name] = torch.cat([normalize(half, dim=0) for half in halves])
        R.append(hand.row(tasks, nearest, experts))
    return R


METHODS = {"sequential": sequential, "eproj": eproj, "replay": replay}


def forgetting(R: Sequence[Sequence[float]]) -> float:
    """Chaudhry et al. 2018: a task's best score since it was learned minus its last; the mean over all but the last."""
    drops = [max(row[i] for row in R[i + 1 : -1]) - R[-1][i] for i in range(len(R) - 2)]
    return sum(drops) / len(drops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-aligned")
    parser.add_argument("--stream", default="pocket-b1")
    parser.add_argument("--method", default=",".join(METHODS))
    parser.add_argument("--limit", type=int, help="training and test samples per task")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--workers", type=int, default=0)
    wanted = parser.parse_args()
    answers = sys.stdout
    with redirect_stdout(sys.stderr):
        use_threads()
        lmm = load_lmm(wanted.model, dtype=wanted.dtype)
        tasks = load_stream(wanted.stream, limit=wanted.limit).tasks
        hand = ByHand(lmm, recipe_of(wanted.model, wanted.stream), workers=wanted.workers)
        first = hand.row(tasks, nobody, {})
        for name in wanted.method.split(","):
            restore(lmm.trainable(), hand.start)
            R = METHODS[name](hand, tasks, first)
            found = {"method": name, "final": sum(R[-1]) / len(R[-1]), "forgetting": forgetting(R), "R": R}
            print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
