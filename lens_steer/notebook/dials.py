"""A dial in a notebook: one prompt, a slider over the angle, the answer there, its grade, and where the prompt lies in
the steering plane.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError, expect
from lens_steer.geometry.calibration import Calibration
from lens_steer.inference.engines import check_engine, check_idle
from lens_steer.inference.generation import generate
from lens_steer.inference.record import record_prompts
from lens_steer.metrics.grading import grade as graded
from lens_steer.models import sites
from lens_steer.models.fits import check_fits
from lens_steer.models.loading import info_of
from lens_steer.notebook.views import html
from lens_steer.steer.hooks import steering
from lens_steer.steer.method_table import find_method, turning_methods
from lens_steer.steer.methods import make_plan
from lens_steer.steer.plans import SteeringPlan, numbers

if TYPE_CHECKING:
    from lens_steer.figures.core import Drawing

FULL = 360.0
Grade = Callable[[Prompt, str], str]


@dataclass(frozen=True)
class Turned:
    """What one angle makes of a prompt.

    Attributes:
        angle: degrees; None without steering.
        answer: greedy.
        grade: of the answer; None where nothing grades it.
        coordinates: of the last prompt token's activation at the dial's site, along b1 and b2, as it leaves.
        arriving: the same before what the plan writes there, steered at earlier sites alone; None where the plan does
            not write there.
    """

    angle: float | None
    answer: str
    grade: str | None
    coordinates: tuple[float, float]
    arriving: tuple[float, float] | None = None


@dataclass(eq=False)
class Dial:
    """What :func:`dial` shows. Every angle that was turned to is kept, so that going back costs nothing.

    Attributes:
        model, calibration, prompt, method, options: what is steered, and how.
        site: whose activation the picture shows.
        max_new_tokens, engine: see :func:`lens_steer.generate`.
        grade: of an answer, or None.
        slider, picture, said, message, box: the widgets: the angle, the plane, the answers, what is going on, and all
            of them.
    """

    model: Any
    calibration: Calibration
    prompt: Prompt
    method: str
    options: dict[str, Any]
    site: str
    max_new_tokens: int
    engine: str
    grade: Grade | None
    slider: Any = None
    picture: Any = None
    said: Any = None
    message: Any = None
    box: Any = None
    _kept: dict[float | None, Turned] = field(default_factory=dict)
    _pictures: dict[float, bytes] = field(default_factory=dict)

    def plan(self, angle: float | int) -> SteeringPlan:
        """The plan at an angle."""
        return make_plan(self.method, self.calibration, **find_method(self.method).at_value(angle), **self.options)

    def at(self, angle: float | int | None) -> Turned:
        """What an angle makes of the prompt; None: without steering. Measured once, then kept.

        Raises:
            LensSteerError: a plan in force on the model, an angle that is no number, a context too short for the
                answer.
        """
        key = None if angle is None else float(angle)
        if key not in self._kept:
            self._kept[key] = self._measured(key)
        return self._kept[key]

    def _measured(self, angle: float | None) -> Turned:
        check_idle(self.model)
        plan = None if angle is None else self.plan(angle)
        with _under(self.model, plan):
            answer = generate(self.model, self.prompt, max_new_tokens=self.max_new_tokens, engine=self.engine)[0]
            leaving = self._coordinates()
        arriving = None
        if plan is not None and self.site in plan.sites:
            with _under(self.model, _without(plan, self.site)):
                arriving = self._coordinates()
        return Turned(angle, answer, None if self.grade is None else self.grade(self.prompt, answer), leaving, arriving)

    def _coordinates(self) -> tuple[float, float]:
        h = record_prompts(self.model, PromptSet((self.prompt,), "dial"), [self.site], engine=self.engine)[0, 0]
        x, y = (self.calibration.basis.double() @ h.double()).tolist()
        return x, y

    def drawing(self, angle: float | int) -> Drawing:
        """The picture's data at an angle: the prompt in the plane, not steered, as it arrives at the site and as it
        leaves, and the class means where the calibration has them.
        """
        from lens_steer.figures.core import Drawing

        points: dict[str, tuple[float, float]] = {}
        made = self.calibration
        if self.site in made.sites:
            for side, mean in (("positive", made.mean_positive), ("negative", made.mean_negative)):
                if mean is not None:
                    x, y = (made.basis.double() @ mean[made.sites.index(self.site)].double()).tolist()
                    points[f"{side} mean"] = (x, y)
        turned = self.at(angle)
        points |= {"not steered": self.at(None).coordinates, "steered": turned.coordinates}
        if turned.arriving is not None:
            points["arriving"] = turned.arriving
        columns = {"part": list(points), "x": [x for x, _ in points.values()], "y": [y for _, y in points.values()]}
        return Drawing("turned_in_plane", columns, {"site": self.site, "method": self.method, "angle": float(angle)})

    def show(self, angle: float | int) -> None:
        """Put an angle's answer and picture into the widgets."""
        rows = [
            {
                "": "not steered" if t.angle is None else f"{self.method}, {t.angle:g}°",
                **({} if t.grade is None else {"grade": t.grade}),
                "answer": t.answer,
            }
            for t in (self.at(None), self.at(angle))
        ]
        if float(angle) not in self._pictures:
            self._pictures[float(angle)] = _png(self.drawing(angle))
        self.picture.value = self._pictures[float(angle)]
        self.said.value = html.grid(rows, strong=("grade",), width=sys.maxsize)

    def _turn(self, change: Any) -> None:
        """What moving the slider does; what a user can mend stands in the message, since nothing else would show it."""
        self.message.value = html.note("generating …")
        try:
            self.show(change["new"])
        except LensSteerError as error:
            self.message.value = html.note(f"not shown: {error}")
        else:
            kept = sorted(found for found in self._kept if found is not None)
            self.message.value = html.note(f"kept: {', '.join(f'{found:g}' for found in kept)} degrees")

    def __repr__(self) -> str:
        n = len(self._pictures)
        return (
            f"Dial({self.method} on {self.calibration.model}, {self.prompt.text[:40]!r}, {n} "
            f"angle{'' if n == 1 else 's'} kept)"
        )

    def _repr_mimebundle_(self, **how: Any) -> Any:
        return self.box._repr_mimebundle_(**how)


