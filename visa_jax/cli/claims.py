"""The claims of both papers as far as the testbed can check them, with the figures of a run beside each."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Claim(NamedTuple):
    """One claim: what is expected, the figures that decide it, and the rule."""

    claim: str
    expected: str
    figures: Callable[[Mapping], tuple[float, ...]]  # may raise KeyError where a row is missing
    shown: str
    holds: Callable[..., bool]


def _get(path: str) -> Callable[[Mapping], float]:
    def get(summary: Mapping) -> float:
        value: Any = summary
        for name in path.split("."):
            value = value[name]
        return value

    return get


def _figures(*paths: str) -> Callable[[Mapping], tuple[float, ...]]:
    return lambda summary: tuple(_get(path)(summary) for path in paths)


CLAIMS = (
    Claim(
        "VISA: GRPO is far more consistent than SFT",
        "oracle consistency at least .2 higher",
        _figures("visa.rows.visa.oracle_consistency", "visa.rows.sft.oracle_consistency"),
        "{:.2f} against {:.2f}",
        lambda ours, sft: ours >= sft + 0.2,
    ),
    Claim(
        "VISA: joint success far above SFT",
        "oracle JSR at least .3 higher",
        _figures("visa.rows.visa.oracle_jsr", "visa.rows.sft.oracle_jsr"),
        "{:.2f} against {:.2f}",
        lambda ours, sft: ours >= sft + 0.3,
    ),
    Claim(
        "VISA: the target is met while meaning is kept",
        "oracle L2 at most .4 of the copy's, consistency at least .9",
        _figures(
            "visa.rows.visa.oracle_value_l2", "visa.rows.copy.oracle_value_l2", "visa.rows.visa.oracle_consistency"
        ),
        "L2 {:.2f}, copy {:.2f}; consistency {:.2f}",
        lambda ours, copy, kept: ours <= 0.4 * copy and kept >= 0.9,
    ),
    Claim(
        "VISA: values that were not asked for hardly move",
        "mean change below .1",
        _figures("visa.rows.visa.leakage"),
        "{:.3f}",
        lambda leakage: leakage < 0.1,
    ),
    Claim(
        "MOC: rewards follow the preference",
        "tau at least .9",
        _figures("moc.rows.moc.tau"),
        "{:.2f}",
        lambda tau: tau >= 0.9,
    ),
    Claim(
        "MOC: no loss on unseen preferences",
        "tau on unseen within .05 of seen",
        _figures("moc.rows.moc.tau_unseen", "moc.rows.moc.tau"),
        "{:.2f} unseen, {:.2f} seen",
        lambda unseen, seen: unseen >= seen - 0.05,
    ),
    Claim(
        "MOC: better control than linear PPO",
        "control error at most half",
        _figures("moc.rows.moc.control_error", "moc.rows.linear_ppo.control_error"),
        "{:.3f} against {:.3f}",
        lambda ours, linear: ours <= 0.5 * linear,
    ),
    Claim(
        "MOC: higher hyper-volume than linear PPO",
        "higher (one seed; see the comparison over seeds)",
        _figures("moc.rows.moc.hypervolume", "moc.rows.linear_ppo.hypervolume"),
        "{:.3f} against {:.3f}",
        lambda ours, linear: ours > linear,
    ),
    Claim(
        "MOC: min-norm adds to fixed weights c = 1/2",
        "higher hyper-volume than the ablation (one seed)",
        _figures("moc.rows.moc.hypervolume", "moc.rows.fixed_half.hypervolume"),
        "{:.3f} against {:.3f}",
        lambda ours, fixed: ours > fixed,
    ),
    Claim(
        "FishWood: MOC follows p",
        "tau at least .95, control error at most .005",
        _figures("fishwood.rows.moc.tau", "fishwood.rows.moc.control_error"),
        "tau {:.2f}, control error {:.4f}",
        lambda tau, error: tau >= 0.95 and error <= 0.005,
    ),
)


def check_claims(summary: Mapping) -> list[dict]:
    """Every claim with its verdict; ``holds`` is None where the run has no such row."""
    checked = []
    for claim in CLAIMS:
        try:
            figures = claim.figures(summary)
        except KeyError:
            checked.append({"claim": claim.claim, "expected": claim.expected, "measured": "not run", "holds": None})
            continue
        checked.append(
            {
                "claim": claim.claim,
                "expected": claim.expected,
                "measured": claim.shown.format(*figures),
                "holds": bool(claim.holds(*figures)),
            }
        )
    return checked
