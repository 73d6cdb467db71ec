"""The store of frozen vision features: computed once per picture, kept on disk by content, shared by all runs.

A shard is a safetensors file with up to a few hundred pictures; its header lists their hashes. Shards are memory
mapped: a batch reads its own rows only. A damaged shard is dropped and computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from evertune.errors import DataError
from evertune.files import cache_folder, digest, make_folder, write_atomically
from evertune.lmm.protocol import LMM
from evertune.tasks.pictures import read_picture
from evertune.tasks.split import number_problem
from evertune.tasks.task import Sample

SHARD = 256
ENCODE_BATCH = 64
Picture = tuple[Path, str]
"""A file, and the origin of a row that has it."""


class FeatureStore:
    """Features of pictures under one vision tower, found by the picture's SHA-256."""

    def __init__(self, lmm: LMM, *, folder: Path | None = None) -> None:
        self._lmm = lmm
        base = folder or cache_folder() / "features"
        self.folder = make_folder(base / lmm.encoder_fingerprint[:16])
        self._place: dict[str, tuple[Any, int | slice]] = {}
        self._shards: set[Path] = set()
        self._look()

    def _look(self) -> None:
        """Open the shards that are new on disk."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self._shards):
            self._open(path)

    def __contains__(self, sample: Sample) -> bool:
        return all(image in self._place for image in sample.image_digests)

    def ensure(self, samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None) -> None:
        """Encode the pictures of `samples` that are not here yet; `progress` gets (samples looked at, in all).

        Raises:
            DataError: a picture is broken, or the model takes another number of them; the message names file and line.
        """
        missing: dict[str, Picture] = {}
        looked = False
        for number, sample in enumerate(samples, start=1):
            if len(sample.images) not in self._lmm.pictures:
                raise number_problem(sample.origin, len(sample.images), self._lmm.pictures, model=self._lmm.name)
            for image, path in zip(sample.image_digests, sample.images, strict=True):
                if image not in self._place and not looked:
                    self._look()  # another process may have made it meanwhile
                    looked = True
                if image not in self._place:
                    missing.setdefault(image, (path, sample.origin))
            while len(missing) >= SHARD or (missing and number == len(samples)):
                shard = dict(list(missing.items())[:SHARD])
                self._add(shard)
                missing = {image: picture for image, picture in missing.items() if image not in shard}
                if progress:
                    progress(number, len(samples))

    @contextmanager
    def held(self, pictures: Mapping[str, Image.Image]) -> Iterator[None]:
        """Encode pictures, by their SHA-256, and have their features for as long as this is entered; on no disk."""
        new = [key for key in pictures if key not in self._place]
        for start in range(0, len(new), ENCODE_BATCH):
            some = new[start : start + ENCODE_BATCH]
            for key, features in zip(some, self._lmm.encode([pictures[key] for key in some]), strict=True):
                self._place[key] = (features[None], 0)
        try:
            yield
        finally:
            for key in new:
                self._place.pop(key, None)

    def get(self, samples: Sequence[Sample]) -> Tensor:
        """(pictures, V, D) features of all pictures of `samples`, in order; `ensure` has seen them before.

        Where pictures have different numbers of rows, V is the largest, and the others end with zeros. Samples without
        a picture have no row.
        """
        places = [self._place[image] for sample in samples for image in sample.image_digests]
        if not places:
            return self.like[:0]
        return pad_sequence([shard[place] for shard, place in places], batch_first=True)

    @cached_property
    def like(self) -> Tensor:
        """(1, V, D) features of a grey picture, where only their shape is wanted."""
        return grey_features(self._lmm, 1)

    def _add(self, pictures: Mapping[str, Picture]) -> None:
        parts: list[Tensor] = []
        keys = list(pictures)
        for start in range(0, len(keys), ENCODE_BATCH):
            parts.extend(self._lmm.encode([_opened(key, *pictures[key]) for key in keys[start : start + ENCODE_BATCH]]))
        path = self.folder / f"{digest(*keys)[:24]}.safetensors"
        header = {"keys": json.dumps(keys)}
        if len({len(part) for part in parts}) > 1:
            header["lengths"] = json.dumps([len(part) for part in parts])
        features = torch.cat(parts) if "lengths" in header else torch.stack(parts)
        write_atomically(path, save({"features": features}, metadata=header))
        self._open(path)

    def _open(self, path: Path) -> None:
        try:
            shard: Any = safe_open(path, framework="pt")
            keys = json.loads(shard.metadata()["keys"])
            lengths = json.loads(shard.metadata().get("lengths", "null"))
        except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError):
            path.unlink(missing_ok=True)  # a cache: what is damaged is made again
            return
        self._shards.add(path)
        features = shard.get_slice("features")
        if lengths is None:  # (pictures, V, D)
            self._place.update({key: (features, row) for row, key in enumerate(keys)})
            return
        starts = accumulate(lengths, initial=0)  # (all rows, D)
        self._place.update(
            {
                key: (features, slice(start, start + rows))
                for key, start, rows in zip(keys, starts, lengths, strict=False)
            }
        )


def grey_features(lmm: LMM, count: int) -> Tensor:
    """(count, V, D) features of grey pictures, where none is at hand or what it shows does not matter."""
    one = torch.stack(list(lmm.encode([Image.new("RGB", (64, 64), "grey")])))
    return one.expand(count, *one.shape[1:])


def embed_pictures(lmm: LMM, features: FeatureStore, samples: Sequence[Sample]) -> Tensor:
    """(n, D) one frozen vector per sample: that of its picture, or the mean over its pictures; `SHARD` at a time.

    Of a sample without a picture all is zero: then only its texts say what it is like.
    """
    made = []
    for start in range(0, len(samples), SHARD):
        part = samples[start : start + SHARD]
        counts = [len(sample.images) for sample in part]
        rows = lmm.embed_images(features.get(part) if any(counts) else features.like)[: sum(counts)]
        if set(counts) != {1}:
            nothing = rows.new_zeros(rows.shape[1])
            rows = torch.stack([own.mean(0) if len(own) else nothing for own in torch.split(rows, counts)])
        made.append(rows)
    return torch.cat(made)


def _opened(key: str, path: Path, origin: str) -> Image.Image:
    """The picture of this SHA-256: what is stored under a key must be made of just those bytes."""
    picture, content = read_picture(path, origin=origin)
    if content != key:
        raise DataError(f"{origin}: the picture {path} was changed while it was in use; run the same command again")
    return picture
