"""How much of the machine a training step uses: its operations per second against a large matrix product's, in one run.

    python benchmarks/step.py                          # smol on parcel's first task, batch 8, 7 pairs
    python benchmarks/step.py --model tiny-aligned --stream pocket-b1 --batch 32

Operations are those that PyTorch's own counter finds forward and backward: products only. The two alternate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from evertune.data import load_stream
from evertune.models import load_lmm
from evertune.models.features import FeatureStore
from evertune.utils.device import use_threads

SIDE = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smol")
    parser.add_argument("--stream", default="parcel")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=7)
    wanted = parser.parse_args()
    use_threads()
    lmm = load_lmm(wanted.model)
    samples = list(load_stream(wanted.stream, limit=wanted.batch).tasks[0].train)
    features = FeatureStore(lmm)
    features.ensure(samples)
    module, parameters = lmm.module(), lmm.trainable()
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.0)
    batch = lmm.collate(samples, features.get(samples))
    module.train()

    def step() -> None:
        module(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    left, right = (torch.randn(SIDE, SIDE, dtype=lmm.dtype, device=lmm.device) for _ in range(2))

    def product() -> None:
        torch.mm(left, right)

    with FlopCounterMode(display=False) as counter:
        step()
    operations = counter.get_total_flops()
    steps, products = [], []
    for _ in range(wanted.pairs):
        steps.append(_seconds(step))
        products.append(_seconds(product) / (2 * SIDE**3))
    shares = [operations * one / seconds for seconds, one in zip(steps, products, strict=True)]
    tokens = int(batch.attention.sum()) / len(samples)
    print(
        f"{wanted.model}, {lmm.dtype}, {torch.get_num_threads()} threads, {len(samples)} samples of {tokens:.0f} tokens"
    )
    print(f"step          {statistics.median(steps):6.3f} s   {operations / 1e9:.1f} G operations")
    print(f"product       {1 / statistics.median(products) / 1e9:6.0f} G operations per second, {SIDE} x {SIDE}")
    print(
        f"share         {100 * statistics.median(shares):6.1f} %   ({100 * min(shares):.1f} to {100 * max(shares):.1f})"
    )


def _seconds(work: Callable[[], None]) -> float:
    """The best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
