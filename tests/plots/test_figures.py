"""Figures: what is drawn is what was given, read back from the axes."""

import subprocess
import sys

import numpy as np
import pytest

from visa_jax.plots import draw_figures, figure_svg
from visa_jax.plots.control import bin_means, draw_preference_control, draw_target_control, target_pairs
from visa_jax.plots.curves import draw_curves, smooth
from visa_jax.plots.figures import make_figures
from visa_jax.plots.pareto import draw_pareto
from visa_jax.plots.points import gather, objective_names
from visa_jax.plots.retention import draw_bins
from visa_jax.plots.style import PALETTE, Look, assign_looks, make_panels
from visa_jax.plots.truth import draw_calibration, draw_truth_methods, draw_truth_points

LOOK = Look(PALETTE[0], "o")


def point(p, reward, **more):
    return {"preference": [p, 1 - p], "oracle": reward, "unseen": False} | more


def lines(panel):
    """All drawn lines as lists of (x, y)."""
    return [np.column_stack(line.get_data()).tolist() for line in panel.get_lines()]


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_a_method_keeps_its_colour_and_no_two_share_one():
    looks = assign_looks(["linear_ppo", "moc", "fixed_half", "something_new", "another"])
    assert len({look.color for look in looks.values()}) == 5
    assert looks["moc"] == assign_looks(["moc"])["moc"] == assign_looks(["x", "moc", "y"])["moc"]
    variants = assign_looks(["moc · a", "moc · b", "moc"])
    assert variants["moc"].color == PALETTE[0] and len({look.color for look in variants.values()}) == 3
    assert len(assign_looks([f"m{i}" for i in range(20)])) == 20


def test_gather_averages_runs_of_one_preference():
    points = [point(0.5, [1.0, 0.0]), point(0.1, [0.0, 4.0]), point(0.5, [3.0, 1.0])]
    cloud = gather(points, "oracle")
    assert cloud.preference_SM[:, 0].tolist() == [0.1, 0.5]
    assert cloud.mean_SK.tolist() == [[0.0, 4.0], [2.0, 0.5]]  # (1 + 3) / 2, (0 + 1) / 2
    assert cloud.sd_SK[0].tolist() == [0.0, 0.0] and cloud.sd_SK[1, 0] == pytest.approx(np.sqrt(2))
    assert cloud.all_PK.shape == (3, 2)
    assert gather(points, "learned") is None and gather(points, "oracle", unseen=True) is None


def test_smoothing_keeps_level_and_ignores_nan():
    np.testing.assert_allclose(smooth(np.full(50, 3.0)), 3.0)  # the ends do not sink
    values = np.array([1.0, np.nan, 3.0, 5.0])
    np.testing.assert_allclose(smooth(values), [1.0, 2.0, 4.0, 4.0])  # window of three: 1|1,3|3,5|3,5


def test_pareto_draws_points_front_and_reference():
    section = {
        "objectives": ["helpful", "warm"],
        "reference_point": [0.1, 0.2],
        "front": [[1.0, 0.0], [0.0, 1.0]],
        "points": {"moc": [point(1.0, [0.9, 0.1]), point(0.0, [0.1, 0.8]), point(0.5, [0.5, 0.5], unseen=True)]},
    }
    figure = draw_pareto(section, {"moc": "MOC"})
    (panel,) = figure.axes
    drawn = lines(panel)
    assert [[0.0, 1.0], [1.0, 0.0]] in drawn  # the front, in order of the first objective
    assert [[0.1, 0.8], [0.9, 0.1]] in drawn  # seen points, in order of the first preference
    assert [[0.5, 0.5]] in drawn and [[0.1, 0.2]] in drawn
    assert panel.get_xlabel().startswith("helpful") and panel.get_ylabel().startswith("warm")
    assert legend_texts(figure) == ["MOC", "known front", "unseen preference", "reference point"]


def test_pareto_of_three_objectives_has_three_pairs():
    points = [
        {"preference": [1, 0, 0], "oracle": [1.0, 2.0, 3.0]},
        {"preference": [0, 1, 0], "oracle": [4.0, 5.0, 6.0]},
    ]
    figure = draw_pareto({"points": {"moc": points}, "front": [[4, 5, 6]]}, {})
    assert len(figure.axes) == 3
    assert [[6.0, 5.0], [3.0, 2.0]] not in lines(figure.axes[2])
    assert [[5.0, 6.0], [2.0, 3.0]] in lines(figure.axes[2])  # p_1 = 0 comes first
    assert "objective 2" in figure.axes[2].get_xlabel()


def test_preference_control_pairs_p_with_its_own_reward():
    points = [point(0.2, [9, 9], scaled=[0.3, 0.7]), point(0.9, [9, 9], scaled=[0.8, 0.1])]
    figure = draw_preference_control({"points": {"moc": points}}, {})
    first, second = figure.axes
    assert [[0.2, 0.3], [0.9, 0.8]] in lines(first)
    np.testing.assert_allclose([xy for xy in lines(second) if len(xy) == 2][0], [[0.1, 0.1], [0.8, 0.7]])
    assert legend_texts(figure)[-1] == "obtained = asked"


def test_raw_rewards_have_no_diagonal():
    figure = draw_preference_control({"points": {"moc": [point(0.2, [5.0, 7.0])]}}, {})
    assert [[0.2, 5.0]] in lines(figure.axes[0])
    assert "obtained = asked" not in legend_texts(figure)


