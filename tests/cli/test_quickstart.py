"""The quickstart's plan: stages that wait for each other always end, and each branch keeps to its own cores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from visa_jax.cli.branches import needed_runs, only_what_is_read
from visa_jax.cli.flags import load_config_file
from visa_jax.cli.quickstart import BRANCHES, share_cores
from visa_jax.cli.train import read_config


def needs(page_name: str, argument: str) -> set[str]:
    """Names of the runs that a stage reads."""
    page = load_config_file(f"configs/{page_name}.py:{','.join(filter(None, ['tiny', argument]))}")
    if page.get("method"):
        return {Path(run).name for run in needed_runs(read_config(page).runs)}
    return {Path(page.start).name} if page.start else set()


@pytest.mark.parametrize("mode", ["", "fast", "full"])
def test_no_stage_waits_for_ever(mode):
    """Both branches run as far as they can, in turns; what is left over would be waiting for a run that never comes."""
    config = load_config_file(f"configs/quickstart.py:{mode}")
    left = {branch: list(config[branch].order) for branch in BRANCHES}
    done: set[str] = set()
    for _ in range(sum(map(len, left.values()))):
        for branch, stages in left.items():
            while stages and needs(config[branch][stages[0]].page, config[branch][stages[0]].argument) <= done:
                done.add(stages.pop(0))
    assert not any(left.values()), left
    assert {"visa", "moc", "linear_ppo", "translator"} <= done


def test_fast_does_a_twelfth_of_the_steps():
    standard, fast = (load_config_file(f"configs/quickstart.py:{mode}") for mode in ("", "fast"))
    for branch in BRANCHES:
        for stage in fast[branch].order:
            assert fast[branch][stage].steps == max(standard[branch][stage].steps // 12, 8)


def test_a_run_of_few_steps_draws_only_the_rows_that_it_reads():
    detector = load_config_file("configs/detector.py:tiny,steps=10")
    assert only_what_is_read(detector) == {"role": {"rows": 10 * detector.role.fit.batch_size}}
    detector.role.fit.steps = 10_000
    assert only_what_is_read(detector) == {"role": {"rows": detector.role.rows}}  # more steps need no more rows
    assert only_what_is_read(load_config_file("configs/visa.py:tiny,steps=9")) == {"pool": 9 * 16}
    assert only_what_is_read(load_config_file("configs/moc.py:tiny,steps=5")) == {"questions": 5 * 16}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux tells the cores of a process")
def test_branches_have_cores_of_their_own():
    ours = os.sched_getaffinity(0)
    if len(ours) < 2:
        pytest.skip("one core has nothing to share")
    children = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
    try:
        share_cores([child.pid for child in children])
        first, second = (os.sched_getaffinity(child.pid) for child in children)
        assert first | second == ours and not first & second
        share_cores([child.pid for child in children] * len(ours))  # more processes than cores: left as they are
        assert os.sched_getaffinity(children[0].pid) == first
    finally:
        for child in children:
            child.communicate(b"\n")
