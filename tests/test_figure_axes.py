"""Every figure function draws into axes that it is given, what it would draw by itself; and a figure's numbers come
back from disk as they were.
"""

from __future__ import annotations

import inspect
import io
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.legend import Legend

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.figures import divergence, saving
from lens_steer.figures.core import GREEN, Drawing, banded
from lens_steer.figures.direction_scores import direction_scores_drawing
from lens_steer.geometry.selected_direction import CandidateScore, DirectionBounds, SelectedDirection
from lens_steer.metrics.token_divergence import TokenDivergence
from tests.made import origin

FIGURES = Path(__file__).parents[1] / "figures"


def made_up() -> dict[str, Drawing]:
    """Of the kinds that no committed figure has."""
    row, position = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)
    values = [np.linspace(0.1, 1, 12)] * 7
    found = TokenDivergence(row, position, ("a",) * 12, position, *values, n_prompts=3, n_empty=0)
    turned = {
        "part": ["positive mean", "not steered", "arriving", "steered"],
        "x": [1.0, 2.0, 1.5, -1.5],
        "y": [0.1, 1.0, 1.0, -1.0],
    }
    notes = {"site": "blocks.1.ln2.hook_out", "method": "selective", "angle": 180.0}
    fields = {name: value for name, value in origin().items() if name != "pooling"}
    scores = [CandidateScore(p, b, 3.0 - b, b - 1.0, 0.05 * b) for p in (-2, -1) for b in range(4)]
    chosen = SelectedDirection(
        **fields, direction=torch.ones(4), block=2, position=-1, refusal_score=1.0, induce_score=1.0, kl=0.1,
        baseline_refusal_score=3.0, baseline_induce_score=-2.0, refusal_tokens=(1,), bounds=DirectionBounds(),
        scores=tuple(scores), n_positive=4, n_negative=4, n_select_positive=2, n_select_negative=2,
    )  # fmt: skip
    sets = [("paper", 5, 0), ("effect", 3, 0), ("effect", 6, 0), *(("random", n, d) for n in (3, 6) for d in (1, 2))]
    frontier = [
        {"rule": rule, "n": n, "draw": draw, "budget": b, "angle": 90.0, "effect": n * b + draw, "cost": b}
        | {"effect_low": n * b + draw - 0.5, "effect_high": n * b + draw + 1}
        for rule, n, draw in sets
        for b in (0.1, 0.2)
    ]
    frontier[-1] |= dict.fromkeys(("angle", "effect", "effect_low", "effect_high", "cost"))
    ends = (("", 0.5), ("_low", 0.4), ("_high", 0.7))
    outcomes = [
        {"label": label}
        | {f"{k}{e}": v if known else None for k in ("answered", "over_refused", "capable") for e, v in ends}
        for label, known in (("no steering", True), ("all at 90°", True), ("middle half: no effect", False))
    ]
    kinds = (("no steering", "none"), ("selective", "selective"), ("random plane", "random"), ("ablation", "control"))
    turns = [
        {"condition": name, "line": line, "quantity": quantity, "turn": turn, "value": 0.5, "low": 0.4, "high": 0.6}
        for name, line in kinds
        for quantity in ("fall", "kl", "broken", "repeated")
        for turn in ((1, 4) if quantity in ("fall", "kl") else (1, 2, 3, 4))
        if line != "none" or quantity in ("broken", "repeated")
    ]
    return {
        "conversation_turns": Drawing.of("conversation_turns", turns, {"n": 8, "angle": 90.0, "budget": 0.1}),
        "site_frontier": Drawing.of("site_frontier", frontier, {"n": 8}),
        "site_outcomes": Drawing.of("site_outcomes", outcomes, {"budget": 0.1}),
        "direction_scores": direction_scores_drawing(chosen),
        "kl_by_position": divergence.drawing({"selective": found, "standard": found}),
        "turned_in_plane": Drawing("turned_in_plane", turned, notes),
    }


def kinds() -> dict[str, Drawing]:
    """One drawing a kind: the first committed figure of it."""
    found: dict[str, Drawing] = made_up()
    for path in sorted(FIGURES.rglob("*.json")):
        if (
            path.with_suffix(".csv").exists()
            and "kind" in (record := json.loads(path.read_text(encoding="utf-8")))
            and record["kind"] not in found
        ):
            found[record["kind"]] = saving.load(path.parent, path.stem)[0]
    return found


DRAWINGS = kinds()


@pytest.fixture(autouse=True)
def closed() -> Any:
    yield
    plt.close("all")


