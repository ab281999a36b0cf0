"""Typed configs: an ml_collections ConfigDict outside, frozen dataclasses inside, JSON in a workdir.

A dataclass is the whole truth about its section of a config: a key that it does not declare is refused, a field
without a default must be there, and a value of another type is refused, each with the full dotted name of the
field. There is no look-up with a default anywhere else.
"""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict, FieldReference, FrozenConfigDict

T = TypeVar("T")


class UserError(ValueError):
    """A mistake of the user, told in one line; commands print it without a traceback."""


class FieldError(UserError):
    """A value that a field refuses; `field` is its dotted name as far as it is known where this is raised."""

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def require(condition: bool, field: str, message: str) -> None:
    """Raise FieldError unless `condition`; for `__post_init__`, where from_config_dict adds the path in front."""
    if not condition:
        raise FieldError(field, message)


def suggestion(word: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?` for a near miss, else the list of what there is."""
    known = [str(name) for name in known]
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are: {', '.join(known)}" if known else ""


def from_config_dict(cls: type[T], config: Mapping[str, Any], path: str = "config") -> T:
    """Build the (nested) dataclass `cls` from a ConfigDict or plain mapping, strictly.

    Understood annotations: int, float, bool, str, Any, Literal, Optional and other unions, tuple, list, dict[str, X]
    and dataclasses of these. An int is taken where a float is expected; a bool is never an int.

    Args:
      cls: a dataclass.
      config: its fields by name.
      path: dotted name of this section, for messages.

    Raises:
      FieldError: unknown key, missing key, wrong type, or a FieldError of `__post_init__`, with the full name.
    """
    config = _plain(config)
    if not isinstance(config, Mapping):
        raise FieldError(path, f"expected a section with fields, got {_shown(config)}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in config:
        if key not in fields:
            raise FieldError(f"{path}.{key}", f"no such field{suggestion(str(key), fields)}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in config:
            values[name] = _convert(hints[name], config[name], f"{path}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise FieldError(f"{path}.{name}", f"missing (expected {_name(hints[name])})")
    try:
        return cls(**values)
    except FieldError as error:
        raise FieldError(f"{path}.{error.field}", error.message) from None


def to_config_dict(config: Any) -> ConfigDict:
    """The ConfigDict of a (nested) dataclass or mapping; from_config_dict is its inverse."""
    return ConfigDict(_plain(config))


def to_json(config: Any) -> str:
    """Indented JSON of a dataclass, ConfigDict or mapping (the keys of a ConfigDict are sorted)."""
    return json.dumps(_plain(config), indent=2) + "\n"


def from_json(text: str, source: str = "config.json") -> ConfigDict:
    """Inverse of to_json; JSON arrays come back as tuples. `source` is the file named when the text is no config."""
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: not JSON (line {error.lineno}: {error.msg})") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{source}: expected a JSON object, got {_shown(loaded)}")
    return ConfigDict(_tuples(loaded))


def save_config(workdir: str | Path, config: Any) -> Path:
    """Write `workdir/config.json` (whole or not at all) and return its path."""
    path = Path(workdir) / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".json.partial")
    partial.write_text(to_json(config), encoding="utf-8")
    partial.replace(path)
    return path


def load_config(workdir: str | Path) -> ConfigDict:
    """Read `workdir/config.json`. Raises UserError naming the path when it is missing or damaged."""
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir}: not a run (there is no {path.name} in it)")
    return from_json(path.read_text(encoding="utf-8"), str(path))


def config_differences(old: Any, new: Any) -> list[str]:
    """One line `section.field: old -> new` for each field that differs; an absent field shows as (absent)."""
    flat_old, flat_new = _flat(_plain(old)), _flat(_plain(new))
    lines = []
    for key in [*flat_old, *(key for key in flat_new if key not in flat_old)]:
        before, after = (repr(flat[key]) if key in flat else "(absent)" for flat in (flat_old, flat_new))
        if before != after:
            lines.append(f"{key}: {before} -> {after}")
    return lines


def _plain(value: Any) -> Any:
    """Dataclasses and ConfigDicts as dicts, lists as tuples, placeholders as what they hold."""
    if isinstance(value, FieldReference):
        return _plain(value.get())
    if isinstance(value, (ConfigDict, FrozenConfigDict)):
        return {key: _plain(value[key]) for key in value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    return value


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    parts = (_flat(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items())
    return {key: item for part in parts for key, item in part.items()}


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as `hint`, or FieldError naming `path`."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return from_config_dict(hint, value, path)
    if origin in _CONTAINERS:
        return _CONTAINERS[origin](hint, value, path)
    if hint is Any:
        return value
    accepted = (int, float) if hint is float else hint
    if (isinstance(value, bool) and hint is not bool) or not isinstance(value, accepted):
        raise FieldError(path, f"expected {_name(hint)}, got {_shown(value)}")
    return float(value) if hint is float else value


def _convert_literal(hint: Any, value: Any, path: str) -> Any:
    choices = typing.get_args(hint)
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise FieldError(path, f"got {_shown(value)}, expected one of {', '.join(map(repr, choices))}")
    return value


def _convert_union(hint: Any, value: Any, path: str) -> Any:
    members = [member for member in typing.get_args(hint) if member is not type(None)]
    if value is None and len(members) < len(typing.get_args(hint)):
        return None
    errors = []
    for member in members:
        try:
            return _convert(member, value, path)
        except FieldError as error:
            errors.append(error)
    # With one real member its own complaint (perhaps about a field deep inside) says more than the union's name.
    raise errors[0] if len(errors) == 1 else FieldError(path, f"expected {_name(hint)}, got {_shown(value)}")


def _convert_sequence(hint: Any, value: Any, path: str) -> Any:
    if not isinstance(value, tuple):
        raise FieldError(path, f"expected {_name(hint)}, got {_shown(value)}")
    members = typing.get_args(hint)
    if typing.get_origin(hint) is list or members[-1] is Ellipsis:
        members = (members[0],) * len(value)
    if len(members) != len(value):
        raise FieldError(path, f"expected {len(members)} entries, got {len(value)}")
    converted = (_convert(members[i], item, f"{path}[{i}]") for i, item in enumerate(value))
    return typing.get_origin(hint)(converted)


def _convert_mapping(hint: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise FieldError(path, f"expected {_name(hint)}, got {_shown(value)}")
    return {key: _convert(typing.get_args(hint)[1], item, f"{path}.{key}") for key, item in value.items()}


_CONTAINERS: dict[Any, Callable[[Any, Any, str], Any]] = {
    typing.Literal: _convert_literal,
    typing.Union: _convert_union,
    types.UnionType: _convert_union,
    tuple: _convert_sequence,
    list: _convert_sequence,
    dict: _convert_mapping,
}


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _shown(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
