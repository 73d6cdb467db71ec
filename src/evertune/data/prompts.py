"""Fill a prompt template with the fields of a row: `Question: {question} Short answer:`.

Only `{name}` is replaced, once: braces in a question stay what they are. `{{` and `}}` stand for braces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from evertune.utils.errors import DataError, nearest

_marks = re.compile(r"\{\{|\}\}|\{([A-Za-z_][\w -]*)\}")


def filled(template: str, fields: Mapping[str, str], *, origin: str) -> str:
    """`template` with the row's fields in it.

    Raises:
        DataError: the template names a field that the row does not have.
    """
    if template == "{instruction}" and "instruction" in fields:
        return fields["instruction"]

    def value(mark: re.Match[str]) -> str:
        name = mark[1]
        if name is None:
            return mark[0][0]
        if name not in fields:
            raise DataError(
                f"{origin}: the prompt names '{{{name}}}', which the row does not have; {nearest(name, fields)}",
                kind="prompt names an unknown field",
            )
        return fields[name]

    return _marks.sub(value, template)


def names_in(template: str) -> set[str]:
    """The fields that `template` names."""
    return {mark[1] for mark in _marks.finditer(template) if mark[1] is not None}
