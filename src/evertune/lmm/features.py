"""The store of frozen vision features: computed once per picture, kept on disk by content, shared by all runs.

A shard is a safetensors file with up to a few hundred pictures; its header lists their hashes. Shards are memory
mapped: a batch reads its own rows only. A damaged shard is dropped and computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from evertune.files import cache_folder, digest, make_folder, write_atomically
from evertune.lmm.protocol import LMM
from evertune.tasks.jsonl import open_picture
from evertune.tasks.task import Sample

SHARD = 256
ENCODE_BATCH = 64


class FeatureStore:
    """Features of pictures under one vision tower, found by the picture's SHA-256."""

    def __init__(self, lmm: LMM, *, folder: Path | None = None) -> None:
        self._lmm = lmm
        base = folder or cache_folder() / "features"
        self.folder = make_folder(base / lmm.encoder_fingerprint[:16])
        self._place: dict[str, tuple[Any, int]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            self._open(path)

    def __contains__(self, sample: Sample) -> bool:
        return sample.image_digest in self._place

    def ensure(self, samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None) -> None:
        """Encode the pictures of `samples` that are not here yet; `progress` gets (done, in all).

        Raises:
            DataError: a picture is broken; the message names file and line.
        """
        missing = list({s.image_digest: s for s in samples if s not in self}.values())
        for start in range(0, len(missing), SHARD):
            self._add(missing[start : start + SHARD])
            if progress:
                progress(min(start + SHARD, len(missing)), len(missing))

    def get(self, samples: Sequence[Sample]) -> Tensor:
        """(n, V, D) features of `samples`, which `ensure` has seen before."""
        rows = []
        for sample in samples:
            shard, row = self._place[sample.image_digest]
            rows.append(shard[row : row + 1])
        return torch.cat(rows)

    def _add(self, samples: Sequence[Sample]) -> None:
        parts = []
        for start in range(0, len(samples), ENCODE_BATCH):
            images = [open_picture(s.image, origin=s.origin) for s in samples[start : start + ENCODE_BATCH]]
            parts.append(self._lmm.encode(images))
        keys = [s.image_digest for s in samples]
        path = self.folder / f"{digest(*keys)[:24]}.safetensors"
        write_atomically(path, save({"features": torch.cat(parts)}, metadata={"keys": json.dumps(keys)}))
        self._open(path)

    def _open(self, path: Path) -> None:
        try:
            shard: Any = safe_open(path, framework="pt")
            keys = json.loads(shard.metadata()["keys"])
        except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError):
            path.unlink(missing_ok=True)  # a cache: what is damaged is made again
            return
        features = shard.get_slice("features")
        for row, key in enumerate(keys):
            self._place[key] = (features, row)
