"""What the evaluator saves: batches and cached features against one question at a time without them, in one run.

    python benchmarks/evaluation.py                    # smol on parcel, 24 questions of each task, 5 pairs
    python benchmarks/evaluation.py --model tiny-aligned --stream pocket-b1

One at a time is what most research code does: read the picture, encode it, generate with batch 1. Both answer the same
questions with the same weights after a little training, alternating; the answers must be the same.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from evertune.evaluate import answer_samples, longest_answer
from evertune.learner import Learner
from evertune.lmm import load_lmm
from evertune.lmm.device import use_threads
from evertune.loop import Training
from evertune.methods import make_methods
from evertune.tasks import load_stream
from evertune.tasks.pictures import read_picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smol")
    parser.add_argument("--stream", default="parcel")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--batch", type=int, default=128)
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

    def one_by_one() -> list[str]:
        return [
            lmm.answer(encoded(sample), [sample.instruction], max_new_tokens=longest, pictures=[len(sample.images)])[0]
            for samples, longest in tests
            for sample in samples
        ]

    def encoded(sample) -> torch.Tensor:
        return torch.stack(list(lmm.encode([read_picture(p, origin=str(p))[0] for p in sample.images])))

    ours, theirs, apart = [], [], 0
    together()
    for _ in range(wanted.pairs):
        start = time.perf_counter()
        fast = together()
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        slow = one_by_one()
        theirs.append(time.perf_counter() - start)
        apart = max(apart, sum(a != b for a, b in zip(fast, slow, strict=True)))
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    count = sum(len(samples) for samples, _ in tests)
    print(
        f"{wanted.model} on {wanted.stream}, {count} questions, {torch.get_num_threads()} threads, {wanted.pairs} pairs"
    )
    print(f"together      {statistics.median(ours):6.2f} s   {count / statistics.median(ours):6.1f} answers per second")
    print(f"one by one    {statistics.median(theirs):6.2f} s   {count / statistics.median(theirs):6.1f}")
    print(f"ratio         {statistics.median(ratios):6.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"answers that differ: {apart}")


if __name__ == "__main__":
    main()
