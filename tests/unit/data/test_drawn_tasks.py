"""Emoji styles, clip art and stamps, built from small packages made by hand in the published layouts; no network."""

from __future__ import annotations

import json
import random
import shutil

import pytest
from PIL import Image

from evertune.assets import PACKAGES
from evertune.data import captioned
from evertune.data.builders import clipart, emoji_styles, stamps
from evertune.data.captioned import CaptionedDrawing, words
from evertune.data.drawing import SIDE, fitted, rendered, shows_something, trimmed
from evertune.utils.errors import UserError

RESVG = pytest.importorskip("resvg_py")
PER_CATEGORY = 12


def svg(body, *, size="100 100", extra=""):
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}">{extra}{body}</svg>'


def square(colour):
    return f'<rect x="20" y="20" width="60" height="60" fill="{colour}"/>'


@pytest.fixture
def folder_of(tmp_path, monkeypatch):
    """Makes the folder of a package that counts as fetched."""
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))

    def make(name):
        folder = PACKAGES[name].folder
        folder.mkdir(parents=True)
        (folder / "done").write_text("")
        return folder

    return make


def rows_of(folder, split):
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def built(build, folder, **options):
    folder.mkdir()
    build(folder, **options)
    return folder


def same_files(one, other):
    names = [path.relative_to(one) for path in sorted(one.rglob("*")) if path.is_file()]
    assert names == [path.relative_to(other) for path in sorted(other.rglob("*")) if path.is_file()]
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


# Emoji


@pytest.fixture
def emoji(folder_of):
    """Four sets: name i of category c is a square whose red and green say which it is, the blue says the style."""
    for at, package in enumerate(emoji_styles.STYLES.values()):
        icons, listed = {}, {}
        for number, title in enumerate(emoji_styles.CATEGORIES):
            names = [f"{title[:3].lower()}{chr(97 + i)}" for i in range(PER_CATEGORY)]
            listed[title.replace(" & ", " ") if at == 2 else title] = names
            for i, name in enumerate(names):
                icons[name] = {"body": square(f"rgb({20 * number},{20 * i},{60 * at})")}
        icons[f"only-{at}"] = {"body": square("red")}
        listed["Flags"] = [f"only-{at}"]
        icons["moved"] = {"body": square("red")}
        listed[next(iter(listed)) if at else "Objects"].append("moved")
        folder = folder_of(package) / "package"
        folder.mkdir()
        (folder / "icons.json").write_text(json.dumps({"icons": icons, "width": 100, "height": 100}))
        (folder / "metadata.json").write_text(json.dumps({"categories": listed}))


def shown(folder, split):
    """{(red, green)} of the squares, and the answers in order."""
    rows = rows_of(folder, split)
    centres = []
    for row in rows:
        image = Image.open(folder / row["image"])
        counts = {colour: n for n, colour in image.getcolors(SIDE * SIDE)}
        dark = [c for c in counts if max(c) - min(c) >= 0 and counts[c] > 800 and sum(c) < 530]
        centres.append(max(dark, key=counts.get)[:2])
    return centres, [row["answer"] for row in rows]


