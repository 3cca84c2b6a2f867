"""Types of settings: what a value must be, told by the annotation of what takes it.

Records of `g2rl.cli.build.settings` and the arguments of every node with a `_target_` are checked
here, before anything is made of them. A message names the full key, what the value must be, and
what it is.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import NoneType, UnionType
from typing import Any, Union, Unpack, get_args, get_origin, get_type_hints, is_typeddict

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from g2rl.tasks.grading.code_files import raised

TARGET = "_target_"
WORDS_OF_TYPES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    NoneType: "null",
}
"""Types of single values, in the words of an error message."""
WORDS_OF_ITEMS: dict[Any, str] = {
    bool: "true or false",
    int: "whole numbers",
    float: "numbers",
    str: "texts",
}
"""The same in a list: ``a list of whole numbers``."""
_SETTABLE = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
"""Kinds of arguments that Hydra gives by their names."""


# --- one value


def check_type(key: str, value: Any, annotation: Any) -> None:
    """Refuse a value that is not of its annotated type.

    Single values and lists of them are checked; what takes an object or a mapping is not looked at.

    Raises:
        ValueError: naming the key, the type in words, and the value.
    """
    allowed: tuple[Any, ...] = (annotation,)
    if get_origin(annotation) in (UnionType, Union):
        allowed = get_args(annotation)

    # types that nothing is said about here let every value pass
    words: list[str] = []
    for one in allowed:
        word = _in_words(one)
        if word is None:
            return
        words.append(word)
    # not-a-number is of the type, but no comparison with a limit would refuse it
    is_nan = isinstance(value, float) and math.isnan(value)
    if is_nan or not any(_fits(value, one) for one in allowed):
        raise ValueError(f"{key} must be {' or '.join(words)}, got {value!r}")


def _in_words(annotation: Any) -> str | None:
    """A type in the words of a message; None for one that is not checked."""
    if get_origin(annotation) is Sequence or get_origin(annotation) is list:
        [item] = get_args(annotation)
        items = WORDS_OF_ITEMS.get(item)
        return None if items is None else f"a list of {items}"
    return WORDS_OF_TYPES.get(annotation)


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of a type that `_in_words` knows."""
    if annotation in WORDS_OF_TYPES:
        # a whole number is a number too, but true and false are none
        return type(value) is annotation or (annotation is float and type(value) is int)

    # a single word would be taken for a list of its letters
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    [item] = get_args(annotation)
    return all(_fits(one, item) for one in value)


# --- the arguments of what a node builds


def check_nodes(config: Any, key: str, unchecked: Sequence[str] = ()) -> None:
    """Check the arguments of every node with a `_target_`, at any depth of plain settings.

    Args:
        config: plain dictionaries and lists, every ${...} resolved.
        key: where they stand; "" at the top.
        unchecked: names of arguments, of nodes at any depth, that are not the constructor's own.

    Raises:
        ValueError: a value of a wrong type, or an argument that does not exist.
    """
    if not isinstance(config, Mapping):
        return
    if isinstance(config.get(TARGET), str):
        own = {name: value for name, value in config.items() if name not in unchecked}
        check_arguments(object_of(config[TARGET], key), own, key)

    # nodes inside it
    for name, value in config.items():
        check_nodes(value, f"{key}.{name}" if key else str(name), unchecked)


def object_of(name: str, key: str) -> Callable[..., Any]:
    """The class or function that a node names.

    Raises:
        ValueError: it cannot be had, with the file of its module and the nearest name there.
    """
    # Hydra would log the same in three lines
    module_name, _, attribute = name.rpartition(".")
    logger = logging.getLogger(get_object.__module__)
    was_disabled, logger.disabled = logger.disabled, True
    try:
        found = get_object(name)
    except Exception as error:  # importing runs the user's code, which may do anything
        module = sys.modules.get(module_name)
        if module is None or hasattr(module, attribute):
            cause = error.__cause__ or error
            reason = " ".join(f"{type(cause).__name__}: {cause}".split())
            raise ValueError(f"{key}.{TARGET}={name} cannot be imported ({reason})") from None
        near = difflib.get_close_matches(attribute, vars(module), n=1)
        hint = f"; did you mean {module_name}.{near[0]}?" if near else ""
        place = getattr(module, "__file__", None) or module_name
        raise ValueError(f"{key}.{TARGET}={name}: {place} has no {attribute}{hint}") from None
    finally:
        logger.disabled = was_disabled
    if not callable(found):
        raise ValueError(
            f"{key}.{TARGET}={name} is a {type(found).__name__}; name a class, or a function that "
            "makes an object of its settings"
        )
    return found


