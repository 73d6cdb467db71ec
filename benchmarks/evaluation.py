"""What the evaluator saves: against one question at a time, and against the library's batches without caches.

    python benchmarks/evaluation.py                    # smol on parcel, 24 questions of each task, 5 pairs
    python benchmarks/evaluation.py --model tiny-aligned --stream pocket-b1

One at a time is what most research code does: read the image, encode it, `generate` with batch 1. Batched is what its
better half does: the same in batches of `--plain-batch`, questions in the order of the file. All use the library's
`generate`, and answer the same questions with the same weights after a little training, alternating; the answers must
be the same. Ours has the features of the images from the store, as it has in every row but the first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from evertune.data import load_stream
from evertune.data.images import read_image
from evertune.methods import make_methods
from evertune.models import load_lmm
from evertune.training.evaluator import answer_samples, longest_answer
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.device import use_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smol")
    parser.add_argument("--stream", default="parcel")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--plain-batch", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=5)
    wanted = parser.parse_args()
    use_threads()
    lmm, stream = load_lmm(wanted.model), load_stream(wanted.stream, limit=max(32, wanted.questions))
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(lmm, make_methods("sequential"), folder=Path(folder), training=Training(batch_size=8))
        for task in stream.tasks:
            learner.learn(task)
        features = learner.features
    tests = [(task.test[: wanted.questions], longest_answer(lmm, task, None)) for task in stream.tasks]
    for samples, _ in tests:
        features.ensure(samples)

    def together() -> list[str]:
        return [
            answer.text
            for samples, longest in tests
            for answer in answer_samples(
                lmm, [], samples, features, batch_size=wanted.batch, max_new_tokens=longest, reuse=False
            )
        ]

    def plainly(size: int) -> list[str]:
        """The library's `generate`; every image is read and encoded where it is asked about."""
        return [
            text
            for samples, longest in tests
            for start in range(0, len(samples), size)
            for text in said(samples[start : start + size], longest)
        ]

    def said(samples, longest: int) -> list[str]:
        images = [read_image(p, origin=str(p))[0] for sample in samples for p in sample.images]
        asked, counts = [s.instruction for s in samples], [len(s.images) for s in samples]
        return lmm.generate(torch.stack(list(lmm.encode(images))), asked, max_new_tokens=longest, images=counts)

    ways = {"ours": together, "batched": lambda: plainly(wanted.plain_batch), "one by one": lambda: plainly(1)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    apart = dict.fromkeys(ways, 0)
    together()
    for _ in range(wanted.pairs):
        answers = {}
        for name, way in ways.items():
            start = time.perf_counter()
            answers[name] = way()
            seconds[name].append(time.perf_counter() - start)
            wrong = sum(a != b for a, b in zip(answers["ours"], answers[name], strict=True))
            apart[name] = max(apart[name], wrong)
    count = sum(len(samples) for samples, _ in tests)
    print(
        f"{wanted.model} on {wanted.stream}, {count} questions, {torch.get_num_threads()} threads, "
        f"{wanted.pairs} rounds"
    )
    for name, taken in seconds.items():
        ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], taken, strict=True)]
        spread = f"{statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:11} {statistics.median(taken):7.2f} s  {spread} times ours; answers that differ: {apart[name]}")


if __name__ == "__main__":
    main()