def test_emoji_are_taught_or_tested_in_all_styles_alike(emoji, tmp_path):
    size = {"train": 48, "test": 16, "seed": 3}
    noto = built(emoji_styles.build, tmp_path / "noto", style="noto", **size)
    fluent = built(emoji_styles.build, tmp_path / "fluent", style="fluent", **size)
    for split in ("train", "test"):
        ours, answers = shown(noto, split)
        theirs, others = shown(fluent, split)
        assert ours == theirs and answers == others
        assert {answers.count(a) for a in emoji_styles.CATEGORIES.values()} == {len(answers) // 8}
        titles = list(emoji_styles.CATEGORIES.values())
        assert [titles[red // 20] for red, _ in ours] == answers
    assert not set(shown(noto, "train")[0]) & set(shown(fluent, "test")[0])
    assert (noto / "images/test-0.png").read_bytes() != (fluent / "images/test-0.png").read_bytes()


def test_emoji_are_the_same_for_the_same_seed(emoji, tmp_path):
    size = {"style": "openmoji", "train": 8, "test": 8}
    one = built(emoji_styles.build, tmp_path / "one", seed=0, **size)
    again = built(emoji_styles.build, tmp_path / "again", seed=0, **size)
    other = built(emoji_styles.build, tmp_path / "other", seed=1, **size)
    assert same_files(one, again) and not same_files(one, other)


def test_only_names_of_one_category_in_all_sets_count(emoji):
    sets = [emoji_styles._icon_set(PACKAGES[name].folder / "package") for name in emoji_styles.STYLES.values()]
    found = emoji_styles.categories(sets)
    assert {name for names in found.values() for name in names} & {"moved", "only-0", "only-3"} == set()
    assert {len(names) for names in found.values()} == {PER_CATEGORY}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("green-heart", "blue-heart"),
        ("woman-judge", "man-judge"),
        ("one-oclock", "two-thirty"),
        ("keycap-1", "keycap-9"),
        ("dog-face", "dog"),
        ("sun-behind-large-cloud", "sun-behind-small-cloud"),
    ],
)
def test_variants_are_one_family(one, other):
    assert emoji_styles.family(one) == emoji_styles.family(other)
    assert emoji_styles.family(one) != emoji_styles.family("rocket")


def test_no_family_is_taught_and_tested():
    names = {"feeling": [f"{c}-{t}" for c in ("red", "blue", "green") for t in "heart star ring cup bell pen".split()]}
    taught, tested = emoji_styles.parted(names, seed=0)
    families = [{emoji_styles.family(n) for n in part["feeling"]} for part in (taught, tested)]
    assert families[1] and not families[0] & families[1]
    assert len(tested["feeling"]) == len(families[1])


def test_an_unknown_style():
    with pytest.raises(UserError, match="did you mean 'twemoji'"):
        emoji_styles.build(None, style="twemojis", train=1, test=1, seed=0)


# Captions


def made_up(choose, count):
    vocabulary = "red blue big cat dog hat car tree".split()
    for number in range(count):
        caption = " ".join(choose.sample(vocabulary, choose.randint(1, 3)))
        yield CaptionedDrawing(number, f"family {choose.randint(0, count // 2)}", caption, caption)


@pytest.mark.parametrize("seed", range(20))
def test_every_word_of_the_test_is_taught_by_another_family(seed):
    items = list(made_up(random.Random(seed), 40))
    taught, tested = captioned.parted(items, tests=10, seed=str(seed))
    assert 0 < len(tested) <= 10
    assert not {i.family for i in taught} & {i.family for i in tested}
    assert len({i.family for i in tested}) == len(tested)
    test_words = {word for item in tested for word in words(item.caption)}
    assert test_words <= {word for item in taught[: len(test_words)] for word in words(item.caption)}


def test_too_few_captioned_images(tmp_path):
    with pytest.raises(UserError, match="3 captioned images were requested for train, but there are 0"):
        captioned.write_captioned(tmp_path, "train", [], count=3, instruction="?", seed="0")


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Magnifying Glass 02", "magnifying glass"),
        ("Flat_Cake_bw", "flat cake"),
        ("Hot Dog b & w", "hot dog"),
        ("Mouth - body part", "mouth"),
        ("button1", "button"),
        ("jonathon's duck", "jonathon's duck"),
        ("stylized CD", "cd"),
        ("Trumpet B", "trumpet"),
        ("Clipart by Nicu Buculei - piggybank", ""),
        ("Lemon SVG theme", ""),
        ("danger général", ""),
        ("a very long title of seven words", ""),
        ("0815", ""),
    ],
)
def test_titles(title, expected):
    assert clipart.clean(title) == expected


def drawn(title, body=None, *, creator="someone"):
    data = (
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><work>'
        f"<dc:title>{title}</dc:title><dc:creator><dc:title>{creator}</dc:title></dc:creator></work></metadata>"
    )
    return svg(body or square("navy"), extra=data)


@pytest.fixture
def clips(folder_of):
    place = folder_of(clipart.PACKAGE) / "usr/share/openclipart/svg"
    content = {
        **{f"food/apple_{who}_01.svg": drawn("Apple", creator=who) for who in ("ann", "bob", "cid")},
        **{f"food/red_apple_{who}.svg": drawn("Red Apple 3", creator=who) for who in ("ann", "bob", "cid")},
        **{f"food/red_{who}.svg": drawn("red", creator=who) for who in ("ann", "bob", "cid")},
        "office/apple_ann_01.svg": drawn("Apple", creator="ann"),
        "office/blank.svg": drawn("apple", '<rect width="100" height="100" fill="white"/>'),
        "office/empty.svg": drawn("apple", "<g/>"),
        "office/words.svg": drawn("apple", square("navy") + '<text x="1" y="9">apple</text>'),
        "office/loaded.svg": drawn("apple", '<image href="/etc/hostname" width="9" height="9"/>'),
        "office/broken.svg": "<svg",
        "shapes/stars/star.svg": drawn("red"),
        "food/mela.svg": drawn("red", creator="Architetto Francesco Rollandin"),
        **{f"food/set_{n}.svg": drawn("red apple", creator="dan") for n in range(5)},
    }
    for name, text in content.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def test_what_is_left_of_the_clip_art(clips):
    assert sorted(item.image.relative_to(clips).as_posix() for item in clipart.titled(clips)) == sorted(
        [
            f"food/{stem}.svg"
            for who in ("ann", "bob", "cid")
            for stem in (f"apple_{who}_01", f"red_apple_{who}", f"red_{who}")
        ]
    )


