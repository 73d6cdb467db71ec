"""Which option a text names, by its letter: the relaxed score of `option` and `scienceqa`, and of the gold answer "A".

The rule in words, and sixty texts with the letter that each names, stand in docs/metrics.md; the table is the test.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

CACHED = 50_000  # predictions repeat

FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
AS_ASCII = FULL_WIDTH | {
    ord("‘"): ord("'"),
    ord("’"): ord("'"),
    ord("‐"): ord("-"),
    ord("‑"): ord("-"),
    ord("−"): ord("-"),
}
DASH = re.compile(r"(?<=\d)[‒–](?=\d)|(?<![\w‒–-])[‒–](?=\.?\d)")
NOT_ASCII = re.compile(r"[^\x00-\x7f]")

ABBREVIATION = re.compile(r"(?<!\w)[^\W\d_](?:\.[^\W\d_])+(?:\.|(?!\w))")
TAG = re.compile(r"<([a-z])>(.{0,200}?)</\1>", re.DOTALL)  # <b>dog</b>
EMPHASIS = re.compile(r"[*_`\"]|(?<![^\W_])'|'(?![^\W_])")

# Chinese, Japanese and Korean are written without spaces: a letter beside them still stands alone.
WORD = r"[^\W぀-鿿가-힣]"
ALONE = re.compile(rf"(?<!{WORD})(?<!['&°])(?<!\w-)[a-z](?!{WORD})(?!['&+#]|-\w)")
LABEL_END = r"\s*[.):\]}>]"
LEADING = re.compile(rf"[\s#>•\-–(\[{{<$\\]*([a-z])(?:{LABEL_END}(?!\w)|[ \t]*\n)")
LABEL = re.compile(r"[.):](?=\s+\S)")
NAMED = re.compile(
    r"\b(?:answer|ans|option|choice|letter)"
    r"(?:\s+(?:is|was|would be|should be|must be))?(?:\s+(?:the\s+)?(?:option|choice|letter))?\s*[:=\-–]?\s*[(\[{<]?$"
)
OPTION_WORD = re.compile(r"\b(?:option|choice|letter)\s+$")
NEGATED = re.compile(
    r"(?:\b(?:not|cannot|never|neither|nor|except|without|than)|n't)\s+"
    r"(?:(?:be|the|really|option|answer|choice|letter|correct)\s+){0,3}[(\[{<]?$"
)
DENIED = re.compile(r"[)\]}>]?\s+(?:is|was)(?:\s+not\b|n't\b|\s+(?:wrong|incorrect|false)\b)")
# "a" before a word is the article and "i" the pronoun, unless the word goes with a name.
WORD_NEXT = re.compile(r"[ \t]+([^\W_]{2,}|\d)")
AFTER_A = set("and as because but fits for is isn looks matches nor or seems since to was would".split())
AFTER_I = {"is", "or"}


def ascii_marks(text: str) -> str:
    """`text` with ASCII punctuation: full-width forms, curly quotes, minus, dashes of numbers; other punctuation and
    currency become `;` and `$`.
    """
    if text.isascii():
        return text
    text = DASH.sub("-", unicodedata.normalize("NFC", text)).translate(AS_ASCII)
    return NOT_ASCII.sub(lambda found: _ascii_mark(found[0]), text)


def _ascii_mark(sign: str) -> str:
    category = unicodedata.category(sign)
    return ";" if category.startswith("P") else "$" if category == "Sc" else sign


@lru_cache(maxsize=CACHED)
def letter_of(text: str) -> str | None:
    """The letter of the one option that `text` names, in lower case; None where it names none, or several."""
    plain, found = _standing(text)
    leading = LEADING.match(plain)
    first = leading.start(1) if leading and leading.start(1) in found else None
    claimed = {at for at in found if not _denied(plain, at)}
    beside = bool(leading and first is not None and not leading[0].endswith("\n"))
    labelled = {at for at in claimed if at == first or _labelled(plain, at, beside_leading=beside)}
    listed = {plain[at] for at in labelled if LABEL.match(plain, at + 1)}
    if len(listed) > 1:  # the options once more: only what is called the answer counts
        labelled = {at for at in labelled if NAMED.search(plain, _before(at), at)}
    named = {plain[at] for at in labelled or claimed}
    return named.pop() if len(named) == 1 else None


def has_letter(text: str) -> bool:
    """Whether a letter stands alone in `text`, named as the answer or not."""
    return bool(_standing(text)[1])


def _standing(text: str) -> tuple[str, list[int]]:
    """The text without emphasis, tags and quotes, and where in it a letter stands that is no word."""
    plain = TAG.sub(r" \2 ", ascii_marks(text).casefold())
    plain = EMPHASIS.sub("", ABBREVIATION.sub(" ", plain))
    return plain, [found.start() for found in ALONE.finditer(plain) if not _is_word(plain, found.start())]


def _is_word(plain: str, at: int) -> bool:
    """Whether the letter is the article "a" or the pronoun "i"."""
    after = WORD_NEXT.match(plain, at + 1)
    if plain[at] not in "ai" or after is None or OPTION_WORD.search(plain, _before(at), at):
        return False
    return after[1] not in (AFTER_A if plain[at] == "a" else AFTER_I)


def _before(at: int) -> int:
    """Where the words that decide about a letter begin: a prediction that repeats itself is long."""
    return max(0, at - 60)


def _denied(plain: str, at: int) -> bool:
    return bool(NEGATED.search(plain, _before(at), at) or DENIED.match(plain, at + 1))


def _labelled(plain: str, at: int, *, beside_leading: bool) -> bool:
    """In brackets, or called the answer; where the text begins with a label, `C. text` is another one."""
    bracketed = plain[at - 1 : at] in ("(", "[", "{", "<") and plain[at + 1 : at + 2] in (")", "]", "}", ">")
    return bool(bracketed or NAMED.search(plain, _before(at), at) or (beside_leading and LABEL.match(plain, at + 1)))
