"""Images stored in a run folder, named by content: those of a replay memory and of evaluation sets.

    eval_set/images/3f...9a.png    named by SHA-256

A stored sample refers to its images by these file names only. So a run can be resumed after its folder, the cache or
the data were moved or deleted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evertune.data.images import read_bytes
from evertune.data.task import Sample
from evertune.utils import distributed
from evertune.utils.errors import DataError
from evertune.utils.files import make_folder, write_atomically
from evertune.utils.safe_names import below

FOLDER = "eval_set"
IMAGES = "images"


def keep_images(run: Path, sample: Sample) -> Sample:
    """Copy a sample's images into the run folder; returns the sample with the new names.

    Raises:
        DataError: an image is gone.
    """
    place = run / FOLDER / IMAGES
    names = [f"{sha}{image.suffix.lower()}" for image, sha in zip(sample.images, sample.image_digests, strict=True)]
    for image, name in zip(sample.images, names, strict=True):
        if distributed.is_main_process() and not (place / name).exists():
            make_folder(place)
            write_atomically(place / name, read_bytes(image, origin=sample.origin))
    return replace(sample, images=tuple(map(Path, names)))


def kept_images(run: Path, sample: Sample) -> Sample:
    """A sample of `keep_images` with the current paths of its images.

    Raises:
        DataError: an image is gone. RunFolderError: a name leads out of the folder.
    """
    place = run / FOLDER / IMAGES
    images = tuple(below(place, str(image)) for image in sample.images)
    for image in images:
        if not image.exists():
            raise DataError(
                f"{sample.origin}: the kept image {image} is missing. Run evertune doctor {run} --repair",
                kind="missing image",
            )
    return replace(sample, images=images)
