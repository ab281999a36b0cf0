"""`visa-jax <command>`: finds the command, parses its flags, turns failures into one line and an exit code.

A command is a module `visa_jax/cli/<command>.py`, imported only when it is called (JAX takes a second to import):

    \"\"\"Train VISA, MOC or a baseline.            <- the docstring is what `--help` prints above the flags

      visa-jax train --config=configs/visa.py:tiny --workdir=runs/visa
    \"\"\"
    def define_flags(values: flags.FlagValues) -> None:          # absl, always with flag_values=values
        define_config(values)                                    # of cli/flags.py; values.config is a ConfigDict
        define_workdir(values, "where the run is kept")
    def main(values: flags.FlagValues, positional: list[str]) -> int | None:    # None is 0
        ...
    POSITIONAL = "RUN..."                                         # only where words without -- are taken
    if __name__ == "__main__":
        sys.exit(run(["train", *sys.argv[1:]]))                   # python -m visa_jax.cli.train

Exit codes: 0 done; 1 UserError or an OSError such as a full disk; 2 a command line or config that can not be
understood; 75 SIGTERM (a pre-empted machine: launchers start the run again); 130 Ctrl-C. Anything else is a fault
of ours and keeps its traceback (as all do with `--traceback`).
"""

import contextlib
import importlib
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType

from absl import flags

from visa_jax import __version__
from visa_jax.cli.flags import UsageError, parse
from visa_jax.config import UserError, suggestion
from visa_jax.training.progress import Preempted

COMMANDS = {
    "quickstart": "train, evaluate and compare both methods on the embedded testbed",
    "train": "train VISA, MOC or a baseline; goes on where an interrupted run stopped",
    "supervise": "train a detector, translator, analyzer, reward model or base language model",
    "evaluate": "judge a run: table and plots",
    "compare": "several runs in one table, one Pareto figure, one report.html",
    "rewrite": "rewrite a text towards a wish or a value vector",
    "generate": "complete a prompt with a run or a Hugging Face directory",
    "detect": "value vector of a text",
    "plan": "what a run would need on a TPU slice that is not there",
    "convert": "turn a run into a Hugging Face directory, or one into a run",
}
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: "try again later"
HELP = ("--help", "-h", "--helpfull")


def _is_utf8(word: str) -> bool:
    """Bytes that are none arrive as lone surrogates, which no tokenizer takes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: sys.argv[1:]) and return the exit code; `visa-jax` calls this."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command, words = (argv[0], argv[1:]) if argv else ("", [])
    try:
        with _sigterm_as_interrupt():
            if not all(_is_utf8(word) for word in words):
                raise UsageError("an argument is not UTF-8")
            code = _run_command(command, [word for word in words if word != "--traceback"])
            sys.stdout.flush()  # here, where a reader that has gone away is still a plain error
            return code
    except (UserError, OSError, KeyboardInterrupt) as error:
        if "--traceback" in words:
            raise
        return explain(command, error)


def overview() -> str:
    """What `visa-jax --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: visa-jax <command> [--flag=value ...]",
            "",
            *lines,
            "",
            "visa-jax <command> --help shows its flags; visa-jax --version the version.",
        ]
    )


def command_help(name: str, module: ModuleType, values: flags.FlagValues) -> str:
    """What `visa-jax <command> --help` prints: the module's docstring, then every flag with its default."""
    lines = [(module.__doc__ or "").strip(), "", "flags:"]
    shown = [values[flag] for flag in sorted(values)]
    for flag in shown:
        default = "" if flag.default is None else f" (default: {flag.default})"
        value = "" if flag.boolean else "=..."
        lines.append(f"  --{flag.name}{value}")
        lines.append(textwrap.indent(textwrap.fill(f"{flag.help}{default}", 100), "      "))
    lines.append("  --help, --version, --traceback\n      this text; the version; show the traceback of an error")
    return "\n".join(lines)


def _run_command(name: str, argv: list[str]) -> int:
    if name in ("", "help", *HELP):
        print(overview())
        return 0 if name else 2
    if "--version" in (name, *argv):
        print(f"visa-jax {__version__}")
        return 0
    if name not in COMMANDS:
        raise UsageError(f"no such command{suggestion(name, COMMANDS)}")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it says with each command that PyTorch is missing
    module = importlib.import_module(f"visa_jax.cli.{name}")
    values = flags.FlagValues()
    module.define_flags(values)
    if any(word in HELP for word in argv):
        print(command_help(name, module, values))
        return 0
    positional = parse(values, name, argv, getattr(module, "complete_config", None))
    if positional and not hasattr(module, "POSITIONAL"):
        raise UsageError(f"unexpected argument {positional[0]!r}")
    return module.main(values, positional) or 0


def explain(command: str, error: BaseException) -> int:
    """Print `error` in one line and return its exit code."""
    text = " ".join(str(error).split())
    if isinstance(error, BrokenPipeError):
        # The reader of our output (`| head`) has gone; without this, Python complains again while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, KeyboardInterrupt):
        print(f"\nvisa-jax {command}: interrupted{f': {text}' if text else ''}", file=sys.stderr)
        return PREEMPTED if isinstance(error, Preempted) else 130
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    print(f"visa-jax {command}: {text}", file=sys.stderr)
    return 2 if isinstance(error, UsageError) else 1


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """A pre-empted machine sends SIGTERM: let it end a command in good order (main thread only, a rule of Python)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signum: int, _frame: object) -> None:
        raise Preempted("asked to end")

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(run())
