"""Pages of the site that are no files in docs/: what docs link to outside of it, CONTRIBUTING ..., the commands.

The docs are written for readers of the repository, where `../src/evertune/methods/ewc.py` opens. A site that is read
from disk has no repository beside it, so each file that is linked becomes a page here, and each folder a list.
MkDocs calls the functions `on_...` (`hooks:` in mkdocs.yml).
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs loads this file without its folder
from reference_pages import commands_page, configuration_page

ROOT = Path(__file__).resolve().parents[1]
TARGET = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")  # [text](a path, maybe #part)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".md": "markdown"}
CODE_OR_TAG = re.compile(r"(<(code|pre|svg|a)\b.*?</\2>|<[^>]*>)", re.DOTALL)
LOWERED = re.compile(
    r"(?<![\w.])((?:[A-Za-zΣΩθμ]\u0303?|max|min|mean|argmax)\*?)_"
    r"(?:\{([^}]*)\}|((?:k|old),i|img|ins|teacher|[a-z0-9]))(?!\w)"
)
RAISED = re.compile(r"(?<=[\w)>])\^(?:\(([^)]*)\)|([a-z])(?!\w))")
AT_THE_TOP = {name: name.lower() for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md")}
"""Pages of the repository's root, and where they are on the site."""
NOT_SEARCHED = ("log.md", "changelog.md")
"""Histories: long pages with every word, which would take the places of the pages that explain it."""
NARROW = ("configuration.md", "methods.md")
"""Pages whose tables leave out the second and the fourth of five columns on a phone (`theme/site.css`)."""
HIDDEN = "---\nsearch: {exclude: true}\n---\n"


def on_files(files: Files, *, config: Any) -> Files:
    """Add the generated pages to those of docs/."""
    made = {page: as_if_in_docs((ROOT / name).read_text()) for name, page in AT_THE_TOP.items()}
    made |= {"commands.md": commands_page(), "configuration.md": configuration_page()}
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()} | made
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    targets = {target for page, text in texts.items() for target in outside(page, text)}
    for target in sorted(targets - set(AT_THE_TOP)):
        page = File.generated(config, page_of(target), content=HIDDEN + listing(target))
        page.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(page)
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Point links out of docs/ at the pages that were made of their targets."""
    here = page.file.src_uri
    if here == "index.md":
        page.meta["hide"] = ["navigation"]
    if here in NOT_SEARCHED:
        page.meta["search"] = {"exclude": True}

    def moved(link: re.Match[str]) -> str:
        target = in_repository(here, link[2])
        if not is_outside(target):
            return link[0]
        return link[1] + posixpath.relpath(page_of(target), posixpath.dirname(here) or ".") + ")"

    return TARGET.sub(moved, markdown)


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """Set the indices of formulas lower and their powers higher: `θ_i` is how they are typed. Mark wide tables."""
    if page.file.src_uri in NARROW:
        html = html.replace("<table>", "<table data-narrow>")
    parts = CODE_OR_TAG.split(html)  # text, a tag or a piece of code, the name of its tag, text ...
    return "".join(set_formulas(part) if place % 3 == 0 else part for place, part in enumerate(parts) if place % 3 < 2)


def set_formulas(text: str) -> str:
    """`I_i^k` -> I with a lower i and a higher k; words like `eval_vqav2` stay."""
    text = LOWERED.sub(lambda found: f"{found[1]}<sub>{set_formulas(found[2] or found[3])}</sub>", text)
    return RAISED.sub(lambda found: f"<sup>{found[1] or found[2]}</sup>", text)


def in_repository(page: str, link: str) -> str:
    """A link of a page of docs/ as a path from the repository's root."""
    return posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))


def is_outside(target: str) -> bool:
    """Whether the site needs a page for it: a file beyond docs/, or a folder."""
    return (not target.startswith("docs/") and (ROOT / target).exists()) or (ROOT / target).is_dir()


def outside(page: str, text: str) -> set[str]:
    """The repository's files and folders that a page links to and MkDocs does not know."""
    targets = {in_repository(page, link[2]) for link in TARGET.finditer(text)}
    return {target for target in targets if is_outside(target)}


def page_of(target: str) -> str:
    """Where the page of a file or folder of the repository is."""
    return AT_THE_TOP.get(target, f"files/{target}.md")


def listing(target: str) -> str:
    """A file as a block of code, a folder as links to its files."""
    place = ROOT / target
    if place.is_dir():
        up = "../" * (page_of(target).count("/"))
        names = sorted(file.relative_to(place).as_posix() for file in place.rglob("*.json"))
        return f"# {target}\n\n" + "".join(f"- [{name}]({up}{target[5:]}/{name})\n" for name in names)
    return f"# {target}\n\n``````{LANGUAGES.get(place.suffix, '')}\n{place.read_text()}\n``````\n"


def as_if_in_docs(text: str) -> str:
    """A file of the repository's root with its links as a page of docs/ would write them."""
    return TARGET.sub(lambda link: link[1] + posixpath.relpath(link[2], "docs") + link[3], text)
