"""Metrics on disk survive interruption; progress and budgets are measured with a clock of the test's own."""

import io
import json
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.config import UserError
from visa_jax.training.metrics import MetricsWriter, check_finite, read_metrics, series
from visa_jax.training.progress import Progress, duration, graceful_stop


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_written_is_read_back(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"loss": jnp.float32(0.5), "rewards/jsr/mean": np.array([0.25]), "reward": 2})
        writer.write(2, {"loss": math.nan})
    rows = read_metrics(tmp_path)
    assert rows[0] == {"step": 1, "loss": 0.5, "rewards/jsr/mean": 0.25, "reward": 2.0}
    assert math.isnan(rows[1]["loss"])
    # strict JSON: other programs read these lines as well
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[1], parse_constant=pytest.fail) == {"step": 2, "loss": None}
    steps, values = series(rows, "loss")
    assert steps.tolist() == [1, 2] and values[0] == 0.5
    assert series(rows, "reward")[0].tolist() == [1]


def test_resumed_run_writes_no_step_twice_and_a_new_one_starts_empty(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": float(step)})
            writer.write_samples(step, [{"text": f"ä {step}"}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    assert len(read_metrics(tmp_path)) == 3
    with MetricsWriter(tmp_path, resume_step=2, tensorboard=False) as writer:
        writer.write(3, {"loss": 30.0})
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 2.0, 30.0]
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert samples == [{"step": 1, "text": "ä 1"}, {"step": 2, "text": "ä 2"}]
    MetricsWriter(tmp_path, tensorboard=False).close()
    assert read_metrics(tmp_path) == []


def test_tensorboard_gets_every_number(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    with MetricsWriter(tmp_path) as writer:
        writer.write(7, {"rewards/jsr/mean": 0.75})
    (file,) = (tmp_path / "tensorboard").iterdir()
    found, data = [], file.read_bytes()
    while data:
        size = int.from_bytes(data[:8], "little")  # record: length, its checksum (4), body, its checksum (4)
        event = Event.FromString(data[12 : 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[12 + size + 4 :]
    assert found == [(7, "rewards/jsr/mean", 0.75)]


def test_missing_metrics_and_wrong_shapes_are_named(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl: no metrics"):
        read_metrics(tmp_path)
    with MetricsWriter(tmp_path, tensorboard=False) as writer, pytest.raises(ValueError, match=r"metric kl: .*\(3,\)"):
        writer.write(1, {"kl": jnp.zeros(3)})


def test_nan_stops_the_run_with_the_step_named():
    check_finite(17, {"loss": 0.0, "rewards/jsr/mean": math.nan})
    with pytest.raises(UserError, match="^loss is NaN at step 17$"):
        check_finite(17, {"loss": jnp.nan})
    with pytest.raises(UserError, match="^grad_norm is infinite at step 3$"):
        check_finite(3, {"loss": 0.0, "grad_norm": -math.inf})


def test_compilations_are_counted_by_name(compiles):
    double = jax.jit(lambda x: x * 2)
    short, long = jnp.zeros(3), jnp.zeros(4)
    compiles.reset()
    double(short)
    double(short)
    assert compiles.count == 1
    double(long)
    assert compiles.names == ["jit(<lambda>)"] * 2


def test_time_left_leaves_out_the_first_step():
    clock, stream = Clock(), io.StringIO()
    progress = Progress("visa", 100, stream=stream, clock=clock)
    clock.now += 50  # compilation
    progress.update(1)
    assert progress.seconds_left(1) is None
    clock.now += 9 * 2.0
    progress.update(10, loss=0.125)
    # 9 steps took 18 s, so 90 more take 180 s; counting the first step would say 612 s.
    assert progress.seconds_left(10) == 180.0
    assert stream.getvalue().splitlines() == ["visa  1/100", "visa  10/100  loss 0.125  3m00s left"]


def test_lines_come_every_interval_and_at_the_end():
    clock, stream = Clock(), io.StringIO()
    with Progress("moc", 30, stream=stream, interval=10, clock=clock) as progress:
        for step in range(1, 31):
            clock.now += 1
            progress.update(step)
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["10/30", "20/30", "30/30"]
    assert stream.getvalue().splitlines()[-1] == "moc  30/30  done in 30s"


def test_resumed_progress_measures_only_its_own_steps():
    clock = Clock()
    progress = Progress("moc", 110, stream=io.StringIO(), clock=clock)
    clock.now += 5
    progress.update(101)
    clock.now += 3
    progress.update(102)
    assert progress.seconds_left(102) == 8 * 3.0


def test_on_a_terminal_the_line_stays_in_place():
    clock, stream = Clock(), Terminal()
    with Progress("visa", 2, stream=stream, clock=clock) as progress:
        for step in (1, 2):
            clock.now += 1
            progress.update(step)
    assert stream.getvalue() == "\rvisa  [#####.....]  1/2\rvisa  [##########]  2/2  done in 2s\n"


def test_first_ctrl_c_asks_and_second_one_stops(capsys):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), graceful_stop() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGINT)
        assert stop and stop.signum == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
    assert "stopping after this step" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt, match="saved step 3"), graceful_stop() as stop:
        stop.finish("saved step 3")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (125, "2m05s"), (3725, "1h02m")])
def test_duration(seconds, text):
    assert duration(seconds) == text
