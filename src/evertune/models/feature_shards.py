"""Where features are kept: shards on disk, shared by all runs, or the memory of this process; both within a budget.

A shard is a safetensors file with up to a few hundred images; its header lists their hashes. Rows are read with
`pread`, since the pages of a memory map would count as the process's memory. Each shard has a checksum, which is
compared once per process, before the first use; a damaged shard is dropped. Its time of change is that of its last
use: the least recently used shards go first when the budget is full, also those of other models and processes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from evertune.data.open_files import reader
from evertune.models.feature_policy import RESERVE
from evertune.utils.errors import UserError
from evertune.utils.files import digest, note_damage, sum_of, sum_of_file, write_atomically
from evertune.utils.safetensors_header import read_header
from evertune.utils.sizes import size

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_numbers = count()


class Shard:
    """A file of features and its header, which was not compared with its checksum yet.

    Raises:
        OSError: it can't be opened. SafetensorError, KeyError, TypeError, ValueError: it is no shard.
    """

    def __init__(self, path: Path) -> None:
        stored = read_header(path)["features"]
        with safe_open(path, framework="pt") as file:
            self.header: dict[str, str] = file.metadata()
        with path.open("rb") as stream:
            self._start = 8 + int.from_bytes(stream.read(8), "little")
        self.path, self.keys = path, list(json.loads(self.header["keys"]))
        self.is_proved, self.used = False, 0.0
        self._dtype, self._number = DTYPES[stored.dtype], next(_numbers)
        if [str(list(stored.shape)), str(self._dtype)] != [self.header["shape"], self.header["dtype"]]:
            raise ValueError("the header is not the one that was written")
        lengths = json.loads(self.header.get("lengths", "null"))  # (all rows, D), or (images, V, D)
        self._width = stored.shape[-1]
        self._starts = list(accumulate(lengths or [stored.shape[1]] * len(self.keys), initial=0))

    def is_whole(self) -> bool:
        """Whether what is on disk is what was written."""
        try:
            return sum_of_file(self.path, start=self._start, before=_described(self.header)) == int(self.header["sum"])
        except (OSError, ValueError, KeyError):
            return False

    def rows(self, at: int) -> Tensor:
        """(V, D) features of an image.

        Raises:
            OSError: another process has removed the file.
        """
        first, rows = self._starts[at], self._starts[at + 1] - self._starts[at]
        line = self._width * self._dtype.itemsize
        content = reader(self.path, self._number).read(np.array([self._start + first * line, rows * line]))
        if len(content) < rows * line:
            raise OSError(f"{self.path} is cut off")
        return torch.frombuffer(bytearray(content), dtype=self._dtype).view(rows, self._width)


class Kept:
    """A place for features, by the SHA-256 of their images. This one keeps nothing."""

    def begin(self) -> None:
        """From here on nothing is dropped that is used."""

    def look(self) -> None:
        """Find what other processes have added."""

    def __contains__(self, image: str) -> bool:
        return self.find(image) is not None

    def find(self, image: str) -> Tensor | None:
        """(V, D) features, or None."""
        return None

    def add(self, features: Mapping[str, Tensor]) -> str | None:
        """Keep features; returns why that is not possible."""
        return "nothing is kept"


class MemoryShards(Kept):
    """The memory of this process; the least recently used images go first."""

    def __init__(self, budget: int) -> None:
        self._budget, self._bytes, self._round = budget, 0, 0
        self._kept: OrderedDict[str, tuple[int, Tensor]] = OrderedDict()

    def begin(self) -> None:
        """From here on nothing is dropped that is used."""
        self._round += 1

    def find(self, image: str) -> Tensor | None:
        """(V, D) features, or None."""
        found = self._kept.pop(image, None)
        if found is None:
            return None
        self._kept[image] = (self._round, found[1])
        return found[1]

    def add(self, features: Mapping[str, Tensor]) -> str | None:
        """Keep features; returns why that is not possible."""
        wanted = sum(part.nbytes for part in features.values())
        while self._kept and self._bytes + wanted > self._budget:
            last_used, part = next(iter(self._kept.values()))
            if last_used == self._round:
                break
            self._bytes -= part.nbytes
            self._kept.popitem(last=False)
        if self._bytes + wanted > self._budget:
            return f"features.budget is {size(self._budget)} of memory, and all of it is in use"
        self._kept.update({image: (self._round, part.clone()) for image, part in features.items()})
        self._bytes += wanted
        return None


class DiskShards(Kept):
    """Shards in `folder`; those in all folders beside it share the budget, in bytes."""

    def __init__(self, folder: Path, *, budget: int = 0) -> None:
        self.folder, self.budget = folder, budget
        self._place: dict[str, tuple[Shard, int]] = {}
        self._opened: set[str] = set()
        self._since = time.time()
        self.look()

    def begin(self) -> None:
        """From here on nothing is dropped that is used, by this process or another."""
        self._since = time.time()

    def look(self) -> None:
        """Open the shards that are new on disk."""
        with suppress(OSError):
            for path in sorted(self.folder.glob("*.safetensors")):
                if path.name not in self._opened:
                    self._open(path)

    def _open(self, path: Path) -> None:
        try:
            shard = Shard(path)
        except OSError:
            return  # another process has found it damaged, or it can't be opened now: that is no reason to remove it
        except (SafetensorError, KeyError, IndexError, TypeError, ValueError):
            if path.exists():  # else another process was faster
                note_damage(path)  # a cache: what is damaged is made again
            return
        self._opened.add(path.name)
        self._place.update({image: (shard, at) for at, image in enumerate(shard.keys)})

    def __contains__(self, image: str) -> bool:
        return image in self._place and self._is_usable(self._place[image][0])

    def find(self, image: str) -> Tensor | None:
        """(V, D) features, or None."""
        if image not in self:
            return None
        shard, at = self._place[image]
        try:
            return shard.rows(at)
        except OSError:
            self._forget(shard)
            return None

    def _is_usable(self, shard: Shard) -> bool:
        """Compare a shard with its checksum, once. A damaged one is dropped as a whole, so that it is made again in
        the same batches, which decide the last bits."""
        if shard.used < self._since:
            shard.used = time.time()
            with suppress(OSError):
                os.utime(shard.path, (shard.used, shard.used))
        if not shard.is_proved and not shard.is_whole():
            if shard.path.exists():  # else another process has dropped it
                note_damage(shard.path)
            self._forget(shard)
            return False
        shard.is_proved = True
        return True

    def _forget(self, shard: Shard) -> None:
        self._opened.discard(shard.path.name)
        for image in shard.keys:
            if self._place.get(image, (None,))[0] is shard:
                del self._place[image]

    def add(self, features: Mapping[str, Tensor]) -> str | None:
        """Keep features in a new shard; returns why that is not possible."""
        if refused := self._make_room(sum(part.nbytes for part in features.values())):
            return refused
        path = self.folder / f"{digest(*features)[:24]}.safetensors"
        try:
            write_atomically(path, _content(features))
        except UserError as problem:
            return str(problem).partition(";")[0]
        self._open(path)
        return None

    def _make_room(self, wanted: int) -> str | None:
        """Remove the least recently used shards until there is room; returns why there is none."""
        shards = _shards_below(self.folder.parent)
        free = _free(self.folder) - RESERVE
        excess = max(sum(at.st_size for at in shards.values()) + wanted - self.budget, wanted - free)
        unused = {path: at for path, at in shards.items() if at.st_mtime < self._since}
        for path, at in sorted(unused.items(), key=lambda item: item[1].st_mtime):
            if not 0 < excess <= sum(each.st_size for each in unused.values()):
                break
            with suppress(OSError):
                path.unlink()
                excess -= at.st_size
            del unused[path]
        return self._why_full(wanted, free) if excess > 0 else None

    def _why_full(self, wanted: int, free: int) -> str:
        if wanted > free:
            return f"the disk of {self.folder} is full: {size(RESERVE)} of it stay free for the run"
        if wanted > self.budget:
            return f"features.budget is {size(self.budget)}, and a shard takes {size(wanted)}"
        return f"features.budget is {size(self.budget)}, and all of it is in use"


def _free(folder: Path) -> int:
    """Free bytes of the disk that a folder is on, or will be."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(there).free