def check_arguments(target: Callable[..., Any], values: Mapping[str, Any], key: str) -> None:
    """Check the values of one node against the signature of the class or function that it names.

    Raises:
        ValueError: a value of a wrong type, or an argument that does not exist.
    """
    # keys with an underscore are Hydra's own: _target_, _convert_
    types = argument_types(target)
    for name, value in values.items():
        if name.startswith("_"):
            continue
        if name in types:
            check_type(f"{key}.{name}", value, types[name])
        elif not _takes_anything(target):
            known = f"has {', '.join(types)}" if types else "takes no settings"
            raise ValueError(f"{key}.{name}: there is no such setting; {key} {known}")


def argument_types(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotated types of the arguments of a class or function, by name; `Any` without annotation.

    Arguments that are collected by ``**given: Unpack[Settings]`` are those of the typed dictionary.
    """
    # one's own code need not be annotated, so names are those of the signature
    hints = _hints(target)
    types: dict[str, Any] = {}
    for parameter in _parameters(target):
        annotation = hints.get(parameter.name, Any)
        if get_origin(annotation) is Unpack:
            [collected] = get_args(annotation)
            types |= get_type_hints(collected) if is_typeddict(collected) else {}
        elif parameter.kind in _SETTABLE:
            types[parameter.name] = annotation
    return types


def build(node: Any, key: str) -> Any:
    """Make the object of a node that may be of the user's own, and say whose fault an error is.

    Raises:
        ValueError: the node names no class or leaves out an argument, or the user's own constructor
            raised.
    """
    # a file of the user's own may be empty, or another's
    if not isinstance(node, Mapping) or not node.get(TARGET):
        raise ValueError(
            f"{key} names no class; write {key.rpartition('.')[2]}: {{{TARGET}: MODULE.CLASS}} "
            "into its file"
        )

    # Hydra would name an argument of Python instead of a setting
    name = str(node[TARGET])
    missing = missing_arguments(object_of(name, key), node)
    if missing:
        raise ValueError(
            f"{key}.{missing[0]} has no value, and {name} needs one: add "
            f"+{key}.{missing[0]}=VALUE, or give the argument a default"
        )

    # classes of g2rl say themselves what can be mended
    try:
        return instantiate(node)
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None or name.partition(".")[0] == "g2rl":
            raise
        raise ValueError(f"{key}.{TARGET}={name} {raised(cause)}") from cause


def missing_arguments(target: Callable[..., Any], values: Mapping[str, Any]) -> list[str]:
    """Arguments that a class or function cannot do without, and that a node does not give."""
    missing: list[str] = []
    for parameter in _parameters(target):
        is_needed = parameter.kind in _SETTABLE and parameter.default is parameter.empty
        if is_needed and parameter.name not in values:
            missing.append(parameter.name)
    return missing


def _parameters(target: Callable[..., Any]) -> list[inspect.Parameter]:
    """The arguments of a class or function; classes written in C tell only of their constructor."""
    try:
        return list(inspect.signature(target).parameters.values())
    except ValueError:
        return list(inspect.signature(target.__init__).parameters.values())


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of what is called; of a class, those of its constructor."""
    # what `functools.partial` has bound may be set anew
    function: Any = target
    while isinstance(function, partial):
        function = function.func
    if inspect.isclass(function):
        function = function.__init__
    elif not inspect.isroutine(function):
        function = type(function).__call__

    # one's own annotations may name what only a type checker imports; then nothing is known of them
    try:
        return get_type_hints(function)
    except Exception:
        return {}


def _takes_anything(target: Callable[..., Any]) -> bool:
    """Whether a function collects arguments of any name without saying which."""
    # ``**options`` takes anything, ``**given: Unpack[Settings]`` does not
    hints = _hints(target)
    for parameter in _parameters(target):
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            return get_origin(hints.get(parameter.name)) is not Unpack
    return False
