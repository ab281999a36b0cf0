"""Commands as a user meets them: help, one line for every mistake, exit codes, Ctrl-C."""

import importlib
import os
import signal
import subprocess
import sys
import types

import pytest
from absl import flags

from visa_jax import __version__
from visa_jax.cli import main as cli
from visa_jax.cli.flags import UsageError, define_config, define_workdir, find_config_file, parse
from visa_jax.config import UserError

CONFIG = '''"""A page of no paper."""
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(arg=None):
    if arg not in (None, "tiny"):
        raise ValueError(f"unknown argument {arg!r}")
    steps = 1 if arg == "tiny" else 100
    optimizer = {"learning_rate": 1e-3, "warm": True}
    clip = placeholder(float)
    return ConfigDict({"steps": steps, "optimizer": optimizer, "sizes": (1, 2), "nothing": None, "clip": clip})
'''


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "page.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def command(monkeypatch):
    """Install a command `train` whose body the test gives."""

    def install(body, **attributes):
        module = types.ModuleType("visa_jax.cli.train", "Train something.\n\n  visa-jax train --config=FILE")

        def define_flags(values):
            define_config(values)
            define_workdir(values, "where the run is kept", required=False)
            flags.DEFINE_bool("json", False, "print JSON", flag_values=values)

        module.define_flags, module.main = define_flags, body
        for name, value in attributes.items():
            setattr(module, name, value)
        monkeypatch.setitem(sys.modules, "visa_jax.cli.train", module)

    return install


def outcome(capsys, *argv: object) -> tuple[int, str]:
    """Exit code and standard error of a command line; the latter is one line at most."""
    code = cli.run([str(word) for word in argv])
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and "Traceback" not in error
    return code, error


def test_overview_lists_every_command(capsys):
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in cli.COMMANDS)
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"visa-jax {__version__}\n"
    assert cli.run([]) == 2


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_and_version(name, capsys):
    assert cli.run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"visa-jax {name}" in shown and "flags:" in shown
    assert cli.run([name, "--version"]) == 0
    module = importlib.import_module(f"visa_jax.cli.{name}")
    assert callable(module.main) and callable(module.define_flags)


def test_config_and_overrides_arrive_as_locked_config_dict(command, config_file):
    seen = []
    command(lambda values, positional: seen.append((values.config, values.workdir, values.json)))
    argv = ["train", f"--config={config_file}:tiny", "--config.optimizer.learning_rate=2", "--noconfig.optimizer.warm"]
    assert cli.run([*argv, "--config.clip", "0.5", "--workdir", "w", "--json", "--config.sizes=(3, 4, 5)"]) == 0
    ((config, workdir, as_json),) = seen
    assert config.to_dict() == {
        "steps": 1,
        "optimizer": {"learning_rate": 2.0, "warm": False},
        "sizes": (3, 4, 5),
        "nothing": None,
        "clip": 0.5,
    }
    assert (workdir, as_json) == ("w", True)
    with pytest.raises(AttributeError):
        config.new = 1


def test_order_of_flags_does_not_matter_and_nothing_stays_behind(command, config_file):
    seen = []
    command(lambda values, positional: seen.append(values.config.steps))
    assert cli.run(["train", "--config.steps=7", f"--config={config_file}"]) == 0
    assert cli.run(["train", "--config", str(config_file)]) == 0
    assert seen == [7, 100]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.optimiser.warm=true", "--config.optimiser: no such field; did you mean 'optimizer'?"),
        ("--config.optimizer.rate=1", "--config.optimizer.rate: no such field; there are: learning_rate, warm"),
        ("--config.steps=1.5", "--config.steps=1.5: expected int"),
        ("--config.optimizer.learning_rate=fast", "--config.optimizer.learning_rate=fast: expected float"),
        ("--config.optimizer.warm=3", "--config.optimizer.warm=3: expected bool"),
        ("--config.steps.x=1", "--config.steps.x: --config.steps has no fields below it"),
        ("--config.nothing=1", "--config.nothing: is None and has no type yet; set it in the config file"),
        ("--config.sizes[0]=1", "--config.sizes[0]: no such field; did you mean 'sizes'?"),
        ("--config.steps", "Missing value for flag --config.steps"),
        ("--config.", "--config.: no such field; there are: clip, nothing, optimizer, sizes, steps"),
        ("--worksdir=x", "Unknown command line flag 'worksdir'. Did you mean: workdir ?"),
        ("--config=nowhere.py", "--config=nowhere.py: no such file"),
        ("stray", "unexpected argument 'stray'"),
        ("--config.nothing=\udcff", "an argument is not UTF-8"),
    ],
)
def test_unusable_command_lines_exit_2(flag, message, command, config_file, capsys):
    command(lambda values, positional: pytest.fail("must not run"))
    code, error = outcome(capsys, "train", f"--config={config_file}", flag)
    assert code == 2
    assert error.startswith(f"visa-jax train: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", "page.py line 1: SyntaxError: '(' was never closed"),
        ("\nimport nowhere", "page.py line 2: ModuleNotFoundError: No module named 'nowhere'"),
        ("x = 1", "page.py: not a config (it has no function get_config)"),
        ("def get_config():\n    return {}", "page.py: get_config returned dict, expected a ConfigDict"),
        ("def get_config():\n    pass\n\ndef g(): pass", "page.py: get_config returned NoneType"),
        ("def get_config():\n    raise ValueError('two\\nlines')", "page.py line 2: two lines"),
    ],
)
def test_faulty_config_files_are_told_with_their_line(text, message, command, config_file, capsys):
    command(lambda values, positional: pytest.fail("must not run"))
    config_file.write_text(text)
    code, error = outcome(capsys, "train", f"--config={config_file}")
    assert code == 2
    assert error.startswith(f"visa-jax train: {config_file.parent}/{message}")


