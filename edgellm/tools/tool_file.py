"""Tools out of a Python file: its functions, told to the model by their names, docstrings and type
hints.

    def set_fan(percent: Annotated[int, 0, 100, "0 is off"]) -> None:
        "Sets the speed of the fan."

Hints may be int, float, bool, str and Literal[...]; Annotated adds bounds, two numbers, and a
description. What has a default may be left out by the model. A file that says it all itself has a
list TOOLS of functions, and of dictionaries with the keys `function` and, each in place of what the
function says of itself, `name`, `description`, `parameters` (a JSON Schema of an object), `danger`.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from edgellm.errors import UsageError
from edgellm.tools.tool import Tool

Function = Callable[..., object]
_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}
_KEYS = {"function", "name", "description", "parameters", "danger"}


def read(path: Path) -> list[tuple[Tool, Function]]:
    """The tools of a file, which is run. Raises UsageError, naming what can't be used."""
    module = _run(path)
    declared = getattr(module, "TOOLS", None)
    if declared is None:
        declared = [
            value
            for name, value in vars(module).items()
            if inspect.isfunction(value)
            and value.__module__ == module.__name__
            and not name.startswith("_")
        ]
    if not isinstance(declared, list | tuple) or not declared:
        raise UsageError(f"{path}: holds no functions; define one, or a list of them: TOOLS")
    try:
        return [_tool(entry) for entry in declared]
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("edgellm_tools", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: isn't a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except (Exception, SystemExit) as error:  # somebody else's code
        raise UsageError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def _tool(entry: object) -> tuple[Tool, Function]:
    given: Mapping[str, Any] = entry if isinstance(entry, dict) else {"function": entry}
    if unknown := given.keys() - _KEYS:
        raise UsageError(f"TOOLS: unknown key {min(map(str, unknown))!r}")
    function = given.get("function")
    if not callable(function):
        raise UsageError(f"TOOLS: {str(entry)[:80]!r} has no function")
    name: Any = given.get("name") or getattr(function, "__name__", "")
    description = given.get("description") or inspect.cleandoc(function.__doc__ or "")
    if not description:
        raise UsageError(f"{name}: has no docstring; the model knows what it does from that")
    parameters = given.get("parameters")
    if parameters is None:
        parameters = _parameters(name, function)
    return Tool(name, description, parameters, given.get("danger", 0)), function


def _parameters(name: str, function: Function) -> dict[str, Any]:
    """The JSON Schema of the function's arguments."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception as error:
        raise UsageError(f"{name}: its type hints can't be read: {error}") from error
    properties, required = {}, []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UsageError(f"{name}: {parameter} can't be given by name")
        properties[parameter.name] = _schema(f"{name}: {parameter.name}", hints, parameter.name)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    return {"type": "object", "properties": properties, "required": required}


def _schema(where: str, hints: Mapping[str, Any], name: str) -> dict[str, Any]:
    hint = hints.get(name)
    more: tuple[object, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        more = tuple(rest)
    if get_origin(hint) is Literal:
        schema: dict[str, Any] = {"enum": list(get_args(hint))}
    elif hint in _TYPES:
        schema = {"type": _TYPES[hint]}
    else:
        known = "int, float, bool, str or Literal"
        raise UsageError(f"{where} needs the type hint {known}, else describe it in TOOLS")
    bounds = [one for one in more if isinstance(one, int | float)]
    texts = [one for one in more if isinstance(one, str)]
    if len(bounds) not in (0, 2) or len(texts) > 1 or len(bounds) + len(texts) < len(more):
        raise UsageError(f"{where}: Annotated takes two bounds, a description, or both")
    if bounds:
        schema["minimum"], schema["maximum"] = bounds
    if texts:
        schema["description"] = texts[0]
    return schema
