"""The dial: what it shows is what ``generate`` gives under the plan at that angle; in a browser too, where one is at
hand.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

import lens_steer as ls
from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.metrics.grading import grade
from lens_steer.notebook import dials
from tests import lab
from tests.views import EVIL, read

pytest.importorskip("ipywidgets", reason="the dial needs ipywidgets")
PNG = b"\x89PNG\r\n\x1a\n"


class _Markup:
    """A widget's HTML, to be read as a view."""

    def __init__(self, value: str) -> None:
        self.value = value

    def _repr_html_(self) -> str:
        return self.value


@pytest.fixture
def prompt(refusal: Any) -> Prompt:
    return refusal.report.positive[1]


def plain(qwen: Any, plan: Any, prompt: Any, n: int = 48) -> str:
    with ls.steering(qwen, plan):
        return ls.generate(qwen, prompt, max_new_tokens=n)[0]


def test_turning_shows_the_answer_there(qwen: Any, calibration: Any, prompt: Prompt) -> None:
    """The slider's value decides answer, grade and picture; both answers, steered and not, stand in the table."""
    turning = ls.dial(qwen, calibration, prompt, step=30)
    base = ls.generate(qwen, prompt, max_new_tokens=48)[0]
    first = bytes(turning.picture.value)
    assert first.startswith(PNG)
    seen = set()
    for angle in (150.0, 210.0, 0.0):
        turning.slider.value = angle
        answer = plain(qwen, ls.selective_steering(calibration, angle), prompt)
        cells = read(_Markup(turning.said.value))[1]
        assert cells == [
            ["", "grade", "answer"],
            ["not steered", grade(prompt, base), base],
            [f"selective, {angle:g}°", grade(prompt, answer), answer],
        ]
        seen.add(bytes(turning.picture.value))
    assert len(seen) == 3
    assert bytes(turning.picture.value) == first
    assert {grade(prompt, turning.at(a).answer) for a in (0, 150)} == {"refusal", "correct"}
    assert "3 angles kept" in repr(turning)
    assert turning.slider.continuous_update is False


def test_the_picture_is_the_plans_rotation(qwen: Any, calibration: Any, prompt: Prompt) -> None:
    """At the site the plan turns what arrives by the angle and keeps its length; not steered, it lies where it was
    recorded; at 0° nothing moves.
    """
    turning = ls.dial(qwen, calibration, prompt)
    assert turning.site == calibration.selected_site
    base = turning.at(None)
    recorded = ls.record(
        qwen, ls.Contrast(ls.PromptSet((prompt,)), ls.PromptSet((prompt,))), [turning.site], progress=False
    ).positive[0, 0]
    assert base.coordinates == pytest.approx((calibration.basis.double() @ recorded.double()).tolist(), abs=1e-5)
    for angle in (40, 200):
        found = turning.at(angle)
        assert found.arriving is not None
        x, y = found.arriving
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        assert found.coordinates == pytest.approx((c * x - s * y, s * x + c * y), abs=1e-4)
    assert turning.at(0).coordinates == pytest.approx(base.coordinates, abs=1e-4)
    drawing = turning.drawing(200)
    assert drawing.columns["part"] == ["positive mean", "negative mean", "not steered", "steered", "arriving"]
    fig, axes = ls.draw(drawing)
    data: list[Any] = [line.get_data() for line in axes[0].get_lines()]
    points = [(float(x[0]), float(y[0])) for x, y in data if len(x) == 1]
    assert sorted(points) == sorted(zip(drawing.columns["x"], drawing.columns["y"], strict=True))
    plt.close(fig)
    # a site that the plan leaves alone has no arrival of its own; steered once, it arrives unsteered
    aside = ls.dial(qwen, calibration, prompt, site="blocks.2.hook_resid_post")
    assert aside.at(90).arriving is None
    assert "positive mean" not in aside.drawing(90).columns["part"]
    alone = ls.dial(qwen, calibration, prompt, method="standard", at=[calibration.selected_site])
    assert alone.at(90).arriving == pytest.approx(base.coordinates, abs=1e-5)
    x, y = alone.at(90).coordinates
    assert (x, y) == pytest.approx((0, math.hypot(*base.coordinates)), abs=1e-4)


