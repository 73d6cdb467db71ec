"""MME: fourteen abilities, each evaluated by two questions about an image, one right with yes and one with no.

{name: mme, format: mme, root: MME_Benchmark_release_version, score: mme}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evertune.data.formats import Row
from evertune.data.records import one_of
from evertune.utils.errors import DataError
from evertune.utils.regular_files import read_regular

ABOUT = {
    "title": "MME: ten abilities of perception and four of cognition, two yes-or-no questions about each image",
    "source": "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation (by request)",
    "files": "a folder per ability: existence/, count/, ..., in each NAME.txt (question TAB answer, a line each) "
    "beside NAME.jpg, or questions_answers_YN/NAME.txt and images/NAME.jpg",
    "licence": "for research; the images are those of other data sets",
    "citation": "Fu et al. 2023, MME: A Comprehensive Evaluation Benchmark for Multimodal LLMs, arXiv 2306.13394",
}
PROMPT = "{question}"
PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TEXTS, IMAGES = "questions_answers_YN", "images"
ENDINGS = (".jpg", ".png", ".jpeg")


def rows(place: Path, *, split: str, category: str | None = None) -> Iterator[Row | DataError]:
    """A row per question; ids are CATEGORY/IMAGE/NUMBER, and the second answer is CATEGORY/IMAGE, which acc+ needs.

    Args:
        place: the folder of the abilities.
        split: test only: it is evaluated, never trained.
        category: one ability (a folder), or all.
    """
    for path in files(place, split=split, category=category):
        yield from _rows(place, path)


def files(place: Path, *, split: str, category: str | None = None) -> list[Path]:
    """The files of questions.

    Raises:
        DataError: there are none, or training data are requested.
    """
    if split != "test":
        raise DataError(f"{place}: MME has no training data: list it under 'probes' of the stream")
    every = (*PERCEPTION, *COGNITION)
    wanted = every if category is None else (one_of(category, every, kind="category"),)
    folders = [place / name for name in wanted if (place / name).is_dir()]
    found = [path for folder in folders for path in sorted((*folder.glob("*.txt"), *folder.glob(f"{TEXTS}/*.txt")))]
    if not found:
        raise DataError(f"{place} has no questions; expected: {ABOUT['files']}", kind="missing file")
    return found


def _rows(place: Path, path: Path) -> Iterator[Row | DataError]:
    """The questions about one image."""
    folder = path.parent.parent if path.parent.name == TEXTS else path.parent
    inside = folder / IMAGES if path.parent.name == TEXTS else folder
    image = next((inside / f"{path.stem}{end}" for end in ENDINGS if (inside / f"{path.stem}{end}").is_file()), None)
    name = (image or inside / f"{path.stem}{ENDINGS[0]}").relative_to(place).as_posix()
    try:
        lines = read_regular(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path} can't be read as UTF-8 text: {problem}", kind="missing file") from problem
    for number, line in enumerate(filter(str.strip, lines), start=1):
        question, tab, answer = line.rpartition("\t")
        origin = f"{path}:{number}"
        if not tab or not question.strip() or answer.strip().lower() not in ("yes", "no"):
            complaint = f"{origin}: expected a question, a tab, and Yes or No, not {line[:60]!r}"
            yield DataError(complaint, kind="unusable answer")
            continue
        group = f"{folder.name}/{path.stem}"
        answers = (answer.strip().lower(), group)
        yield Row(f"{group}/{number}", (name,), {"question": question.strip()}, answers, origin)
