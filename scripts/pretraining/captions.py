"""Captions of images from the packages of `parcel`: the training data of the projector of `smol-aligned`.

The captions describe an image in phrases ("a picture of red apple"). They contain no question of a stream and no answer
in a stream's form. The images show only content that the streams train on: no pictogram or digit of a test, and no
image of a stream.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from PIL import Image

from evertune.assets import Progress, unpacked
from evertune.data.builders import digits, pictograms, write_rows
from evertune.data.drawing import on_ground, rendered, some_size
from evertune.utils.files import whole_folder, write_atomically

APART = "parcel"
"""The stream none of whose images may be shown."""
SEED = 0
"""The seed of that stream's tasks, which decides the content of its tests."""
SHORT = ("Write a caption.", "Caption this picture.", "A short caption:")
LONG = ("Describe the picture.", "Tell all that the picture shows.")
SHARES = {"pictogram": 6, "shape": 2, "number": 2}
GROUNDS = {
    "white": "#ffffff",
    "gray": "#bcbcbc",
    "red": "#f2a2a2",
    "orange": "#fbcf9d",
    "yellow": "#fdf0a0",
    "green": "#b4dfa6",
    "teal": "#a5dcd8",
    "blue": "#a8c8ee",
    "purple": "#cdb4e6",
    "brown": "#d2b496",
}
MOST_WORDS = 6
STREAM = """name: captions
tasks:
  - {name: captions, train: train.jsonl, test: test.jsonl, images: .}
"""
# kind -> beginnings of Unicode subgroups; the first that fits. Others are left out: signs, letters, families.
KINDS = {
    "an animal": ("animal-", "monkey-", "cat-"),
    "food": ("food-", "drink"),
    "a flag": ("country-flag", "subdivision-flag"),
    "a face": ("face-",),
    "a person": ("person",),
    "a hand": ("hand-", "hands"),
    "a vehicle": ("transport-ground", "transport-water", "transport-air"),
    "a clock": ("time",),
    "a plant": ("plant-",),
    "clothing": ("clothing",),
    "an instrument": ("musical-instrument", "sound"),
    "a tool": ("tool", "science", "medical"),
    "a building": ("place-building", "place-religious"),
    "the sky": ("sky & weather",),
    "a heart": ("heart",),
    "a game": ("game", "sport", "event", "award-medal"),
    "a thing": ("household", "computer", "light & video", "lock", "mail", "money", "office", "book-paper", "phone"),
}


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """The bytes of an image file, with a short and a full caption."""

    image: bytes
    short: str
    full: str


Draw = Callable[[random.Random], CaptionedImage]


def corpus(folder: Path, *, train: int = 6000, test: int = 160) -> Path:
    """The captions in `folder` as a stream of one task; drawn when they are not there yet."""
    path = folder / "captions.yaml"
    if not path.exists():
        with whole_folder(folder, proof=path.name) as place:
            build(place, train=train, test=test, seed=SEED)
            write_atomically(place / path.name, STREAM)
    return path


def build(folder: Path, *, train: int, test: int, seed: int, progress: Progress | None = None) -> None:
    """Write `train` and `test` images with two captions each, a short one and a full one.

    The held-out images are new drawings of the same pictograms, other shapes and other digits.
    """
    forbidden = _images_of(APART, progress)
    (folder / "images").mkdir(exist_ok=True)
    for split, count in (("train", train), ("test", test)):
        makers = {
            "pictogram": _pictogram(progress),
            "shape": _shape(split, progress),
            "number": _number(split, progress),
        }
        choose = random.Random(f"captions {split} {seed}")
        rows = []
        for number in range(count):
            shown = _apart(makers[choose.choices(list(SHARES), list(SHARES.values()))[0]], choose, forbidden)
            image = f"images/{split}-{number}.png"
            (folder / image).write_bytes(shown.image)
            rows += [(image, choose.choice(SHORT), shown.short), (image, choose.choice(LONG), shown.full)]
        write_rows(folder, split, rows)