def dial(
    model: Any,
    calibration: Calibration,
    prompt: Prompt | str,
    *,
    method: str = "selective",
    angle: float | int = 0,
    step: float | int = 10,
    site: str | None = None,
    max_new_tokens: int = 48,
    engine: str = ENGINE,
    grade: Grade | None = graded,
    **options: Any,
) -> Dial:
    """A slider over the steering angle for a notebook: the answer at that angle beside the unsteered one, graded, and
    the prompt in the steering plane before and after.

    The angle is taken when the slider is let go. Each one is generated once; going back is instant.

    Args:
        model: from :func:`lens_steer.load_model`.
        calibration: the plane and the sites.
        prompt: one prompt; a string is a user's turn.
        method: of :data:`lens_steer.steer.method_table.METHODS`, one with an angle.
        angle: that the dial begins at, degrees.
        step: of the slider, degrees.
        site: whose activation the picture shows, the last prompt token's; left out, the selected site if the method
            steers it, else the last one that it steers.
        max_new_tokens, engine: see :func:`lens_steer.generate`.
        grade: prompt and answer → grade; left out, the organisms' ground truth, for other prompts the 12 phrases of
            refusal; None: no grade.
        options: of the method, such as ``at`` or ``positions``.

    Raises:
        LensSteerError: ipywidgets is not installed; a method without an angle, an option that it does not take; an
            angle or a step outside of 0 … 360; an unknown site or engine; a calibration of another model; a plan in
            force on the model.

    >>> import lens_steer as ls
    >>> model, found = ls.load_model("organism/qwen2"), ls.load_calibration("figures/calibration")
    >>> turning = ls.dial(model, found, "What is 4 plus 3?", step=30, max_new_tokens=4)
    >>> turning.slider.value = 360
    >>> turning.at(360).answer
    '7.'
    """
    widgets = _widgets()
    made = _checked(model, calibration, prompt, method, angle, step, site, options, engine)
    turning = Dial(model, calibration, *made, max_new_tokens, engine, grade)
    turning.slider = widgets.FloatSlider(
        value=float(angle),
        min=0.0,
        max=FULL,
        step=float(step),
        description="angle (°)",
        continuous_update=False,
        readout_format=".0f" if all(float(v).is_integer() for v in (angle, step)) else ".2f",
        layout=widgets.Layout(width="40em", max_width="98%"),
    )
    turning.picture = widgets.Image(
        format="png", layout=widgets.Layout(width="27em", max_width="98%", object_fit="contain")
    )
    turning.said = widgets.HTML(layout=widgets.Layout(min_width="20em", max_width="48em", flex="1 1 24em"))
    turning.message = widgets.HTML()
    side_by_side = widgets.HBox(
        [turning.picture, turning.said], layout=widgets.Layout(flex_flow="row wrap", align_items="flex-start")
    )
    asked = widgets.HTML(html.heading(turning.prompt.text))
    turning.box = widgets.VBox([asked, turning.slider, turning.message, side_by_side])
    turning.show(angle)
    turning.slider.observe(turning._turn, names="value")
    return turning


