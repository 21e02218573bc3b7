"""A config file as YAML, and what to say of what is wrong in it."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from harness.errors import HarnessError


def read(path: Path) -> object:
    """Return the content of a YAML file.

    Raises:
        HarnessError: if it is missing or no YAML, or has a key twice in one place, of which YAML
            would drop the first.

    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        if tree is not None:
            _refuse_repeated(path, tree, ())
        return yaml.safe_load(text)
    except OSError as error:
        raise HarnessError(f"{path}: no such config: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: not YAML: {error}") from None


def _refuse_repeated(path: Path, node: yaml.Node, where: tuple[str, ...]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _refuse_repeated(path, item, (*where, str(i)))
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            inner = (*where, str(key.value))
            if str(key.value) in lines:
                raise HarnessError(
                    f"{path}, lines {lines[str(key.value)]} and {line}: {'.'.join(inner)} is there "
                    "twice: give one of them another name, or take it out"
                )
            lines[str(key.value)] = line
            # An alias repeats a place that was looked at where it stands.
            if value.start_mark.index > key.start_mark.index:
                _refuse_repeated(path, value, inner)


def problems(kind: type[BaseModel], error: ValidationError) -> list[str]:
    """Return a line for each thing that is wrong: the key, what was found, and what is allowed."""
    found = error.errors()
    lacking = {tuple(one["loc"]) for one in found if one["type"] == "missing"}
    lines = []
    for one in found:
        loc = tuple(one["loc"])
        model, where = _at(kind, loc)
        if one["type"] == "extra_forbidden" and model:
            nearest = _nearest(str(loc[-1]), model.model_fields)
            lacking.discard((*loc[:-1], nearest))
            lines.append(f"{where}: no such key; {_instead(nearest, model.model_fields)}")
        elif one["type"] == "union_tag_not_found":
            lines.append(_without_tag(where, one, kind, loc))
        elif one["type"] == "too_short" and one["input"]:
            pass  # What it has is wrong, and there is a line on that.
        elif one["type"] != "missing":
            message = str(one["msg"]).removeprefix("Value error, ")
            if one["type"] == "tuple_type":
                message = f"a list is due, as [{one['input']}]"
            # A whole section tells nothing that the message does not.
            given = "" if isinstance(one["input"], Mapping) else f", not {one['input']!r}"
            lines.append(f"{where}: {message}{given}" if where else message)
    return [f"{_at(kind, loc)[1]}: missing" for loc in sorted(lacking, key=str)] + lines


def _without_tag(where: str, one: Mapping[str, Any], kind: type[BaseModel], loc: Any) -> str:
    tag = one["ctx"]["discriminator"].strip("'")
    near = difflib.get_close_matches(tag, map(str, one["input"]), 1)
    if near:
        return f"{where}.{near[0]}: no such key; did you mean {tag}?"
    tags = ", ".join(_members(_annotation(kind, loc)))
    return f"{where}.{tag}: missing; it is one of {tags}"


def _nearest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, 1)), None)


def _instead(nearest: str | None, names: Iterable[str]) -> str:
    return f"did you mean {nearest}?" if nearest else f"the keys are {', '.join(names)}"


def _at(kind: Any, loc: Sequence[int | str]) -> tuple[type[BaseModel] | None, str]:
    """Return the model that has the last key of a place, and the place as the file has it."""
    shown: list[str] = []
    model = None
    for step in loc:
        members = _members(kind)
        if members:
            # Pydantic's, and not in the file: which of several models it is.
            kind = members.get(str(step))
            continue
        if step != "[key]":
            shown.append(str(step))
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        kind = _inner(kind, step)
    return model, ".".join(shown)


def _annotation(kind: Any, loc: Sequence[int | str]) -> Any:
    for step in loc:
        kind = _inner(kind, step)
    return kind


def _inner(kind: Any, step: int | str) -> Any:
    """Return the type of what is at a key or place of a type."""
    kind = _plain(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(step))
        return field and Annotated[field.annotation, field]
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    return get_args(kind)[0] if get_origin(kind) is tuple else None


def _members(kind: Any) -> dict[str, type[BaseModel]]:
    """Return the models of a union by their tags."""
    kind = _plain(kind)
    if get_origin(kind) not in (Union, UnionType):
        return {}
    models = [one for one in get_args(kind) if isinstance(one, type) and issubclass(one, BaseModel)]
    return {
        tag: model
        for model in models
        for name in ("kind", "mode")
        if name in model.model_fields
        for tag in get_args(model.model_fields[name].annotation)
    }


def _plain(kind: Any) -> Any:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind
