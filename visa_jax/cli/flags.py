"""Flags of one command: absl and config_flags, with their exceptions turned into one line each.

A command gets FlagValues of its own, nothing is global: commands can be called from tests and from each other.
"""

import importlib.util
import re
import runpy
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from visa_jax.config import UserError, suggestion

_NO_PAGES = ("configs/__init__.py", "configs/common.py", "configs/pods.py")
INSTALLED_CONFIGS = "visa_jax_configs"


LAST_SEED = 2**32 - 1  # of 32 bits: jax.random.key drops the rest without a word


class UsageError(UserError):
    """A command line that can not be understood; commands exit with 2."""


def define_workdir(values: flags.FlagValues, help_text: str, *, required: bool = True) -> None:
    """Define `--workdir`."""
    flags.DEFINE_string("workdir", None, help_text, flag_values=values, required=required)


def define_config(values: flags.FlagValues, *, required: bool = True) -> None:
    """Define `--config=FILE[:ARG]` and with it `--config.section.field=VALUE`; `values.config` is a ConfigDict."""
    help_text = "config file, after a colon its argument; --config.section.field=VALUE changes a field"
    flags.DEFINE_string("config", None, help_text, flag_values=values, required=required)


def define_config_change(values: flags.FlagValues) -> None:
    """Define `--allow_config_change`, for commands that go on with a run."""
    help_text = "go on with a run that was made with another config; the difference is printed"
    flags.DEFINE_boolean("allow_config_change", False, help_text, flag_values=values)


def parse(
    values: flags.FlagValues,
    name: str,
    argv: Sequence[str],
    complete_fn: Callable[[ConfigDict], ConfigDict] | None = None,
) -> list[str]:
    """Parse `argv` (without the program's name) into `values` and return the positional arguments.

    Where define_config was used, `--config` is replaced by the loaded, overridden and locked ConfigDict;
    `complete_fn` adds to a page the fields that it leaves at their defaults.

    Raises:
      UsageError: unknown or incomplete flag, missing config file, unknown config key, wrong type.
    """
    argv = list(argv)
    try:
        if "config" in values:
            argv = _load_config_flag(values, argv, complete_fn)
        return values([name, *argv])[1:]
    except flags.Error as error:
        raise UsageError(_one_line(error, values)) from None


def load_config_file(argument: str) -> ConfigDict:
    """Call `get_config` of `FILE[:ARG]`; FILE as given, else among the installed configs (locked: no new keys).

    Raises:
      UsageError: there is no such file, it fails, or it is no config; with the file, and its line if it fails.
    """
    name, colon, arg = argument.partition(":")
    path = find_config_file(name)
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if get_config is None:
            raise UsageError(f"{path}: not a config (it has no function get_config)")
        config = get_config(arg) if colon else get_config()
    except UsageError:
        raise
    except Exception as error:  # a config is the user's own code, anything may come out of it
        raise UsageError(f"{_location(path, error)}: {_summary(error)}") from None
    if not isinstance(config, ConfigDict):
        raise UsageError(f"{path}: get_config returned {type(config).__name__}, expected a ConfigDict")
    return config.lock()


def find_config_file(name: str) -> Path:
    """`name` itself, or `configs/x.py` / `x.py` / `x` among the installed configs. UsageError when there is none."""
    path = Path(name)
    if path.is_file():
        return path
    directory = installed_configs()
    if directory is not None and len(path.parts) <= 2 and path.parts[:-1] in ((), ("configs",)):
        installed = directory / path.with_suffix(".py").name
        if installed.is_file():
            return installed
    known = sorted(f"configs/{file.name}" for file in directory.glob("*.py")) if directory else []
    known = [file for file in known if file not in _NO_PAGES]
    raise UsageError(f"--config={name}: no such file{suggestion(name, known)}")


def installed_configs() -> Path | None:
    """The directory of the configs that came with the package."""
    spec = importlib.util.find_spec(INSTALLED_CONFIGS)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _load_config_flag(values: flags.FlagValues, argv: list[str], complete_fn) -> list[str]:
    """Replace the flag `config` by its loaded dictionary with the overrides of `argv`; returns the rest of argv."""
    argument, rest = _take_config(argv)
    overrides = [field for word in rest for field in _overridden(word)]
    if argument is None:
        if overrides:
            raise UsageError(f"--config.{overrides[0]} changes a config, but there is no --config=FILE")
        return rest
    config = load_config_file(argument)
    if complete_fn is not None:
        config = complete_fn(config).lock()
    for field in overrides:
        _field_type(config, field)
    delattr(values, "config")
    # sys_argv: config_flags finds by it which fields need a flag.
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["", *rest])
    return rest


def _take_config(argv: list[str]) -> tuple[str | None, list[str]]:
    """The value of the last `--config=X` or `--config X`, and the other words."""
    value, rest, words = None, [], iter(argv)
    for word in words:
        if match := re.fullmatch(r"--?config=(.*)", word, re.DOTALL):
            value = match.group(1)
        elif re.fullmatch(r"--?config", word):
            value = next(words, None)
            if value is None:
                raise UsageError("--config: expected a file after it")
        else:
            rest.append(word)
    return value, rest


def _overridden(word: str) -> Iterator[str]:
    if match := re.match(r"--?(?:no)?config\.([^=]*)", word):
        yield match.group(1)


def _field_type(config: ConfigDict, field: str) -> type:
    """Type of the field with dotted name `field`; UsageError with the nearest name when there is no such field."""
    section, kind, parts = config, ConfigDict, field.split(".")
    for depth, name in enumerate(parts):
        where = ".".join(["--config", *parts[: depth + 1]])
        if not isinstance(section, ConfigDict):
            raise UsageError(f"{where}: --config.{'.'.join(parts[:depth])} has no fields below it")
        if name not in section:
            raise UsageError(f"{where}: no such field{suggestion(name, section)}")
        kind, section = section.get_type(name), section[name]
    if kind is type(None):
        raise UsageError(f"--config.{field}: is None and has no type yet; set it in the config file")
    return kind


def _one_line(error: Exception, values: flags.FlagValues) -> str:
    text = " ".join(str(error).split())
    if required := re.match(r"flag --(\w+)=None: Flag --\w+ must have a value other than None", text):
        return f"--{required.group(1)} is required"
    if refused := re.match(r"flag --config\.([^=]+)=(.*?): ", text):
        field, given = refused.groups()
        return f"--config.{field}={given}: expected {_field_type(values['config'].value, field).__name__}"
    return re.sub(r"^flag (--[^:]*:)", r"\1", text)


def _summary(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def _location(path: Path, error: Exception) -> str:
    """The config file and the line in it at which `error` came out."""
    if isinstance(error, SyntaxError):
        return f"{error.filename} line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path} line {lines[-1]}" if lines else str(path)
