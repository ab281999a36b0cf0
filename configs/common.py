"""Reads the text after the colon of `--config=configs/visa.py:tiny,seed=1`."""

import difflib
from typing import Any

from ml_collections import ConfigDict


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
    """Read a config's argument string; what is not listed in `defaults` is refused.

    `parse_arg("tiny,seed=3", tiny=False, seed=0, lr=1e-3)` gives `{tiny: True, seed: 3, lr: 0.001}`: a bare name
    switches a bool on, `name=text` is read as the type of the default.

    Args:
      arg: what stands after the colon; None or "" for nothing.
      **defaults: the known names with values of type bool, int, float or str.

    Raises:
      ValueError: unknown name, or text that the type of the default can not be read from.
    """
    values = ConfigDict(defaults)
    for part in filter(None, (part.strip() for part in (arg or "").split(","))):
        name, given, text = part.partition("=")
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(defaults) or 'none'}"
            raise ValueError(f"unknown argument {name!r}; {hint}")
        values[name] = _read(name, text if given else None, type(defaults[name]))
    return values


def _read(name: str, text: str | None, kind: type) -> Any:
    if kind is bool:
        words = {None: True, "true": True, "1": True, "false": False, "0": False}
        if text not in words:
            raise ValueError(f"argument {name}={text}: expected true or false")
        return words[text]
    if text is None:
        raise ValueError(f"argument {name}: expected {name}=<{kind.__name__}>")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"argument {name}={text}: expected {kind.__name__}") from None