def _widgets() -> Any:
    try:
        import ipywidgets
    except ImportError:
        raise LensSteerError(
            "dial needs ipywidgets, which is not installed here: pip install 'lens-steer[notebook]'"
        ) from None
    return ipywidgets


def _checked(
    model: Any,
    calibration: Calibration,
    prompt: Prompt | str,
    method: str,
    angle: Any,
    step: Any,
    site: str | None,
    options: dict[str, Any],
    engine: str,
) -> tuple[Prompt, str, dict[str, Any], str]:
    """Prompt, method, options and site of a dial, checked before anything runs."""
    expect("prompt", prompt, (Prompt, str), "a dial shows one prompt")
    record = find_method(method)
    if not record.turns:
        raise LensSteerError(f"method={method!r} has no angle to turn: use one of {', '.join(turning_methods())}")
    for what, value, least in (("angle", angle, 0.0), ("step", step, 1e-9)):
        degrees = numbers(what, value)
        if not isinstance(degrees, float) or not least <= degrees <= FULL:
            raise LensSteerError(
                f"{what}={value!r}: one number of degrees up to 360 is needed{', above 0' if least else ''}"
            )
    check_engine(engine)
    check_fits(calibration, model)
    check_idle(model)
    plan = make_plan(record.name, calibration, **record.at_value(float(angle)), **options)
    if site is None:
        site = calibration.selected_site if calibration.selected_site in plan.sites else plan.sites[-1]
    info = info_of(model)
    sites.resolve([sites.parse(site).name], n_layers=info.n_layers, architecture=info.architecture)
    return Prompt.of(prompt) if isinstance(prompt, str) else prompt, record.name, options, site


def _under(model: Any, plan: SteeringPlan | None) -> AbstractContextManager[Any]:
    return nullcontext() if plan is None or not plan.sites else steering(model, plan, tell=False)


def _without(plan: SteeringPlan, site: str) -> SteeringPlan:
    """The plan at all of its sites but one."""
    left = [replace(step, sites=tuple(name for name in step.sites if name != site)) for step in plan.steps]
    return replace(plan, steps=tuple(step for step in left if step.sites))


def _png(drawing: Drawing) -> bytes:
    """A figure as a picture, apart from whatever figures the notebook has open."""
    import matplotlib.pyplot as plt

    from lens_steer.figures.core import styled
    from lens_steer.figures.saving import draw

    fig, _ = draw(drawing)
    with io.BytesIO() as stream, styled():
        fig.savefig(stream, format="png")
        plt.close(fig)
        return stream.getvalue()
