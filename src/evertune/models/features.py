"""Frozen vision features: computed once per image where they are kept, else for each batch.

`FeaturePolicy` says where. On disk they are found by the image's content, and shared by all runs. What is not kept (by
choice, or because the budget or the disk is full) is encoded when it is used: a run never ends for lack of a cache.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from evertune.data.split import number_problem
from evertune.data.task import Sample
from evertune.models.feature_encoder import ENCODE_BATCH, FeatureEncoder, Group, ImageSource, Prepared
from evertune.models.feature_policy import Choice, FeaturePolicy, Keep, Need, budget_of, choose, room_in
from evertune.models.feature_shards import DiskShards, Kept, MemoryShards, kept_bytes
from evertune.models.protocol import Encoder
from evertune.utils import distributed
from evertune.utils.device import is_deterministic, processor
from evertune.utils.files import cache_folder, digest

SHARD = 256
"""Most images of a shard."""
SHARD_BYTES = 64 << 20
"""A shard ends with the group of images that reaches this size."""
MEASURED = 4
"""Samples whose images are encoded to know the bytes of one."""
T = TypeVar("T")
OnEncoded = Callable[[int, int], None]


class Features(Protocol):
    """What methods need of a `FeatureStore`; a model without cached features has none to give."""

    def ensure(self, samples: Sequence[Sample], *, progress: OnEncoded | None = None) -> None:
        """Encode the images of `samples` that are not there yet, where features are kept."""

    def get(self, samples: Sequence[Sample]) -> Tensor:
        """(images, V, D) features of all images of `samples`, in order."""

    def ahead(self, batches: Iterable[Sequence[Sample]]) -> AbstractContextManager[None]:
        """While this is entered, `get` is called with these batches in order."""

    @property
    def like(self) -> Tensor:
        """(1, V, D) features of a grey image, where only their shape is wanted."""


class FeatureStore:
    """Features of images under one vision tower, found by the image's SHA-256.

    Args:
        lmm: whose tower encodes.
        folder: of the features of all models; default: in the cache.
        policy: where features are kept; `auto` keeps them on disk until `settle` has chosen.
    """

    def __init__(self, lmm: Encoder, *, folder: Path | None = None, policy: FeaturePolicy | None = None) -> None:
        self._lmm = lmm
        self.policy = policy or FeaturePolicy()
        self._root = folder or cache_folder() / "features"
        self._encoder = FeatureEncoder(lmm, workers=self.policy.workers)
        self._held: dict[str, Tensor] = {}  # of images that are on no disk
        self._coming: Iterator[Prepared] = iter(())  # what `ahead` has prepared
        self._next: Prepared | None = None
        self._is_full = False
        self._on_disk: DiskShards | None = None
        self._keep(self.policy.keep)

    @cached_property
    def folder(self) -> Path:
        """Where the shards of this tower are."""
        return self._root / f"{self._lmm.encoder_fingerprint[:16]}{_apart()}"

    def _keep(self, keep: Keep, budget: int | None = None) -> None:
        if budget is None:
            budget = budget_of(self.policy, keep, room_in(self._root, kept=kept_bytes(self._root)))
        self._kept: Kept = Kept()
        if keep == "memory":
            self._kept = MemoryShards(budget)
        elif keep != "off":
            self._kept = self._on_disk or DiskShards(self.folder)
            self._kept.budget = budget
            self._on_disk = self._kept

    def settle(self, samples: Sequence[Sample], *, images: int, uses: float) -> Choice:
        """Choose where to keep the features of a run, where the policy is `auto`.

        Args:
            samples: the bytes of their features are measured: some of them are encoded.
            images: how many different images the run has.
            uses: how often each is used, on average.
        """
        need = Need(images, self.bytes_per_image(samples), uses)
        room = room_in(self._root, kept=kept_bytes(self._root))
        choice = distributed.broadcast(choose(self.policy, need, room))  # all processes must agree
        self._keep(choice.keep, choice.budget)
        return choice

    def bytes_per_image(self, samples: Sequence[Sample]) -> int:
        """Mean bytes of the features of the first images of `samples`."""
        features = self.get(samples[:MEASURED])
        return features.nbytes // max(1, len(features))

    def __contains__(self, sample: Sample) -> bool:
        return all(image in self._kept for image in sample.image_digests)

    def ensure(self, samples: Sequence[Sample], *, progress: OnEncoded | None = None, together: bool = False) -> None:
        """Encode the images of `samples` that are not kept yet, as far as they may be kept.

        Args:
            samples: in the order in which they are encoded.
            progress: gets (samples looked at, in all).
            together: all processes call this with the same samples, and each encodes its share.

        Raises:
            DataError: an image is broken, or the model takes another number of them; the message names file and line.
        """
        several = distributed.world_size() > 1
        if not isinstance(self._kept, DiskShards if several else (DiskShards, MemoryShards)):
            return  # of several processes, each keeps in memory what it uses
        self._kept.begin()
        if together and several:
            distributed.barrier()  # from here on all see the same shards ...
            self._kept.look()
            distributed.barrier()  # ... until here
        groups = self._missing_groups(samples, progress, is_shared=together and several)
        self._fill(groups)
        if together and several:
            distributed.barrier()
            self._kept.look()

    def _missing_groups(
        self, samples: Sequence[Sample], progress: OnEncoded | None, *, is_shared: bool
    ) -> Iterator[Group]:
        """Groups of images that are not kept, each image once: all of them, or the share of this process."""
        seen: set[int] = set()
        missing: list[ImageSource] = []
        found, looked = 0, is_shared
        for number, sample in enumerate(samples, start=1):
            for source in self._checked_sources(sample):
                if source.sha256 not in self._kept and not looked:
                    self._kept.look()  # another process may have made it meanwhile
                    looked = True
                key = int(source.sha256[:16], 16)
                if key not in seen and source.sha256 not in self._kept:
                    seen.add(key)
                    missing.append(source)
            while len(missing) >= ENCODE_BATCH or (missing and number == len(samples)):
                group, missing = missing[:ENCODE_BATCH], missing[ENCODE_BATCH:]
                if not is_shared or found % distributed.world_size() == distributed.rank():
                    yield Group((), tuple(group))
                found += 1
                if progress:
                    progress(number, len(samples))

    def _fill(self, groups: Iterator[Group]) -> None:
        """Encode and keep groups until there is no more room."""
        made: dict[str, Tensor] = {}
        for prepared in self._encoder.prepared(groups):
            made |= self._encoder.encode(prepared)
            if len(made) >= SHARD or sum(part.nbytes for part in made.values()) >= SHARD_BYTES:
                if not self._add(made):
                    return
                made = {}
        if made:
            self._add(made)

    def _add(self, features: Mapping[str, Tensor]) -> bool:
        """Keep features; says once why that is not possible."""
        refused = self._kept.add(features)
        if refused and not self._is_full:
            self._is_full = True
            logging.getLogger("evertune").warning(
                f"vision features are not kept any more: {refused}. The run continues and encodes other images for "
                "each batch (features.budget=SIZE, or features=off)"
            )
        return refused is None

    @contextmanager
    def ahead(self, batches: Iterable[Sequence[Sample]]) -> Iterator[None]:
        """While this is entered, `get` is called with these batches in order: data workers prepare what is not kept."""
        before = self._coming, self._next
        self._coming, self._next = self._encoder.prepared(self._unkept(batch) for batch in batches), None
        try:
            yield
        finally:
            self._coming, self._next = before

    def ahead_of(self, loader: Iterable[T], batches: Iterable[Sequence[Sample]]) -> Iterator[T]:
        """The items of a loader that calls `get` with `batches`, which `ahead` knows meanwhile."""
        with self.ahead(batches):
            yield from loader

    def _unkept(self, batch: Sequence[Sample]) -> Group:
        sources = {source.sha256: source for sample in batch for source in self._checked_sources(sample)}
        missing = tuple(
            source for image, source in sources.items() if image not in self._held and image not in self._kept
        )
        return Group(tuple(image for sample in batch for image in sample.image_digests), missing)

    @contextmanager
    def held(self, images: Mapping[str, Image.Image]) -> Iterator[None]:
        """Encode images, by their SHA-256, and have their features for as long as this is entered; on no disk."""
        new = {key: image for key, image in images.items() if key not in self._kept and key not in self._held}
        self._held |= self._encoder.encode_images(new)
        try:
            yield
        finally:
            for key in new:
                self._held.pop(key, None)

    def get(self, samples: Sequence[Sample]) -> Tensor:
        """(images, V, D) features of all images of `samples`, in order; what is not kept is encoded now.

        Where images have different numbers of rows, V is the largest, and the others end with zeros. Samples without
        an image have no row.

        Raises:
            DataError: as `ensure`.
        """
        wanted = [image for sample in samples for image in sample.image_digests]
        if not wanted:
            return self.like[:0]
        found = self._prepared_ahead(tuple(wanted))
        missing: dict[str, ImageSource] = {}
        for sample in samples:
            for source in self._checked_sources(sample):
                image = source.sha256
                if image not in found:
                    features = self._held[image] if image in self._held else self._kept.find(image)
                    if features is None:
                        missing[image] = source
                    else:
                        found[image] = features
        if missing:
            found |= self._kept_if_in_memory(self._encoder.encode_now(list(missing.values())))
        return pad_sequence([found[image] for image in wanted], batch_first=True)

    def _prepared_ahead(self, signature: tuple[str, ...]) -> dict[str, Tensor]:
        """Features of the images of a batch that `ahead` has prepared; none where another batch is next."""
        if self._next is None:
            self._next = next(self._coming, None)
        if self._next is None or self._next.group.signature != signature:
            return {}
        prepared, self._next = self._next, None
        return self._kept_if_in_memory(self._encoder.encode(prepared))

    def _kept_if_in_memory(self, made: dict[str, Tensor]) -> dict[str, Tensor]:
        if made and isinstance(self._kept, MemoryShards):
            self._add(made)
        return made

    def _checked_sources(self, sample: Sample) -> list[ImageSource]:
        if len(sample.images) not in self._lmm.images_per_sample:
            raise number_problem(sample.origin, len(sample.images), self._lmm.images_per_sample, model=self._lmm.name)
        return sources_of(sample)

    @cached_property
    def like(self) -> Tensor:
        """(1, V, D) features of a grey image, where only their shape is wanted."""
        return grey_features(self._lmm, 1)


def sources_of(sample: Sample) -> list[ImageSource]:
    """The images of a sample."""
    return [
        ImageSource(image, path, sample.origin) for image, path in zip(sample.image_digests, sample.images, strict=True)
    ]


def _apart() -> str:
    """The end of a store's name: a deterministic one is of one kind of machine, its images encoded one by one.

    In a batch the last bits depend on how many there are, and so on what was in the cache before.
    """
    return f"-{digest(torch.__version__, processor())[:8]}" if is_deterministic() else ""


def grey_features(lmm: Encoder, count: int) -> Tensor:
    """(count, V, D) features of grey images, where none is at hand or what it shows does not matter."""
    one = torch.stack(list(lmm.encode([Image.new("RGB", (64, 64), "grey")])))
    return one.expand(count, *one.shape[1:])


def embed_images(lmm: Encoder, features: Features, samples: Sequence[Sample]) -> Tensor:
    """(n, D) one frozen vector per sample: that of its image, or the mean over its images; `SHARD` at a time.

    Of a sample without an image all is zero: then only its texts say what it is like.
    """
    parts = [samples[start : start + SHARD] for start in range(0, len(samples), SHARD)]
    with features.ahead(parts):
        return torch.cat([_embedded(lmm, features, part) for part in parts])


def _embedded(lmm: Encoder, features: Features, samples: Sequence[Sample]) -> Tensor:
    counts = [len(sample.images) for sample in samples]
    rows = lmm.embed_images(features.get(samples) if any(counts) else features.like)[: sum(counts)]
    if set(counts) == {1}:
        return rows
    nothing = rows.new_zeros(rows.shape[1])
    return torch.stack([own.mean(0) if len(own) else nothing for own in torch.split(rows, counts)])