def test_targets_are_paired_by_name_or_by_place():
    by_name = [{"target": {"Power": 0.5, "Hedonism": -1}, "oracle": {"Hedonism": -0.8, "Power": 0.4, "Security": 1}}]
    assert target_pairs(by_name, "oracle").tolist() == [[0.5, 0.4], [-1.0, -0.8]]
    by_place = [{"target": [0.5, 0.0], "detected": [0.25, float("nan")]}]
    assert target_pairs(by_place, "detected").tolist() == [[0.5, 0.25]]
    with pytest.raises(ValueError):
        target_pairs([{"target": [1, 2], "oracle": [1]}], "oracle")


def test_bins_of_the_target_hold_their_mean():
    center, mean, low, high = bin_means(np.array([0.5, 0.5, -1.0]), np.array([0.2, 0.6, -0.9]))
    np.testing.assert_allclose(center, [-1.0, 0.5])
    np.testing.assert_allclose(mean, [-0.9, 0.4])
    np.testing.assert_allclose([low[1], high[1]], [0.24, 0.56])  # 10 % and 90 % between 0.2 and 0.6


def test_target_control_prefers_the_oracle():
    points = {
        "visa": [{"target": [1.0], "detected": [0.1], "oracle": [0.9]}],
        "sft": [{"target": [1.0], "detected": [0.3]}],
    }
    figure = draw_target_control(points, {})
    assert [panel.get_ylabel() for panel in figure.axes] == ["by the oracle", "by the detector"]
    assert [[1.0, 0.9]] in lines(figure.axes[0]) and [[1.0, 0.3]] in lines(figure.axes[1])


def test_curves_show_each_quantity_once_with_the_oracle_beside():
    track = [
        {"step": s, "reward": s, "rewards/helpful/mean": 2 * s, "rewards/warm/mean": 1, "rewards/warm/std": 7, "kl": s}
        | ({"oracle/helpful": -1.0} if s == 2 else {})
        for s in range(4)
    ]
    figure = draw_curves([track], LOOK)
    panels = {panel.get_title("left"): panel for panel in figure.axes}
    assert list(panels) == ["reward", "rewards by objective", "KL to the reference"]
    drawn = lines(panels["rewards by objective"])
    assert [[s, 2.0 * s] for s in range(4)] in drawn and [[2.0, -1.0]] in drawn
    assert not any(y == 7 for line in drawn for _, y in line)  # a deviation is no mean
    assert draw_curves([[{"step": 0, "reward": 1.0}]], LOOK) is None  # one point is no curve
    assert draw_curves([track[:0]], LOOK) is None


def test_truth_has_the_oracle_on_the_horizontal_axis():
    section = {"points": {"moc": [point(0.5, [0.2, 0.4], learned=[0.9, 0.3])]}}
    figure = draw_truth_points(section, {})
    assert [[0.2, 0.9]] in lines(figure.axes[0]) and [[0.4, 0.3]] in lines(figure.axes[1])
    figure = draw_truth_methods({"visa": {"consistency": [0.9, None], "oracle_consistency": [0.8, 0.1]}}, {})
    assert [[0.8, 0.9]] in lines(figure.axes[0]) and len(figure.axes) == 1


def test_bins_follow_the_order_of_the_shifts():
    rows = [{"shift": "0–1", "count": 3, "value_l2": 0.1}, {"shift": "> 1", "count": 2, "value_l2": None}]
    figure = draw_bins({"visa": rows, "sft": rows[:1]}, {})
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0–1", "> 1"]
    assert lines(figure.axes[0])[0][0] == [0.0, 0.1]


def test_nothing_is_drawn_from_nothing():
    assert make_figures({}, {}, {}, {}) == {}
    assert draw_calibration({"detector": None}, {}) is None and draw_bins({"visa": []}, {}) is None
    assert draw_pareto({"points": {"moc": []}}, {}) is None and draw_target_control({"visa": []}, {}) is None
    with pytest.raises(ValueError, match="at least one panel"):
        make_panels(0)


def test_fishwood_objectives_have_their_names():
    points = {"moc": [{"preference": [0.5, 0.5], "reward": [10.0, 90.0], "scaled": [0.5, 0.5]}]}
    figures = make_figures({"fishwood": {"points": points}}, {}, {}, {})
    assert figures["pareto/fishwood"].axes[0].get_xlabel().startswith("fish")
    assert [panel.get_title("left") for panel in figures["control/fishwood"].axes] == ["fish", "wood"]
    assert objective_names({"objectives": ["a"]}, 2) == ["objective 1", "objective 2"]


def test_svg_is_the_same_for_the_same_data_and_asks_for_nothing():
    section = {"points": {"moc": [point(0.5, [0.2, 0.4], learned=[0.9, 0.3])]}}
    first, second = (draw_figures({"moc": section}, {}, {}, {"moc": "MOC $a_b <x>"}) for _ in range(2))
    assert first == second and set(first) == {"pareto/moc", "control/moc", "truth/points"}
    svg = first["pareto/moc"]
    assert svg.startswith("<svg") and "MOC $a_b &lt;x&gt;" in svg  # labels are text, neither markup nor mathematics
    assert 'href="http' not in svg and "url(http" not in svg and "DOCTYPE" not in svg
    figure, _ = make_panels(1)
    assert len(figure_svg(figure)) < 20_000


def test_plots_load_neither_jax_nor_pyplot():
    code = "import sys; sys.modules['jax'] = None; import visa_jax.plots; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
