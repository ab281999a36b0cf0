"""What a person sees of a running stage: a line with the time left; and how a stage ends early in good order."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

Clock = Callable[[], float]


class Progress:
    """`visa  [#####.....]  120/300  loss 0.021  reward 0.73  2m05s left`, in place on a terminal.

    Elsewhere (a file, CI) a line is written every `interval` seconds and at the end. The time left is the number of
    steps left times the mean duration of the steps so far, without the first one, which compiles.

    Args:
      title: name of the stage.
      total: number of the last step.
      start: steps done before (a resumed run).
      stream: default stderr, so that stdout stays for results.
      interval: seconds between lines, off a terminal.
      clock: seconds that only grow; tests pass their own.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        start: int = 0,
        stream: TextIO | None = None,
        interval: float = 10.0,
        clock: Clock = time.monotonic,
    ):
        self.title, self.total, self.interval = title, total, interval
        self._stream = sys.stderr if stream is None else stream
        self._in_place = self._stream.isatty()
        self._clock = clock
        self._begin = self._last_shown = clock()
        self._first: tuple[int, float] | None = None
        self._width = 0

    def update(self, step: int, **numbers: float) -> None:
        """Say that `step` steps are done; `numbers` are shown in the order given."""
        now = self._clock()
        if self._first is None:
            self._first = (step, now)
        due = now - self._last_shown >= (0.1 if self._in_place else self.interval)
        if due or step >= self.total:
            self._last_shown = now
            self._show(self._line(step, now, numbers))

    def close(self) -> None:
        """End the line on a terminal, so that what follows starts on its own."""
        if self._in_place and self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def seconds_left(self, step: int) -> float | None:
        """Estimate after `step` steps; None before there is a second step to measure."""
        if self._first is None or step <= self._first[0]:
            return None
        first_step, first_time = self._first
        return (self._clock() - first_time) / (step - first_step) * max(self.total - step, 0)

    def _line(self, step: int, now: float, numbers: Mapping[str, float]) -> str:
        parts = [self.title]
        if self._in_place:
            done = 10 * step // max(self.total, 1)
            parts.append(f"[{'#' * done}{'.' * (10 - done)}]")
        parts.append(f"{step}/{self.total}")
        parts += [f"{name} {number:.4g}" for name, number in numbers.items()]
        left = self.seconds_left(step)
        if step >= self.total:
            parts.append(f"done in {duration(now - self._begin)}")
        elif left is not None:
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)

    def _show(self, line: str) -> None:
        if self._in_place:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


class Preempted(KeyboardInterrupt):
    """SIGTERM: the machine is wanted back. Commands exit with 75, for which launchers start the run again."""


class StopRequest:
    """Truthy once Ctrl-C or SIGTERM came: a loop checks it between steps, saves, and calls `finish`."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __bool__(self) -> bool:
        return self.signum is not None

    def finish(self, message: str, *, preempted: bool | None = None) -> None:
        """Leave the program, saying what was saved. Commands print it and exit with 130 (Ctrl-C) or 75 (SIGTERM).

        `preempted`: which of the two it is, where another process was told; None: as this one was.
        """
        preempted = self.signum == signal.SIGTERM if preempted is None else preempted
        raise (Preempted if preempted else KeyboardInterrupt)(message)


@contextlib.contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request; the second Ctrl-C stops at once.

    Stopping at any instant could leave donated buffers half-updated and no state to save, so the step that runs is
    finished first. Outside the main thread, where Python allows no handlers, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def on_signal(signum: int, _frame: object) -> None:
        if request:
            raise KeyboardInterrupt
        request.signum = signum
        print("\nstopping after this step (Ctrl-C again: at once)", file=sys.stderr, flush=True)

    previous = {signum: signal.signal(signum, on_signal) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def duration(seconds: float) -> str:
    """`9s`, `2m05s`, `1h02m`."""
    whole = int(round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
