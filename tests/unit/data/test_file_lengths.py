"""Files stay short enough to be read at once: what has more lines is two topics."""

from __future__ import annotations

from pathlib import Path

import evertune

MOST = 400


def test_no_file_of_the_package_has_more_than_400_lines():
    source = Path(evertune.__file__).parent
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in source.rglob("*.py")}
    assert len(lengths) > 100
    assert not {str(path.relative_to(source)): n for path, n in lengths.items() if n > MOST}