def content(axis: Any) -> dict[str, Any]:
    """What is drawn in axes, without where they stand and without a legend."""
    lines = [
        [np.ma.filled(np.ma.asarray(v, dtype=float), np.nan).tolist() for v in line.get_data()]
        for line in axis.get_lines()
    ]
    labels = [axis.get_xlabel(), axis.get_ylabel(), axis.get_title(), axis.get_xscale(), axis.get_yscale()]
    shapes = (len(axis.collections), len(axis.patches), len(axis.images))
    return {"lines": lines, "labels": labels, "shapes": shapes, "view": [*axis.get_xlim(), *axis.get_ylim()]}


def test_every_kind_is_here() -> None:
    """No figure function is left out of these tests."""
    assert sorted(DRAWINGS) == sorted(saving.kinds())


@pytest.mark.parametrize("kind", sorted(DRAWINGS))
def test_given_axes(kind: str) -> None:
    """``ax=`` takes as many axes as the figure has panels, draws the same there and nowhere else, and the figure comes
    back with them.
    """
    assert list(inspect.signature(saving.kinds()[kind]).parameters) == ["drawing", "ax"]
    drawing = DRAWINGS[kind]
    own, panels = ls.draw(drawing)
    assert own is panels[0].figure
    polar: dict[str, Any] = {"projection": "polar"} if panels[0].name == "polar" else {}
    fig, grid = plt.subplots(2, len(panels) + 1, subplot_kw=polar)
    target, others = list(grid[0][: len(panels)]), [*grid[0][len(panels) :], *grid[1]]
    before = [content(a) for a in others]
    drawn, axes = ls.draw(drawing, ax=target[0] if len(panels) == 1 else np.array(target))
    assert drawn is fig
    assert all(a is b for a, b in zip(axes, target, strict=True))
    for got, want in zip([content(a) for a in axes], [content(a) for a in panels], strict=True):
        lines, wanted = got.pop("lines"), want.pop("lines")
        assert np.allclose(got.pop("view"), want.pop("view"), rtol=1e-9)
        assert got == want
        for a, b in zip(lines, wanted, strict=True):
            assert np.array_equal(a[0], b[0], equal_nan=True)
            assert np.array_equal(a[1], b[1], equal_nan=True)
    assert not fig.legends
    assert [content(a) for a in others] == before
    there = {text.get_text() for a in axes for legend in a.findobj(Legend) for text in legend.get_texts()}
    assert {text.get_text() for legend in own.legends for text in legend.get_texts()} <= there
    fig.canvas.draw()


@pytest.mark.parametrize("kind", ["mean_cosine", "method_dots", "polar", "norm_change"])
def test_other_axes_are_refused(kind: str) -> None:
    """Too few or too many, of another projection, no axes at all: said with what to give."""
    n = len(ls.draw(DRAWINGS[kind])[1])
    polar = kind == "polar"
    more = ", subplot_kw={'projection': 'polar'}" if polar else ""
    projection: dict[str, Any] = {"projection": "polar"} if polar else {}
    other: dict[str, Any] = {} if polar else {"projection": "polar"}
    for wrong in (
        plt.subplots(1, n + 1, subplot_kw=projection)[1],
        plt.subplots(1, n, subplot_kw=other)[1],
        [plt.figure()] * n,
        [],
    ):
        with pytest.raises(
            LensSteerError,
            match=(
                rf"this figure has {n} panels \(\d × \d\); give as many axes, such as plt.subplots\(\d, "
                rf"\d{more}\)\[1\]"
            ),
        ):
            ls.draw(DRAWINGS[kind], ax=wrong)


def test_shared_axes_stay_shared() -> None:
    """Panels that share an axis in a figure of their own do so in given axes, with labels at the left alone; axes that
    share theirs with others are refused.
    """
    drawing = DRAWINGS["method_dots"]
    _, own = ls.draw(drawing)
    fig, grid = plt.subplots(2, len(own))
    _, axes = ls.draw(drawing, ax=grid[1])
    assert axes[0].yaxis_inverted()
    assert all(a.get_ylim() == axes[0].get_ylim() for a in axes)
    fig.canvas.draw()
    shown = [[t for t in a.get_yticklabels() if t.get_visible() and t.get_text()] for a in axes]
    assert shown[0]
    assert not any(shown[1:])
    fig, grid = plt.subplots(1, len(own), sharey=True)
    ls.draw(drawing, ax=grid)
    fig, (above, below) = plt.subplots(2, len(own))
    below[1].sharey(above[0])
    with pytest.raises(LensSteerError, match="share their y axis with other axes"):
        ls.draw(drawing, ax=below)


def test_a_legend_that_is_there_stays() -> None:
    """What the caller put into the axes is not taken away."""
    _, axis = plt.subplots()
    axis.plot([0, 1], [0, 1], label="mine")
    mine = axis.legend()
    ls.draw(DRAWINGS["mean_cosine"], ax=axis)
    assert mine in axis.get_children()
    assert axis.get_legend() is not mine