def _images_of(stream: str, progress: Progress | None) -> frozenset[str]:
    """SHA-256 of every image of a stream, training and test."""
    from evertune.data.stream import load_stream

    tasks = load_stream(stream, progress=progress).tasks
    return frozenset(d for task in tasks for side in (task.train, task.test) for s in side for d in s.image_digests)


def _apart(draw: Draw, choose: random.Random, forbidden: frozenset[str]) -> CaptionedImage:
    """An image of `draw`, which is repeated while the image is a forbidden one."""
    while True:
        shown = draw(choose)
        if sha256(shown.image).hexdigest() not in forbidden:
            return shown


def images_by_kind(progress: Progress | None = None) -> dict[str, list[pictograms.Pictogram]]:
    """The allowed pictograms by kind: none from a test of `APART`."""
    emojis = pictograms.pictograms(progress)
    tested = {e["unified"] for pool in pictograms.by_category(emojis, SEED)["test"].values() for e in pool}
    kinds: dict[str, list[pictograms.Pictogram]] = {}
    for emoji in emojis:
        kind = next((k for k, groups in KINDS.items() if emoji["subcategory"].startswith(groups)), None)
        if kind and emoji["unified"] not in tested and len(name_of(emoji).split()) <= MOST_WORDS:
            kinds.setdefault(kind, []).append(emoji)
    return kinds


def name_of(emoji: Mapping[str, str]) -> str:
    """Its Unicode name as in running text."""
    return emoji["name"].lower().replace("oclock", "o'clock")


def _pictogram(progress: Progress | None) -> Draw:
    """Every kind equally often, large, on a plain or coloured ground."""
    kinds = images_by_kind(progress)

    def shown(choose: random.Random) -> CaptionedImage:
        kind = choose.choice(list(kinds))
        emoji = choose.choice(kinds[kind])
        ground = choose.choice(list(GROUNDS))
        image = on_ground(rendered(emoji["drawing"], side=some_size(choose)), choose, grounds=[GROUNDS[ground]])
        name = name_of(emoji)
        return CaptionedImage(
            _png(image), f"a picture of {name}", f"a pictogram of {kind}: {name}, on a {ground} ground"
        )

    return shown


def _shape(split: str, progress: Progress | None) -> Draw:
    """An image of easy-VQA's training set whose questions contain its colour and shape."""
    data = unpacked("easy-vqa", progress=progress) / "easy_vqa/data/train"
    shapes = _shape_names(json.loads((data / "questions.json").read_text()))
    known = [number for number in sorted(shapes) if _held_out(number) == (split == "test")]

    def shown(choose: random.Random) -> CaptionedImage:
        number = choose.choice(known)
        image = (data / "images" / f"{number}.png").read_bytes()
        return CaptionedImage(image, f"a picture of a {shapes[number]}", f"a drawing of a shape: a {shapes[number]}")

    return shown


def _shape_names(questions: list[tuple[str, str, int]]) -> dict[int, str]:
    """{image: 'red circle'} where the open questions name both."""
    shapes, colours = {"circle", "rectangle", "triangle"}, set(GROUNDS) | {"black"}
    shape = {number: answer for _, answer, number in questions if answer in shapes}
    colour = {number: answer for _, answer, number in questions if answer in colours}
    return {number: f"{colour[number]} {shape[number]}" for number in shape.keys() & colour.keys()}


def _number(split: str, progress: Progress | None) -> Draw:
    """One to three digits of those that training numbers are made of."""
    pixels, labels = digits.digits(progress)
    pool = [d for d in digits.pools_of(len(labels), SEED)["train"] if _held_out(d) == (split == "test")]

    def shown(choose: random.Random) -> CaptionedImage:
        chosen = [choose.choice(pool) for _ in range(choose.randint(1, 3))]
        number_text = " ".join(str(labels[d]) for d in chosen)
        return CaptionedImage(
            _png(digits.draw(pixels, chosen)),
            f"a picture of the number {number_text}",
            f"handwriting: the number {number_text}",
        )

    return shown


def _held_out(number: int) -> bool:
    """One of twelve is held out for evaluation."""
    return number % 12 == 0


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
