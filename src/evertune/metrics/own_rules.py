"""Scoring rules that a user writes: a function of one prediction and its gold answers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, overload

from evertune.metrics.rules import RULES, Compare, Rule, answerwise
from evertune.utils.arguments import named_arguments
from evertune.utils.code_digest import code_digest
from evertune.utils.errors import UserError, kind_of


@overload
def scoring_rule(function: Compare, /) -> Rule: ...
@overload
def scoring_rule(
    *, name: str | None = None, relaxed: Compare | None = None, about: str = ""
) -> Callable[[Compare], Rule]: ...
@named_arguments
def scoring_rule(
    function: Compare | None = None, /, *, name: str | None = None, relaxed: Compare | None = None, about: str = ""
) -> Rule | Callable[[Compare], Rule]:
    """Make a scoring rule of a function `(prediction, answers) -> score`, 1 for 100 points; a decorator, too.

        @evertune.scoring_rule(relaxed=lambda prediction, answers: answers[0].lower() in prediction.lower())
        def first_word(prediction, answers):
            return prediction.split()[:1] == answers[0].split()[:1]

    Tasks name it: `Task.from_dataset(..., score=first_word)`, or `score: first_word` in a stream's YAML.

    Args:
        function: the strict score of one prediction, between 0 and 1; True is 1.
        name: default: that of the function.
        relaxed: the score in any form; default: the strict one. What is right strictly is right in any form.
        about: one line for `evertune show`; default: the first line of the function's docstring.

    Raises:
        UserError: the name is that of another rule, or `function` is none.
    """
    if function is None:
        return lambda decorated: _registered(decorated, name=name, relaxed=relaxed, about=about)
    return _registered(function, name=name, relaxed=relaxed, about=about)


def _registered(function: Compare, *, name: str | None, relaxed: Compare | None, about: str) -> Rule:
    _refuse_no_rule(function)
    if relaxed is not None:
        _refuse_no_rule(relaxed, what="the relaxed form of a scoring rule")
    name = name or getattr(function, "__name__", type(function).__name__).strip("<>")
    about = about or next(iter((function.__doc__ or "").strip().splitlines()), "a rule of one's own")
    version = code_digest(function, relaxed)
    if name in RULES and not RULES[name].version:
        raise UserError(f"the scoring rule '{name}' comes with evertune: give yours another name (name=...)")
    strict = _checked(function, name)
    loose = strict if relaxed is None else _checked(relaxed, name)
    rule = replace(answerwise(name, about, strict, loose), version=version)
    rule = replace(rule, relaxed=rule.strict) if relaxed is None else rule
    RULES.add(name, rule, made_by=function)
    return rule


def _refuse_no_rule(function: Any, *, what: str = "a scoring rule") -> None:
    """Raise unless it can be called with a prediction and its answers.

    Raises:
        UserError: it is something else, or takes other arguments.
    """
    wanted = f"{what} is a function (prediction, answers) -> score"
    if not callable(function) or isinstance(function, type):
        by_name = ", ".join(name for name in sorted(RULES) if not RULES[name].version)
        raise UserError(f"{wanted}, not {kind_of(function)}; by name there are: {by_name}")
    try:
        taken = inspect.signature(function)
    except (TypeError, ValueError):  # some functions of C have none
        return
    try:
        taken.bind("", ())
    except TypeError as problem:
        name = getattr(function, "__name__", type(function).__name__)
        raise UserError(f"{wanted}, and {name}{taken} can't be called with these two: {problem}") from problem


def _checked(function: Compare, name: str) -> Compare:
    """`function`, and an error that names the rule and the prediction where it fails."""

    def compare(prediction: str, answers: Sequence[str]) -> float:
        case = f"the scoring rule '{name}' on the prediction {prediction!r:.60} and the answers {list(answers)!r:.60}"
        try:
            score = function(prediction, answers)
        except Exception as problem:
            raise UserError(f"{case}: {type(problem).__name__}: {problem}") from problem
        try:
            value = float(score)
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value <= 1:
            raise UserError(f"{case} gives {score!r:.40}; a score is a number between 0 and 1, or True or False")
        return value

    return compare