def test_unknown_config_argument_is_refused(command, config_file, capsys):
    command(lambda values, positional: pytest.fail("must not run"))
    assert outcome(capsys, "train", f"--config={config_file}:tyni") == (
        2,
        f"visa-jax train: {config_file} line 8: unknown argument 'tyni'",
    )


def test_missing_flags_and_commands_are_named(command, capsys):
    command(lambda values, positional: pytest.fail("must not run"))
    assert outcome(capsys, "train") == (2, "visa-jax train: --config is required")
    assert outcome(capsys, "train", "--config") == (2, "visa-jax train: --config: expected a file after it")
    assert outcome(capsys, "train", "--config.steps=1")[0] == 2
    assert outcome(capsys, "trian") == (2, "visa-jax trian: no such command; did you mean 'train'?")
    assert outcome(capsys, "../train")[0] == 2


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("group_size: must be\nat least 2"), 1, "visa-jax train: group_size: must be at least 2"),
        (FileNotFoundError(2, "No such file or directory", "a.jsonl"), 1, "a.jsonl: No such file or directory"),
        (OSError(28, "No space left on device"), 1, "visa-jax train: No space left on device"),
        (KeyboardInterrupt("saved step 3"), 130, "visa-jax train: interrupted: saved step 3"),
        (UsageError("--grid: what?"), 2, "visa-jax train: --grid: what?"),
    ],
)
def test_failures_become_one_line_and_a_code(error, code, message, command, config_file, capsys):
    def body(values, positional):
        raise error

    command(body)
    found, text = outcome(capsys, "train", f"--config={config_file}")
    assert found == code and text.endswith(message)
    with pytest.raises(type(error)):
        cli.run(["train", f"--config={config_file}", "--traceback"])


def test_faults_of_ours_keep_their_traceback(command, config_file):
    command(lambda values, positional: {}["bug"])
    with pytest.raises(KeyError):
        cli.run(["train", f"--config={config_file}"])


def test_positional_arguments_only_where_they_are_wanted(command, config_file):
    seen = []
    command(lambda values, positional: seen.append((positional, values.json)), POSITIONAL="RUN...")
    assert cli.run(["train", "runs/a", f"--config={config_file}", "runs/b", "--json"]) == 0
    assert seen == [(["runs/a", "runs/b"], True)]


def test_exit_code_of_a_command_is_passed_on(command, config_file):
    command(lambda values, positional: 3)
    assert cli.run(["train", f"--config={config_file}"]) == 3


def test_commands_without_config_parse_their_flags():
    values = flags.FlagValues()
    define_workdir(values, "help")
    assert parse(values, "evaluate", ["--workdir=runs/a", "x"]) == ["x"]
    assert values.workdir == "runs/a"


def test_installed_configs_are_found_from_anywhere(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("visa_jax.cli.flags.installed_configs", lambda: root / "configs")
    assert find_config_file("configs/common.py") == root / "configs" / "common.py"
    assert find_config_file("common") == root / "configs" / "common.py"
    with pytest.raises(UsageError, match="no such file"):
        find_config_file("elsewhere/common.py")
    # a file of the user's own comes first
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "common.py").write_text("")
    assert find_config_file("configs/common.py").resolve() == tmp_path / "configs" / "common.py"


def test_help_imports_no_jax(root):
    program = (
        "import sys; from visa_jax.cli.main import run; code = run(['--help']);"
        "sys.exit(code or ('jax' in sys.modules) or ('orbax' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True)


LOOP = """
import signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
from visa_jax.cli import main
from visa_jax.training.progress import graceful_stop

module = types.ModuleType("visa_jax.cli.train")
def body(values, positional):
    if "plain" in positional:
        print("ready", flush=True)
        time.sleep(60)
    with graceful_stop() as stop:
        print("ready", flush=True)
        for step in range(6000):
            time.sleep(0.01)
            if stop:
                stop.finish(f"saved step {step}")
module.main, module.define_flags, module.POSITIONAL = body, lambda values: None, ""
sys.modules["visa_jax.cli.train"] = module
sys.exit(main.run(["train", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("mode", ["plain", "graceful"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_real_process_with_its_code_and_without_traceback(mode, signum, root):
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, mode],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signum)
    _, error = process.communicate(timeout=30)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 75}[signum]
    assert "Traceback" not in error
    last = error.strip().splitlines()[-1]
    assert last.startswith("visa-jax train: interrupted: saved step" if mode == "graceful" else "visa-jax train: int")


def test_reader_that_goes_away_causes_no_noise(root):
    program = (
        "import sys; from visa_jax.cli import main; main.overview = lambda: 'x' * 10**6; sys.exit(main.run(['-h']))"
    )
    line = f'{sys.executable} -c "{program}" | head -c 5'
    done = subprocess.run(["bash", "-c", line], cwd=root, capture_output=True, text=True)
    assert done.stdout == "xxxxx" and done.stderr == ""