def _shards_below(folder: Path) -> dict[Path, os.stat_result]:
    """The shards of all models with their size and last use."""
    found = {}
    with suppress(OSError):
        for path in folder.glob("*/*.safetensors"):
            with suppress(OSError):  # another process removes it
                found[path] = path.stat()
    return found


def kept_bytes(folder: Path) -> int:
    """Bytes of the features of all models."""
    return sum(at.st_size for at in _shards_below(folder).values())


def _content(features: Mapping[str, Tensor]) -> bytes:
    """A shard: one tensor, and in the header whose it is and how it is read."""
    parts = list(features.values())
    header = {"keys": json.dumps(list(features))}
    if len({len(part) for part in parts}) > 1:
        header["lengths"] = json.dumps([len(part) for part in parts])
    rows = torch.cat(parts) if "lengths" in header else torch.stack(parts)
    described = {**header, "shape": str(list(rows.shape)), "dtype": str(rows.dtype)}
    data: Any = rows.contiguous().view(torch.uint8).numpy()
    described["sum"] = str(sum_of(_described(described), memoryview(data).cast("B")))
    content: bytes = save({"features": rows}, metadata=described)
    return content


def _described(header: Mapping[str, str]) -> bytes:
    """What a shard's checksum is of, beside the features: whose they are, and how they are to be read."""
    return "\n".join(header.get(name, "") for name in ("keys", "lengths", "shape", "dtype")).encode()
