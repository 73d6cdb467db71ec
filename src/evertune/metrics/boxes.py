"""Boxes as text: right when prediction and gold overlap by more than half (intersection over union).

Referring expressions (RefCOCO and its kin) are scored by it; the boxes stand in the answers as `[x1, y1, x2, y2]`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from evertune.utils.errors import UserError

Box = tuple[float, float, float, float]

OVERLAP_NEEDED = 0.5
LONGEST = 1000
"""Characters of a gold box with a size: of spaces alone the time grows with the square."""
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
IN_TEXT = re.compile(rf"(?<![\w.])(?:{NUMBER.pattern})")  # not the 1 of "x1"
WITH_SIZE = re.compile(r"(.*?)\s+of\s+(\d{1,9})\s*x\s*(\d{1,9})\s*", re.DOTALL)


def box(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction is `[x1, y1, x2, y2]` and nothing else, and overlaps one of `answers` by more than half.

    Args:
        prediction: the model's output.
        answers: boxes in the prediction's own frame; or, as `[x1, y1, x2, y2] of 640x480`, in pixels of an image of
            that width and height, which are brought into the frame of CoIN first (`padded`).

    Raises:
        UserError: an answer is no box.
    """
    golds = [gold_box(answer) for answer in answers]
    predicted = bracketed(prediction)
    return float(predicted is not None and any(overlap(predicted, gold) > OVERLAP_NEEDED for gold in golds))


def box_relaxed(prediction: str, answers: Sequence[str]) -> float:
    """`box` of the first four numbers anywhere in the prediction; opposite corners may come in any order."""
    golds = [gold_box(answer) for answer in answers]
    predicted = anywhere(prediction)
    return float(predicted is not None and any(overlap(predicted, gold) > OVERLAP_NEEDED for gold in golds))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, 0 to 1; 0 where a box has no area or its corners are the wrong way round."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = _area(one) + _area(other) - width * height
    return width * height / union if union > 0 else 0.0


def padded(pixels: Box, *, width: int, height: int) -> Box:
    """A box in pixels as CoIN writes it: the image in the middle of a square, divided by its longer side.

    zackschen/CoIN, `eval_grounding.py`: the shorter side is padded on both ends alike.
    """
    longer = max(width, height)
    right, down = (longer - width) / 2, (longer - height) / 2
    x1, y1, x2, y2 = pixels
    return ((x1 + right) / longer, (y1 + down) / longer, (x2 + right) / longer, (y2 + down) / longer)


def gold_box(text: str) -> Box:
    """The box that an answer says, in the frame of predictions.

    Raises:
        UserError: it is no box.
    """
    sized = WITH_SIZE.fullmatch(text) if len(text) <= LONGEST else None
    found = bracketed(f"[{(sized.group(1) if sized else text).strip().strip('[]')}]")
    if found is None or not all(map(math.isfinite, found)) or (sized and not int(sized.group(2)) * int(sized.group(3))):
        raise UserError(f"the gold answer '{text[:80]}' is no box: write [x1, y1, x2, y2], or add ' of 640x480'")
    return padded(found, width=int(sized.group(2)), height=int(sized.group(3))) if sized else found


def bracketed(text: str) -> Box | None:
    """The box of a text that is `[x1, y1, x2, y2]` and nothing else."""
    plain = text.strip()
    if not (plain.startswith("[") and plain.endswith("]")):
        return None
    parts = [part.strip() for part in plain[1:-1].split(",")]
    return _box(parts) if len(parts) == 4 and all(NUMBER.fullmatch(part) for part in parts) else None


def anywhere(text: str) -> Box | None:
    """The box of the first four numbers in a text."""
    numbers = IN_TEXT.findall(text)[:4]
    if len(numbers) < 4:
        return None
    x1, y1, x2, y2 = _box(numbers)
    return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def _box(numbers: Sequence[str]) -> Box:
    x1, y1, x2, y2 = map(float, numbers)
    return (x1, y1, x2, y2)


def _area(one: Box) -> float:
    return (one[2] - one[0]) * (one[3] - one[1])