@pytest.mark.parametrize(
    "kind", ["plane_path", "outcomes_by_angle", "probe_depth", "selection_stability", "kl_by_position"]
)
def test_legends_cover_nothing(kind: str) -> None:
    """In a figure whose layout is constrained, legends lie outside of every panel, within the figure, and apart from
    each other.
    """
    n = len(ls.draw(DRAWINGS[kind])[1])
    fig, grid = plt.subplots(1, n, figsize=(4 * n + 3, 4), layout="constrained", squeeze=False)
    _, axes = ls.draw(DRAWINGS[kind], ax=grid)
    fig.canvas.draw()
    legends = [legend.get_window_extent() for a in axes for legend in a.findobj(Legend)]
    assert legends
    for i, box in enumerate(legends):
        assert fig.bbox.x0 <= box.x0 <= box.x1 <= fig.bbox.x1
        assert fig.bbox.y0 <= box.y0 <= box.y1 <= fig.bbox.y1
        assert not any(box.overlaps(a.get_window_extent()) for a in fig.axes)
        assert not any(box.overlaps(other) for other in legends[:i])


def test_an_unknown_kind() -> None:
    """The message lists what exists."""
    with pytest.raises(LensSteerError, match="figure kind 'pie' is unknown: known are .*polar"):
        ls.draw(Drawing("pie", {}))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.text(alphabet=st.sampled_from('ab,"\r\n ü;\t'), min_size=1, max_size=6).map(lambda t: f"x{t}x"),
        min_size=1,
        max_size=5,
    )
)
def test_texts_come_back(texts: list[str]) -> None:
    """Whatever line ends, quotes and commas a text holds, the ``.csv`` gives it back, in as many rows; other rows are
    written as ever.
    """
    import csv

    text = saving.csv_text([["text", "n"], *([t, i] for i, t in enumerate(texts))])
    again = list(csv.reader(io.StringIO(text, newline="")))
    assert again == [["text", "n"], *([t, str(i)] for i, t in enumerate(texts))]
    plain = io.StringIO()
    csv.writer(plain, lineterminator="\n").writerows([["text", "n"], *([t, i] for i, t in enumerate(texts))])
    assert ("\r" in plain.getvalue()) or plain.getvalue() == text


def test_a_carriage_return_survives_a_figure_on_disk(tmp_path: Path) -> None:
    """A label with a carriage return, saved and loaded: the same rows, none more."""
    drawing = DRAWINGS["mean_cosine"]
    names = [f"{name}\rnext" for name in drawing.columns["site"]]
    kept = drawing.notes["selected_site"]
    odd = Drawing(drawing.kind, {**drawing.columns, "site": names}, {**drawing.notes, "selected_site": f"{kept}\rnext"})
    saving.save(odd, "odd", tmp_path, {})
    again, _ = saving.load(tmp_path, "odd")
    assert list(again.columns["site"]) == names
    assert len(again.rows()) == len(drawing.rows())
    assert list(again.columns["mean_cosine"]) == list(drawing.columns["mean_cosine"])


def test_rows_become_columns_and_numbers() -> None:
    """A drawing of rows gives the rows back; a column of a part comes as numbers; what is no number is refused."""
    rows: list[dict[str, Any]] = [{"value": 10 * i, "mean": i / 4, "side": "ab"[i % 2]} for i in range(4)]
    drawing = Drawing.of("polar", rows, {"n": 4})
    assert (drawing.rows(), drawing.notes, Drawing.of("polar", []).columns) == (rows, {"n": 4}, {})
    assert list(drawing.numbers("mean", "value", side="b")) == [[0.25, 0.75], [10.0, 30.0]]
    with pytest.raises(ValueError, match="could not convert string to float: 'a'"):
        list(drawing.numbers("side", side="a"))


def test_a_band_lies_around_its_curve() -> None:
    """The line has the curve's points and look, the area the ends of the interval and no edge; one point has a bar."""
    fig, axis = plt.subplots()
    line = banded(axis, [0, 1, 2], [1.0, 2.0, 3.0], [0.5, 1.0, 2.5], [1.5, 4.0, 3.5], color=GREEN, alpha=0.3, ls="--")
    assert np.asarray(line.get_xydata()).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert (line.get_color(), line.get_linestyle()) == (GREEN, "--")
    area: Any = axis.collections[0]
    corners = {tuple(point) for point in np.asarray(area.get_paths()[0].vertices).tolist()}
    assert corners == {(0, 0.5), (1, 1.0), (2, 2.5), (0, 1.5), (1, 4.0), (2, 3.5)}
    assert (area.get_alpha(), area.get_linewidth().tolist()) == (0.3, [0])
    banded(axis, [5], [1.0], [0.5], [1.5], color=GREEN)
    bar: Any = axis.collections[-1]
    assert bar.get_segments()[0].tolist() == [[5, 0.5], [5, 1.5]]
    plt.close(fig)
