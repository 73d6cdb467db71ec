"""OpenClipart: a drawing and its title of one to four words.

Most titles in the package name a collection, a file or nothing ("Lemon SVG theme", "gramastar"): those are left out. A
test picture's title consists of words that other drawings taught.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from evertune.assets import PACKAGES, Progress, unpacked
from evertune.data.captioned import CaptionedDrawing, parted, write_captioned
from evertune.data.drawing import shows_something

VERSION = 1
PACKAGE = "openclipart-svg"
ABOUT = {
    "title": "OpenClipart drawings and their titles",
    "source": f"Debian package {PACKAGES[PACKAGE].release}; English titles of one to four words that name one drawing",
    "licence": "public domain (each drawing says so)",
    "citation": "Open Clip Art Library, release 0.18, https://openclipart.org",
}
INSTRUCTION = "Give this picture a title of one to four words."
MOST_WORDS = 4
MOST_BYTES = 200_000
"""Of a drawing: larger ones take seconds each."""
MOST_ALIKE = 4
"""Most drawings of one person with one title: more are a collection, titled after itself."""
COLLECTIONS = re.compile(
    r"clip ?art|theme|collection|svg|icon ?set|icons|gradient|pattern|symbol signs|map symbols|r16", re.I
)
FOLDERS = (
    *("shapes/stars/", "signs_and_symbols/flags/", "unsorted/", "special/"),
    *(f"computer/icons/{theme}-theme/" for theme in ("flat", "lemon", "etiquette", "gold")),
)
"""Left out: drawn by a program, showing a thing that no other drawing shows, or titled after a collection."""
OTHER_LANGUAGES = ("rollandin", "guillou", "jacq", "balin")
"""Who wrote their titles in Italian or French."""
NOISE = frozenset(
    "simple simplified stylized generic icon version outline contour clip drawing drawn hand symbol symbolic hotel "
    "etiquette illustration basic".split()
)
"""Words of a title that describe the file or the style, not the thing."""
COLOURLESS = re.compile(r"\b(?:b ?& ?w|b and w|bw|bn|b w|black (?:and|&) white)\b", re.I)
WORD = re.compile(r"[a-z]+(?:'s)?")
SHORT = frozenset("a an at by cd in no of on ox pc to tv up".split())
VARIANTS = re.compile(
    r"[a-z]|bw|black|white|grey|gray|red|orange|yellow|green|seagreen|blue|purple|pink|brown|left|right|up|down|open|"
    r"closed|half|slice|wedge|whole"
)
LINKS = frozenset("a an and by in of on the to with".split())
DC = "{http://purl.org/dc/elements/1.1/}"


@dataclass(frozen=True)
class Drawing:
    """An SVG file with what its metadata say."""

    path: Path
    name: str
    title: str
    creator: str


def build(folder: Path, *, train: int, test: int, seed: int, progress: Progress | None = None) -> None:
    """Draw `train` and `test` titled images."""
    place = unpacked(PACKAGE, progress=progress) / "usr/share/openclipart/svg"
    taught, tested = parted(titled(place), tests=test, seed=f"clipart {seed}")
    write_captioned(folder, "train", taught, count=train, instruction=INSTRUCTION, seed=f"clipart train {seed}")
    write_captioned(folder, "test", tested, count=test, instruction=INSTRUCTION, seed=f"clipart test {seed}")


def titled(place: Path) -> list[CaptionedDrawing]:
    """The drawings below `place` whose title describes their content; of copies in several folders only one."""
    drawings = list(_drawings(place))
    alike = Counter((drawing.title, drawing.creator) for drawing in drawings)
    found: dict[str, CaptionedDrawing] = {}
    for drawing in drawings:
        title = clean(drawing.title)
        single = alike[drawing.title, drawing.creator] <= MOST_ALIKE
        fits = title and single and not drawing.creator.endswith(OTHER_LANGUAGES)
        if fits and drawing.path.stem not in found and shows_something(drawing.path):
            found[drawing.path.stem] = CaptionedDrawing(drawing.path, family(drawing.path.stem), title, title)
    return list(found.values())


def _drawings(place: Path) -> Iterator[Drawing]:
    """Those that need no font and no other file, with title and creator."""
    for path in sorted(place.rglob("*.svg")):
        name = path.relative_to(place).as_posix()
        if name.startswith(FOLDERS) or path.stat().st_size > MOST_BYTES:
            continue
        try:
            content = ElementTree.fromstring(path.read_bytes())
        except ElementTree.ParseError:
            continue
        if not any(element.tag.endswith(("}text", "}image")) for element in content.iter()):
            yield Drawing(path, name, _first_text(content, "title"), _first_text(content, "creator").lower())


def _first_text(content: ElementTree.Element, what: str) -> str:
    """The text of the first Dublin Core element `what` that has one, however deep."""
    texts = (" ".join("".join(element.itertext()).split()) for element in content.iter(DC + what))
    return next(filter(None, texts), "")


def clean(title: str) -> str:
    """The descriptive words of a title, in lower case, without numbers and file-name characters; empty if there are
    none."""
    if COLLECTIONS.search(title) or not title.isascii():
        return ""
    thing = COLOURLESS.sub(" ", title.replace("_", " ")).partition(" - ")[0]  # "Mouth - body part"
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", thing)
    found = [word for word in WORD.findall(apart.lower()) if word not in NOISE]
    while found and (len(found[-1]) == 1 or found[-1] in LINKS):  # the letter of a series, or what linked a word to it
        found.pop()
    if any(len(word) < 3 and word not in SHORT for word in found) or len(found) > MOST_WORDS:
        return ""
    return " ".join(found)


def family(stem: str) -> str:
    """A file name without numbers and colours: drawings of a series share it, and one with its copy in grey."""
    parts = re.split(r"[\W\d_]+", stem.lower())
    return "-".join(part for part in parts if part and not VARIANTS.fullmatch(part))
