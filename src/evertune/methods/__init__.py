"""Methods of continual learning: one file per method, made by name, checked when composed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from evertune.methods.agem import AGem
from evertune.methods.base import PROTOCOL, Context, Kind, Method, MethodInfo
from evertune.methods.der import Der
from evertune.methods.dgg import Dgg
from evertune.methods.direct import Direct
from evertune.methods.disco import Disco
from evertune.methods.eproj import EProj
from evertune.methods.ewc import EWC, OnlineEWC
from evertune.methods.gem import Gem
from evertune.methods.hide import Hide
from evertune.methods.importance import ImportancePenalty
from evertune.methods.joint import Joint
from evertune.methods.keeplora import KeepLora
from evertune.methods.lora import Lora
from evertune.methods.lora_router import LoraRouter
from evertune.methods.lwf import LwF
from evertune.methods.mas import MAS
from evertune.methods.merge import Merge
from evertune.methods.moelora import MoELora
from evertune.methods.olora import OLora
from evertune.methods.only import Only
from evertune.methods.osf import Osf
from evertune.methods.reglora import RegLora
from evertune.methods.replay import Replay
from evertune.methods.sequential import Sequential
from evertune.methods.tir import Tir
from evertune.models.adapters import bare
from evertune.models.protocol import LMM
from evertune.models.scopes import lora_options
from evertune.utils.arguments import named_arguments, refuse_wrong_hooks
from evertune.utils.config_io import refuse_extremes
from evertune.utils.errors import UserError, kind_of, nearest, unknown
from evertune.utils.plugins import Registry
from evertune.utils.source_code import foreign_code

__all__ = [
    "EWC",
    "MAS",
    "METHODS",
    "AGem",
    "Context",
    "Der",
    "Dgg",
    "Direct",
    "Disco",
    "EProj",
    "Gem",
    "Hide",
    "ImportancePenalty",
    "Joint",
    "KeepLora",
    "Lora",
    "LoraRouter",
    "LwF",
    "Merge",
    "Method",
    "MethodInfo",
    "MoELora",
    "OLora",
    "OnlineEWC",
    "Only",
    "Osf",
    "RegLora",
    "Replay",
    "Sequential",
    "Tir",
    "adapted",
    "code_of_methods",
    "composed",
    "make_methods",
    "options_of",
    "parts_of",
    "refuse_lora_twice",
]

RESERVED = {"report": "the folder of a run's report", "zero-shot": "the row of the base model in tables"}
_ALL = (
    Sequential,
    Replay,
    AGem,
    Gem,
    Der,
    EWC,
    OnlineEWC,
    MAS,
    LwF,
    Dgg,
    Tir,
    Merge,
    EProj,
    Lora,
    OLora,
    MoELora,
    LoraRouter,
    Hide,
    Disco,
    RegLora,
    KeepLora,
    Osf,
    Only,
    Direct,
    Joint,
)


def _refuse_unusable(name: str, method: Any) -> None:
    """Raise unless what a plug-in calls a method is one, of this name and of a protocol that is known here.

    Raises:
        UserError: it is not.
    """
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise UserError(f"it is {method!r:.80}, and a method is a class that extends evertune.Method")
    if name in RESERVED:
        raise UserError(f"it can't be called '{name}', {RESERVED[name]}: give it another name")
    if type(method.protocol) is not int or method.protocol < 1:
        raise UserError(
            f"its protocol is {method.protocol!r:.40}; it is the version of the hooks that the method is written for, "
            f"protocol = {PROTOCOL}"
        )
    if method.protocol > PROTOCOL:
        raise UserError(
            f"it needs version {method.protocol} of the hook protocol; this evertune has {PROTOCOL}: update evertune"
        )
    if getattr(method, "name", None) != name:
        raise UserError(
            f"its class {method.__name__} is called {getattr(method, 'name', None)!r}: give it name = {name!r}"
        )
    if not isinstance(getattr(method, "about", None), MethodInfo):
        raise UserError(f"its class {method.__name__} needs about = evertune.MethodInfo(...), which says what it is")
    if method.about.kind not in get_args(Kind):
        raise UserError(f"its about has kind={method.about.kind!r:.40}; the kinds are {', '.join(get_args(Kind))}")
    _refuse_odd_options(method)
    refuse_wrong_hooks(method, Method, prefixes=("before_", "after_", "on_"))


def _refuse_odd_options(method: type[Method]) -> None:
    """Raise unless every option can be passed by name alone, and has a type and a default."""
    example = "def __init__(self, *, alpha: float = 0.5)"
    for name, option in list(inspect.signature(method.__init__).parameters.items())[1:]:
        if option.kind in (option.VAR_POSITIONAL, option.VAR_KEYWORD):
            if method.__init__ is not object.__init__:
                raise UserError(f"its __init__ takes *{name}; options are keyword-only, with names: {example}")
        elif option.kind is not option.KEYWORD_ONLY:
            raise UserError(f"its option '{name}' is positional; options are keyword-only: {example}")
        elif option.annotation is option.empty:
            raise UserError(f"its option '{name}' has no type; write {example}")
        elif option.default is option.empty:
            raise UserError(f"its option '{name}' has no default; write {example}")


def refuse_unusable(method: Method | type[Method]) -> None:
    """Raise unless a class, or an object by the name and the options of its class, can be run.

    Raises:
        UserError: it is no method, or keeps an option under another name.
    """
    cls = method if isinstance(method, type) else type(method)
    what = f"the method {cls.__name__}"
    if not issubclass(cls, Method):
        raise UserError(f"{what} does not extend evertune.Method")
    if not isinstance(getattr(cls, "name", None), str):
        raise UserError(f'{what} has no name: write name = "..." in the class')
    try:
        _refuse_unusable(cls.name, cls)
    except UserError as problem:
        raise UserError(f"{what} can't be used: {problem}") from problem
    for option in [] if isinstance(method, type) else options_in(cls):
        if not hasattr(method, option):
            raise UserError(f"{what} keeps no attribute '{option}': each option is one, self.{option} = {option}")


METHODS: Registry[type[Method]] = Registry("methods", {method.name: method for method in _ALL}, check=_refuse_unusable)


def parts_of(spec: str) -> list[str]:
    """Split `replay+ewc` into names and check that they exist and fit together.

    Raises:
        UserError: an unknown name, a name twice, or methods that exclude each other.
    """
    names = [name.strip() for name in spec.split("+")]
    for name in names:
        if not name:
            raise UserError(f"method '{spec}': a name is missing; join names by '+', such as replay+ewc")
        if name not in METHODS:
            hint = "One of your own comes with --plugin FILE.py; in Python pass its object"
            raise unknown("method", name, METHODS, hint=hint)
    if len(set(names)) < len(names):
        raise UserError(f"method '{spec}' names one method twice")
    kinds = {name: METHODS[name].about.kind for name in names}
    alone = [n for n in names if kinds[n] in ("bound", "baseline")]
    if alone and len(names) > 1:
        raise UserError(f"method '{spec}': '{alone[0]}' is a {kinds[alone[0]]} and runs alone")
    if {"expansion", "regularization"} <= set(kinds.values()):
        raise UserError(
            f"method '{spec}': each task of an expansion trains weights of its own, so there are no earlier weights "
            "to hold"
        )
    if {"expansion", "merging"} <= set(kinds.values()):
        raise UserError(
            f"method '{spec}': an expansion keeps the weights of each task, so there is nothing to merge; use lora"
        )
    experts = [n for n in names if kinds[n] == "expansion"]
    if len(experts) > 1:
        raise UserError(f"method '{spec}': {' and '.join(experts)} each keep something per task: choose one of them")
    if len(bringing := _bringing_adapters(names)) > 1:
        raise UserError(f"method '{spec}': {' and '.join(bringing)} each bring adapters of their own: choose one")
    return names


def _bringing_adapters(names: Sequence[str]) -> list[str]:
    return [name for name in names if METHODS[name].adapt is not Method.adapt]


def refuse_lora_twice(spec: str, model_options: Mapping[str, Any]) -> None:
    """Raise if both a method and the model's options add low-rank adapters (docs/design.md).

    Raises:
        UserError: a method of `spec` brings adapters, and `model_options` sets LoRA or DoRA of the model's own.
    """
    for method in _bringing_adapters(parts_of(spec)):
        for option in lora_options(model_options):
            raise UserError(
                f"LoRA is set twice: by model.{option}={model_options[option]} and by the method '{method}', which "
                f"freezes the model's own LoRA and trains adapters instead. Leave out model.{option} and set "
                f"{method}.r, .lora_alpha and .target_modules; or leave out '{method}' to train the model's own LoRA"
            )


def options_of(name: str) -> dict[str, inspect.Parameter]:
    """The options of a method: name -> parameter with annotation and default."""
    return options_in(METHODS[name])


def options_in(method: type[Method]) -> dict[str, inspect.Parameter]:
    """`options_of` a class."""
    signature = inspect.signature(method.__init__, eval_str=True)
    return {n: p for n, p in signature.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


@named_arguments
def make_methods(spec: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> list[Method]:
    """Make the methods of `replay+ewc` with `{"replay": {"ratio": 0.05}}`.

    Raises:
        UserError: unknown names or options, values of a wrong type, options of a method that is not part of `spec`.
    """
    if not isinstance(spec, str):
        raise UserError(f"the methods are {kind_of(spec)}; taken are names in one text, make_methods('replay+ewc')")
    given = {} if options is None else options
    if not isinstance(given, Mapping) or not all(isinstance(own, Mapping | None) for own in given.values()):
        raise UserError("options are a dictionary of each method's own, such as {'replay': {'ratio': 0.05}}")
    return composed([METHODS[name](**_checked(name, given.get(name) or {})) for name in parts_of(spec)])


def composed(methods: Sequence[Method]) -> list[Method]:
    """The same methods after `compose` of each with the others.

    Raises:
        UserError: one of them needs another that is missing.
    """
    for method in methods:
        method.combine(methods)
    return list(methods)


def code_of_methods(methods: Sequence[Method]) -> dict[str, dict[str, str]]:
    """`{"code": ...}` for the keys of caches: the hash of each method's code that is not evertune's; empty for ours."""
    found = {method.name: code for method in methods if (code := foreign_code(type(method)))}
    return {"code": found} if found else {}


def adapted(lmm: LMM, methods: Sequence[Method], *, seed: int) -> LMM:
    """The model that these methods train: `lmm`, without adapters of an earlier run, after each has adapted it."""
    lmm = bare(lmm)
    for method in methods:
        lmm = method.adapt(lmm, seed=seed)
        if not hasattr(lmm, "trainable"):
            raise UserError(f"adapt of the method '{method.name}' returns {kind_of(lmm)}; expected a model")
    return lmm


def _checked(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    known = options_of(name)
    result = {}
    for option, value in given.items():
        if option not in known:
            raise UserError(f"method '{name}' has no option '{option}'; {nearest(option, known, prefix=f'{name}.')}")
        try:
            adapter = TypeAdapter(known[option].annotation, config=ConfigDict(strict=False))
            result[option] = adapter.validate_python(value)
            refuse_extremes(result[option])
        except ValueError as problem:
            message = problem.errors()[0]["msg"] if isinstance(problem, ValidationError) else problem
            raise UserError(f"{name}.{option}={value!r:.80}: {message}") from problem
    return result
