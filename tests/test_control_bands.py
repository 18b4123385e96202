"""Bands of controls in draws: the median, the range and a method's rank, counted; in the tables and figures that show
them.
"""

from __future__ import annotations

import numpy as np
import pytest

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.comparison import Comparison, compare
from lens_steer.evaluation.conditions import (
    ALL,
    NONE,
    RANDOM_PLANE,
    SHUFFLED,
)
from lens_steer.evaluation.control_bands import band, bands, ranges
from lens_steer.evaluation.control_runs import Beside
from lens_steer.evaluation.controls import (
    IDENTITY_SETTING,
)
from lens_steer.evaluation.protocol import Evaluation
from lens_steer.evaluation.published_direction import PublishedDirection
from lens_steer.evaluation.selection import Choice, Setting
from lens_steer.figures.sweeps import by_value, coherence, polar
from lens_steer.reports.comparison_text import latex, markdown
from lens_steer.stats.estimates import Estimate


def _setting(
    condition: str, value: float | None, variant: str = "", split: str = "report", **measured: float
) -> Setting:
    return Setting(
        condition, variant, value, split, {k: Estimate(float(v), v - 0.1, v + 0.1, 8) for k, v in measured.items()}
    )


def test_bands_by_counting() -> None:
    """Median, ends and quantiles, and the add-one rank counted draw by draw, ties on both sides."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 10, 31):
        draws = (rng.integers(0, 5, n) / 4).tolist()
        for value in (0.0, 0.5, 1.0):
            found = band(draws, value)
            assert (found.n, found.minimum, found.maximum) == (n, min(draws), max(draws))
            assert found.p_at_least == (1 + len([d for d in draws if d >= value])) / (1 + n)
            assert found.p_at_most == (1 + len([d for d in draws if d <= value])) / (1 + n)
            ordered = sorted(draws)
            assert found.median == pytest.approx((ordered[(n - 1) // 2] + ordered[n // 2]) / 2)
            for q, got in ((0.025, found.low), (0.975, found.high)):  # linear between the two neighbours in order
                at = q * (n - 1)
                below, above = ordered[int(at)], ordered[min(int(at) + 1, n - 1)]
                assert got == pytest.approx(below + (at - int(at)) * (above - below))
    with pytest.raises(LensSteerError, match="draws is empty: a band needs at least one"):
        band([], 1.0)
    assert band([0.0] * 10, 1.0).p_at_least == pytest.approx(1 / 11)


def test_bands_of_a_setting() -> None:
    """By quantity and control, over its draws alone; a quantity that a draw lacks is counted without it."""
    method = _setting("selective", 120.0, positive_right=0.8, negative_right=0.5)
    drawn = [_setting(RANDOM_PLANE, 120.0, f"draw {k + 1}", positive_right=k / 10) for k in range(3)]
    once = [_setting(ALL, 120.0, positive_right=1.0), _setting(IDENTITY_SETTING, 0.0, positive_right=0.0)]
    found = bands(method, [*drawn, *once, _setting(SHUFFLED, 120.0, "draw 1", negative_right=0.5)])
    assert {q: set(by) for q, by in found.items()} == {"positive_right": {RANDOM_PLANE}, "negative_right": {SHUFFLED}}
    assert (found["positive_right"][RANDOM_PLANE].maximum, found["positive_right"][RANDOM_PLANE].p_at_least) == (
        0.2,
        0.25,
    )
    assert ranges(drawn, "positive_right") == {(RANDOM_PLANE, 120.0): (pytest.approx(0.1), 0.0, 0.2, 3)}


def test_a_comparisons_bands_stand_below_its_reference() -> None:
    """A row a control with its draws' median and range and the reference's rank, and what that is in the legend;
    without draws the same table and a word that there were none.
    """
    report = (
        _setting(NONE, None, positive_right=0.1),
        _setting("selective", 120.0, positive_right=0.8, perplexity_ref=1.5),
        _setting("ablation", None, positive_right=0.9),
    )
    drawn = tuple(
        _setting(RANDOM_PLANE, 120.0, f"draw {k + 1}", positive_right=k / 10, perplexity_ref=2.0 + k) for k in range(3)
    )

    def made(beside: Beside) -> Comparison:
        choices = {s.condition: Choice(s.condition, "", s.value, True, 1, 1, 1) for s in report}
        found = object.__new__(Comparison)  # with what the table reads alone
        vars(found).update(
            evaluation=Evaluation(report, choices, report, ()),
            published=PublishedDirection(),
            refine=0,
            options={"methods": []},
            differences={},
            graded=True,
            constraints=(),
            objective="positive_right",
            n_compared=2,
            beside=beside,
        )
        return found

    with_draws, without = made(Beside(None, drawn)), made(Beside())
    lines, plain = (markdown(found).splitlines() for found in (with_draws, without))
    cells = ("selective: random plane", "3 draws", "—", "10 (0 to 20)", "—", "—", "—", "3.00 (2.00 to 4.00)", "—", "—")
    assert lines[4] == f"| {' | '.join(cells)} | rank 0.25 |"
    assert [line for line in lines if " draws |" not in line][:-1] == plain[:-1]
    assert "Rows of draws" in lines[-1] and "No controls" not in lines[-1]
    assert plain[-1].endswith(
        "No controls were run in draws: how far chance alone comes beside `selective` is not known."
    )
    assert latex(with_draws).count(r" \\") == latex(without).count(r" \\") + 1
    with pytest.raises(LensSteerError, match="draws=-1: give a number of at least 0"):
        compare(None, ls.load_contrast("organism/refusal").first(select=1, report=1), "nowhere", draws=-1)


def test_figures_draw_the_band() -> None:
    """A control's median and range with the number of draws in the legend, in both figures; without controls the title
    says so.
    """
    import matplotlib.pyplot as plt

    select = [_setting(NONE, None, split="select", positive_right=0.1, n_words=9)]
    select += [
        _setting("selective", a, split="select", positive_right=a / 400, n_words=a / 10)
        for a in (0.0, 90.0, 180.0, 270.0)
    ]
    drawn = [
        _setting(RANDOM_PLANE, a, f"draw {k}", "select", positive_right=k / 10, n_words=k)
        for k in range(5)
        for a in (45.0, 225.0)
    ]
    for kind, draw, quantity, ends in (
        ("polar", polar, "positive_right", (0.2, 0.0, 0.4)),
        ("coherence", coherence, "n_words", (2.0, 0.0, 4.0)),
    ):
        drawing = by_value(kind, select, ["selective"], [quantity], controls=drawn)
        part = drawing.where(condition=RANDOM_PLANE, value=45.0)
        assert (part["mean"][0], part["low"][0], part["high"][0]) == pytest.approx(ends)
        fig, _ = draw(drawing)
        (legend,) = fig.legends
        assert f"{RANDOM_PLANE} (median and range of 5 draws)" in [t.get_text() for t in legend.get_texts()]
        plt.close(fig)
    fig, _ = polar(by_value("polar", select, ["selective"], ["positive_right"], told="no controls were run"))
    assert fig.legends[0].get_title().get_text() == "select split; no controls were run"
    plt.close(fig)
