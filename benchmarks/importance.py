"""What importances cost: the gradients of 16 samples at once against one sample after another, in one run.

    python benchmarks/importance.py                    # tiny-aligned on pocket-b1's first task, 128 samples, 5 pairs
    python benchmarks/importance.py --model smol --stream parcel

The two alternate; printed are the medians, their ratio with its spread, and how far the two results lie apart.
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest import mock

import torch

from evertune.data import load_stream
from evertune.methods import importance
from evertune.methods.base import Context
from evertune.methods.ewc import fisher_information
from evertune.models import load_lmm
from evertune.models.features import FeatureStore
from evertune.models.weights import copy_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-aligned")
    parser.add_argument("--stream", default="pocket-b1")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=5)
    wanted = parser.parse_args()
    lmm = load_lmm(wanted.model)
    samples = list(load_stream(wanted.stream).tasks[0].train[: wanted.samples])
    features = FeatureStore(lmm)
    features.ensure(samples)
    context = Context(lmm=lmm, features=features, seed=0, start=copy_of(lmm.trainable()))

    def timed() -> tuple[float, dict[str, torch.Tensor]]:
        start = time.perf_counter()
        found = fisher_information(context, samples)
        return time.perf_counter() - start, found

    fisher_information(context, samples[:2])
    ours, theirs, apart = [], [], 0.0
    for _ in range(wanted.pairs):
        seconds, together = timed()
        ours.append(seconds)
        with mock.patch.object(importance, "gradients_of", lambda *_, **__: None):
            seconds, alone = timed()
        theirs.append(seconds)
        scale = max(float(value.max()) for value in alone.values())
        apart = max(apart, *(float((together[n] - alone[n]).abs().max()) / scale for n in alone))
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    print(f"{wanted.model}, {len(samples)} samples, {torch.get_num_threads()} threads, {wanted.pairs} pairs")
    print(f"at once       {statistics.median(ours):6.2f} s")
    print(f"one by one    {statistics.median(theirs):6.2f} s")
    print(f"ratio         {statistics.median(ratios):6.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"apart by      {apart:.1e} of the largest value")


if __name__ == "__main__":
    main()
