"""A command that several processes run together: how they meet, and how they end when one of them fails."""

import traceback
from collections.abc import Callable

import jax

from visa_jax.cli.main import explain
from visa_jax.config import UserError
from visa_jax.parallel import multihost


def together(command: str, call: Callable[[], int]) -> int:
    """``call()`` with the processes that the environment tells of; with one, no more than that.

    An orderly end waits for the others, which after a failure of this process alone wait for it: so it ends at once.
    """
    multihost.initialize()
    try:
        return call()
    except (UserError, OSError, KeyboardInterrupt) as error:
        if jax.process_count() > 1:
            multihost.leave(explain(command, error))
        raise
    except Exception:  # a fault of ours: its traceback
        if jax.process_count() > 1:
            traceback.print_exc()
            multihost.leave(1)
        raise
