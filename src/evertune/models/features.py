"""The store of frozen vision features: computed once per image, kept on disk by content, shared by all runs.

A shard is a safetensors file with up to a few hundred images; its header lists their hashes. Shards are memory
mapped: a batch reads its own rows only. Each has a checksum, which is compared once per process, before the first use;
a damaged shard is dropped and computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from evertune.data.images import read_image, unprepared
from evertune.data.split import number_problem
from evertune.data.task import Sample
from evertune.models.protocol import Encoder
from evertune.utils.device import is_deterministic, processor
from evertune.utils.errors import DataError, UserError
from evertune.utils.files import cache_folder, digest, make_folder, note_damage, sum_of, sum_of_file, write_atomically
from evertune.utils.safetensors_header import read_header

SHARD = 256
ENCODE_BATCH = 64
ImageSource = tuple[Path, str]
"""A file, and the origin of a row that has it."""


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A file of features and its header, which was not compared with its checksum yet."""

    path: Path
    keys: list[str]
    header: dict[str, str]

    def is_whole(self) -> bool:
        """Whether what is on disk is what was written."""
        try:
            with self.path.open("rb") as stream:
                start = 8 + int.from_bytes(stream.read(8), "little")
            return sum_of_file(self.path, start=start, before=_described(self.header)) == int(self.header["sum"])
        except (OSError, ValueError, KeyError):
            return False


class Features(Protocol):
    """What methods need of a `FeatureStore`; a model without cached features has none to give."""

    def ensure(self, samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None) -> None:
        """Encode the images of `samples` that are not there yet."""

    def get(self, samples: Sequence[Sample]) -> Tensor:
        """(images, V, D) features of all images of `samples`, in order."""

    @property
    def like(self) -> Tensor:
        """(1, V, D) features of a grey image, where only their shape is wanted."""