def test_going_back_runs_nothing(qwen: Any, calibration: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An angle is generated once; strings are user turns, graded by phrases or not at all; engines and positions are
    handed on.
    """
    turning = ls.dial(
        qwen, calibration, "What is 4 plus 3?", max_new_tokens=4, engine="hf", positions="generated", grade=None
    )
    turning.slider.value = 90
    kept = bytes(turning.picture.value)
    turning.slider.value = 180
    monkeypatch.setattr(dials, "generate", None)
    turning.slider.value = 90
    assert bytes(turning.picture.value) == kept
    assert "90°" in turning.said.value
    assert "grade" not in turning.said.value
    assert turning.at(90).grade is None
    assert turning.plan(90).positions == "generated"


def test_what_goes_wrong_stands_in_the_message(qwen: Any, calibration: Any) -> None:
    """A plan in force on the model is said where the user looks, what is shown stays, and the next turn works again."""
    turning = ls.dial(qwen, calibration, "What is 4 plus 3?", max_new_tokens=4)
    shown = turning.said.value
    with ls.steering(qwen, ls.act_add(calibration, 1.0)):
        turning.slider.value = 40
        assert "not shown: the plan &#x27;act-add&#x27; is in force on the model" in turning.message.value
        with pytest.raises(LensSteerError, match="'act-add' is in force"):
            ls.dial(qwen, calibration, "Hello")
    assert turning.said.value == shown
    turning.slider.value = 50
    assert "kept: 0, 50 degrees" in turning.message.value


def test_prompts_and_answers_are_escaped(qwen: Any, calibration: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Markup in a prompt or an answer is text."""
    monkeypatch.setattr(dials, "generate", lambda *args, **options: [EVIL + 400 * "word " + "end"])
    turning = ls.dial(qwen, calibration, EVIL, grade=lambda prompt, text: EVIL)
    for widget in (turning.said, turning.box.children[0], turning.message):
        text, _ = read(_Markup(widget.value))
    text, _ = read(_Markup(turning.said.value))
    assert text.count("<script>alert(1)</script>") == 4
    assert text.count("word end") == 2


def test_a_dial_is_a_widget(qwen: Any, calibration: Any) -> None:
    """What the notebook asks of a result: a widget's view, and a line of text."""
    turning = ls.dial(qwen, calibration, "What is 4 plus 3?", max_new_tokens=4, angle=90.5)
    bundle = turning._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in (bundle[0] if isinstance(bundle, tuple) else bundle)
    assert turning.slider.readout_format == ".2f"
    assert "1 angle kept" in repr(turning)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "act-add"},
            "method='act-add' has no angle to turn: use one of selective, standard, adaptive, standard-everywhere",
        ),
        ({"method": "none"}, "method='none': use one of"),
        ({"angle": 400}, "angle=400: one number of degrees up to 360 is needed"),
        ({"angle": math.nan}, "angle=nan is not a finite number"),
        ({"step": 0}, "step=0: one number of degrees up to 360 is needed, above 0"),
        ({"angle": -10}, "angle=-10: one number of degrees up to 360 is needed"),
        ({"engine": "tgi"}, "engine='tgi': use one of tl, hf, vllm"),
        ({"site": "blocks.99.hook_resid_post"}, "site 'blocks.99.hook_resid_post' does not exist"),
        ({"site": "resid"}, "site 'resid' is unknown"),
        ({"threshold": 1}, "threshold=1: method 'selective' does not take it"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: at least 1 is needed"),
    ],
)
def test_bad_options(qwen: Any, calibration: Any, options: dict[str, Any], message: str) -> None:
    """Refused before anything is generated."""
    with pytest.raises(LensSteerError, match=message):
        ls.dial(qwen, calibration, "Hello", **options)


def test_without_ipywidgets(qwen: Any, calibration: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the extra that brings them."""
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(
        LensSteerError,
        match=r"dial needs ipywidgets, which is not installed here: pip install 'lens-steer\[notebook\]'",
    ):
        ls.dial(qwen, calibration, "Hello")


@pytest.mark.slow
@pytest.mark.skipif(bool(lab.MISSING), reason=f"needs JupyterLab and Chromium; missing here: {', '.join(lab.MISSING)}")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_in_jupyterlab(qwen: Any, calibration: Any, made: Path, prompt: Prompt, tmp_path: Path, dark: bool) -> None:
    """Typing an angle and moving the slider's handle change what a reader sees; nothing overlaps or runs out of the
    page. Leaves screenshots beside the notebook.
    """
    cells = [
        f"import lens_steer as ls\nmodel, cal = ls.load_model('organism/qwen2'), ls.load_calibration({str(made)!r})",
        "prompt = ls.load_contrast('organism/refusal').report.positive[1]\nls.dial(model, cal, prompt, step=30)",
        "cal",
    ]
    with lab.lab(tmp_path, cells, dark=dark) as page:
        lab.run_all(page)
        page.wait_for_selector(".jupyter-widgets img", timeout=60_000)
        for turn, angle in ((_type, 150), (_step, 180)):
            turn(page, angle)
            answer = plain(qwen, ls.selective_steering(calibration, angle), prompt)
            page.wait_for_selector(f"text=selective, {angle}°", timeout=60_000)
            page.wait_for_function(
                "said => document.querySelector('.jp-OutputArea-output .jupyter-widgets "
                "table').innerText.includes(said)",
                arg=answer,
            )
            page.wait_for_timeout(500)
            page.screenshot(path=str(tmp_path / f"dial_{angle}.png"))
        boxes = [
            page.locator(f".jp-OutputArea-output {found}").first.bounding_box()
            for found in (".widget-slider", ".jupyter-widgets img", ".jupyter-widgets table")
        ]
        assert all(box["width"] > 100 for box in boxes)
        assert not any(_overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert all(box["x"] + box["width"] <= 1200 for box in boxes)
        image = "document.querySelector('.jp-OutputArea-output .jupyter-widgets img')"
        assert page.evaluate(f"{image}.naturalWidth") >= page.evaluate(f"{image}.clientWidth") >= 300
        colours = page.evaluate(
            "(() => { const cell = document.querySelector('.jp-RenderedHTML td'); let ground = cell; "
            "while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement; "
            "return [getComputedStyle(cell).color, getComputedStyle(ground).backgroundColor] })()"
        )
        text, ground = (sum(int(v) for v in c[c.index("(") + 1 : -1].split(",")[:3]) / 3 for c in colours)
        assert (text - ground > 120) if dark else (ground - text > 120)
        page.locator(".jp-RenderedHTML table").last.scroll_into_view_if_needed()
        page.screenshot(path=str(tmp_path / "calibration.png"))


def _type(page: Any, angle: int) -> None:
    page.locator(".widget-readout").click()
    page.keyboard.press("Control+a")
    page.keyboard.type(str(angle))
    page.keyboard.press("Enter")


def _step(page: Any, angle: int) -> None:
    page.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")


def _overlap(a: dict[str, float], b: dict[str, float]) -> bool:
    apart = (
        a["x"] + a["width"] <= b["x"]
        or b["x"] + b["width"] <= a["x"]
        or a["y"] + a["height"] <= b["y"]
        or b["y"] + b["height"] <= a["y"]
    )
    return not apart