def test_clip_art_is_built(clips, tmp_path):
    folder = built(clipart.build, tmp_path / "task", train=4, test=2, seed=0)
    assert {row["answer"] for split in ("train", "test") for row in rows_of(folder, split)} <= {
        "apple",
        "red apple",
        "red",
    }
    assert len(rows_of(folder, "train")) == 4 and len(rows_of(folder, "test")) == 2
    assert Image.open(folder / "images/train-0.png").size == (SIDE, SIDE)
    assert same_files(folder, built(clipart.build, tmp_path / "again", train=4, test=2, seed=0))


TEXTS = {
    "animals/lion": "A lion.\nes.utf8=Un león.\nfr.utf8=Un lion.\n",
    "animals/cartoon/lion": "A happy “lion”! It roars.\nes.utf8=Un «león» feliz. Ruge.\n",
    "animals/bear": "A happy bear\nes.utf8=Un oso feliz\n",
    "animals/bear2": "A bear.\nes.utf8=Un oso.\n",
    "animals/cartoon/bear": "A bear.\nes.utf8=Un oso.\n",
    "animals/untold": "A snail.\nfr.utf8=Un escargot.\n",
    "animals/long": f"{'A ' * 11}bear.\nes.utf8=Un oso.\n",
    "symbols/alphabets/a": "A lion.\nes.utf8=Un león.\n",
    "animals/twin": "A lion.\nes.utf8=Un león.\n",
    "animals/unseen": "A lion.\nes.utf8=Un león.\n",
}


@pytest.fixture
def stamped(folder_of):
    place = folder_of(stamps.PACKAGE) / "usr/share/tuxpaint/stamps"
    for number, (name, text) in enumerate(TEXTS.items()):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".txt").write_text(text)
        if "cartoon" in name:
            path.with_suffix(".svg").write_text(svg(square(f"rgb(0,0,{20 * number})")))
        elif name == "animals/twin":
            shutil.copyfile(place / "animals/lion.png", place / "animals/twin.png")
        elif name != "animals/unseen":
            image = Image.new("RGBA", (90, 60))
            image.paste((20 * number, 0, 0, 255), (10, 10, 70, 50))
            image.save(path.with_suffix(".png"))
    return place


def test_captions_by_language():
    found = stamps.captions(TEXTS["animals/cartoon/lion"])
    assert found == {"en": "A happy lion!", "es": "Un león feliz."}
    assert stamps.captions("Red\nes.utf8=Rojo\n") == {"en": "Red.", "es": "Rojo."}
    assert stamps.captions("– because it is\n")["en"] == ""
    assert stamps.captions("A coin ($.25) of tin. Old.\n")["en"] == "A coin ($.25) of tin."


def test_stamps_are_the_same_images_in_both_languages(stamped, tmp_path):
    english = built(stamps.build, tmp_path / "en", language="en", train=3, test=1, seed=0)
    spanish = built(stamps.build, tmp_path / "es", language="es", train=3, test=1, seed=0)
    pairs = {
        "A lion.": "Un león.",
        "A happy lion!": "Un león feliz.",
        "A happy bear.": "Un oso feliz.",
        "A bear.": "Un oso.",
    }
    for split in ("train", "test"):
        ours, theirs = rows_of(english, split), rows_of(spanish, split)
        assert [pairs[row["answer"]] for row in ours] == [row["answer"] for row in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert (english / one["image"]).read_bytes() == (spanish / other["image"]).read_bytes()
            assert one["instruction"] != other["instruction"]


def test_which_stamps_are_left(stamped):
    found = {item.image.relative_to(stamped).as_posix() for item in stamps._described(stamped, "es")}
    left = "lion.png cartoon/lion.svg bear.png bear2.png cartoon/bear.svg".split()
    assert found == {f"animals/{name}" for name in left}
    assert (
        stamps.family("animals/bear2.txt")
        == stamps.family("animals/bear.txt")
        != stamps.family("animals/cartoon/bear.txt")
    )


def test_an_unknown_language():
    with pytest.raises(UserError, match="unknown language 'fr'"):
        stamps.build(None, language="fr", train=1, test=1, seed=0)


# Drawing


def test_proportions_are_kept_and_margins_cut_off(tmp_path):
    wide = svg('<rect x="50" y="20" width="100" height="25" fill="red"/>', size="200 100")
    drawing = rendered(wide, side=64)
    assert drawing.size == (64, 32)
    (tmp_path / "wide.svg").write_text(wide)
    part = trimmed(tmp_path / "wide.svg")
    assert part.width == pytest.approx(256, abs=2) and part.height == pytest.approx(64, abs=2)
    assert fitted(part, side=100).size == (100, 100)
    assert fitted(part, side=100).getchannel("A").getbbox() == (6, 39, 94, 61)


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        (square("red"), True),
        (square("white"), False),
        (square("red") * 0 + "<g/>", False),
        ('<rect width="9" height="9" fill="red"/>', False),
        ('<rect width="100" height="100" opacity="0.02"/>', False),
    ],
)
def test_what_shows_something(body, seen, tmp_path):
    (tmp_path / "a.svg").write_text(svg(body))
    assert shows_something(tmp_path / "a.svg") is seen
