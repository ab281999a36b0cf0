"""Seconds by hand."""

from collections import Counter

import pytest

from visa_jax.config import UserError
from visa_jax.planning import roofline
from visa_jax.planning.hlo import Counts
from visa_jax.planning.topology import CHIPS, Chip, open_topology

CHIP = Chip("slow", hbm_bytes=100, flops=1000, hbm_rate=10, ici_rate=5)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (Counts(flops=4000, bytes=20), (4.0, "compute")),
        (Counts(flops=4000, bytes=50), (5.0, "memory")),
        (Counts(flops=4000, bytes=50, collective_bytes=Counter({"all-gather": 20, "all-reduce": 15})), (7.0, "links")),
    ],
)
def test_the_slowest_resource_decides(counts, expected):
    assert roofline.seconds(counts, CHIP) == expected


def cost(seconds, times=1, held=10):
    return roofline.Cost(held, 0, 0, 0.0, 0.0, {}, seconds, times=times)


def test_a_step():
    """2 s + 9 tokens of 0.5 s + 3.5 s; of 4 devices 8,000 FLOPs: 2 s at their peak."""
    costs = {"prefill": cost(2.0), "decode": cost(0.5, times=9), "update": cost(3.5)}
    told = roofline.step(costs, CHIP, devices=4, tokens=50, useful_flops=8000)
    assert told == {"seconds": 10.0, "tokens_per_second": 5.0, "mfu_bound": {"update": 2 / 3.5, "step": 0.2}}


def test_what_is_held_must_fit():
    assert roofline.fits({"update": cost(1.0, held=100)}, CHIP)
    assert not roofline.fits({"update": cost(1.0, held=101), "score": cost(1.0)}, CHIP)


def test_two_devices_share_a_v4_chip():
    assert CHIPS["v4"].device().flops == CHIPS["v4"].flops / 2 and CHIPS["v5e"].device() == CHIPS["v5e"]


def test_devices_of_this_host():
    assert len(open_topology("cpu:4").devices) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5x:4x4", "no 'v5x'; did you mean 'v5"),
        ("v5e", "expected v5e:4x4"),
        ("v5e:4x", "expected v5e:4x4"),
        ("cpu:512", "runs already with 4 CPU devices"),
    ],
)
def test_what_there_is_not(name, message):
    with pytest.raises(UserError, match=message):
        open_topology(name)


def test_without_libtpu_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install libtpu"):
        open_topology("v5e:4x4")