class FeatureStore:
    """Features of images under one vision tower, found by the image's SHA-256."""

    def __init__(self, lmm: Encoder, *, folder: Path | None = None) -> None:
        self._lmm = lmm
        base = folder or cache_folder() / "features"
        self.folder = make_folder(base / f"{lmm.encoder_fingerprint[:16]}{_apart()}")
        self._at_once = 1 if is_deterministic() else ENCODE_BATCH
        self._place: dict[str, tuple[Any, int | slice]] = {}
        self._shards: set[Path] = set()
        self._unproved: dict[str, Shard] = {}  # by image
        self._look()

    def _look(self) -> None:
        """Open the shards that are new on disk."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self._shards):
            self._open(path)

    def __contains__(self, sample: Sample) -> bool:
        return all(image in self._place for image in sample.image_digests)

    def ensure(self, samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None) -> None:
        """Encode the images of `samples` that are not here yet; `progress` gets (samples looked at, in all).

        Raises:
            DataError: an image is broken, or the model takes another number of them; the message names file and line.
        """
        missing: dict[str, ImageSource] = {}
        looked = False
        for number, sample in enumerate(samples, start=1):
            if len(sample.images) not in self._lmm.images_per_sample:
                raise number_problem(
                    sample.origin, len(sample.images), self._lmm.images_per_sample, model=self._lmm.name
                )
            for image, path in zip(sample.image_digests, sample.images, strict=True):
                if image not in self._place and not looked:
                    self._look()  # another process may have made it meanwhile
                    looked = True
                if image in self._unproved:
                    self._prove(self._unproved[image])
                if image not in self._place:
                    missing.setdefault(image, (path, sample.origin))
            while len(missing) >= SHARD or (missing and number == len(samples)):
                shard = dict(list(missing.items())[:SHARD])
                self._add(shard)
                missing = {image: source for image, source in missing.items() if image not in shard}
                if progress:
                    progress(number, len(samples))

    @contextmanager
    def held(self, images: Mapping[str, Image.Image]) -> Iterator[None]:
        """Encode images, by their SHA-256, and have their features for as long as this is entered; on no disk."""
        new = [key for key in images if key not in self._place]
        for start in range(0, len(new), self._at_once):
            some = new[start : start + self._at_once]
            for key, features in zip(some, self._encoded([images[key] for key in some]), strict=True):
                self._place[key] = (features[None], 0)
        try:
            yield
        finally:
            for key in new:
                self._place.pop(key, None)

    def get(self, samples: Sequence[Sample]) -> Tensor:
        """(images, V, D) features of all images of `samples`, in order; `ensure` has seen them before.

        Where images have different numbers of rows, V is the largest, and the others end with zeros. Samples without
        an image have no row.
        """
        places = [self._place[image] for sample in samples for image in sample.image_digests]
        if not places:
            return self.like[:0]
        return pad_sequence([shard[place] for shard, place in places], batch_first=True)

    @cached_property
    def like(self) -> Tensor:
        """(1, V, D) features of a grey image, where only their shape is wanted."""
        return grey_features(self._lmm, 1)

    def _add(self, images: Mapping[str, ImageSource]) -> None:
        parts: list[Tensor] = []
        keys = list(images)
        for start in range(0, len(keys), self._at_once):
            some = keys[start : start + self._at_once]
            names = [f"{origin}: the image {path}: " for path, origin in (images[key] for key in some)]
            parts.extend(self._encoded([_opened(key, *images[key]) for key in some], names))
        path = self.folder / f"{digest(*keys)[:24]}.safetensors"
        header = {"keys": json.dumps(keys)}
        if len({len(part) for part in parts}) > 1:
            header["lengths"] = json.dumps([len(part) for part in parts])
        self._write(path, torch.cat(parts) if "lengths" in header else torch.stack(parts), header)
        self._open(path)

    def _encoded(self, images: Sequence[Image.Image], names: Sequence[str] = ()) -> Sequence[Tensor]:
        """Features of `images`; where the model can't prepare one, the error begins with its name.

        Raises:
            DataError: an image can't be prepared.
        """
        try:
            return list(self._lmm.encode(images))
        except (ValueError, ArithmeticError, LookupError) as problem:
            if len(images) > 1:  # which one?
                for number, image in enumerate(images):
                    self._encoded([image], names[number : number + 1])
            if isinstance(problem, UserError) and not isinstance(problem, DataError):
                raise
            fault = problem if isinstance(problem, DataError) else unprepared(images[0].size[::-1], problem)
            raise DataError(f"{''.join(names)}{fault}", kind=fault.kind) from problem

    @staticmethod
    def _write(path: Path, features: Tensor, header: Mapping[str, str]) -> None:
        described = {**header, "shape": str(list(features.shape)), "dtype": str(features.dtype)}
        data: Any = features.contiguous().view(torch.uint8).numpy()
        described["sum"] = str(sum_of(_described(described), memoryview(data).cast("B")))
        write_atomically(path, save({"features": features}, metadata=described))

    def _prove(self, shard: Shard) -> None:
        """Compare a shard with its checksum; what is damaged is not there any more. All of it, so that it is made
        again in the same batches, which decide the last bits."""
        if not shard.is_whole():
            note_damage(shard.path)
            self._shards.discard(shard.path)
            for key in (key for key in shard.keys if self._unproved.get(key) is shard):
                self._place.pop(key, None)
        for key in (key for key in shard.keys if self._unproved.get(key) is shard):
            del self._unproved[key]

    def _open(self, path: Path) -> None:
        try:
            read_header(path)
            shard: Any = safe_open(path, framework="pt")
            header = shard.metadata()
            keys = json.loads(header["keys"])
            lengths = json.loads(header.get("lengths", "null"))
            features = shard.get_tensor("features")  # mapped: nothing of it is read yet
            described = [str(list(features.shape)), str(features.dtype)]
            if described != [header.get("shape"), header.get("dtype")]:
                raise ValueError("the header is not the one that was written")
        except OSError:
            return  # another process has found it damaged, or it can't be opened now: that is no reason to remove it
        except (SafetensorError, KeyError, TypeError, ValueError):
            if path.exists():  # else another process was faster
                note_damage(path)  # a cache: what is damaged is made again
            return
        self._shards.add(path)
        self._unproved.update(dict.fromkeys(keys, Shard(path, keys, header)))
        if lengths is None:  # (images, V, D)
            self._place.update({key: (features, row) for row, key in enumerate(keys)})
            return
        starts = accumulate(lengths, initial=0)  # (all rows, D)
        self._place.update(
            {
                key: (features, slice(start, start + rows))
                for key, start, rows in zip(keys, starts, lengths, strict=False)
            }
        )


def _apart() -> str:
    """The end of a store's name: a deterministic one is of one kind of machine, its images encoded one by one.

    In a batch the last bits depend on how many there are, and so on what was in the cache before.
    """
    return f"-{digest(torch.__version__, processor())[:8]}" if is_deterministic() else ""


def _described(header: Mapping[str, str]) -> bytes:
    """What a shard's checksum is of, beside the features: whose they are, and how they are to be read."""
    return "\n".join(header.get(name, "") for name in ("keys", "lengths", "shape", "dtype")).encode()


def grey_features(lmm: Encoder, count: int) -> Tensor:
    """(count, V, D) features of grey images, where none is at hand or what it shows does not matter."""
    one = torch.stack(list(lmm.encode([Image.new("RGB", (64, 64), "grey")])))
    return one.expand(count, *one.shape[1:])


def embed_images(lmm: Encoder, features: Features, samples: Sequence[Sample]) -> Tensor:
    """(n, D) one frozen vector per sample: that of its image, or the mean over its images; `SHARD` at a time.

    Of a sample without an image all is zero: then only its texts say what it is like.
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
    """The image of this SHA-256: what is stored under a key must be made of just those bytes."""
    image, content = read_image(path, origin=origin)
    if content != key:
        raise DataError(f"{origin}: the image {path} was changed while it was in use; run the same command again")
    return image
