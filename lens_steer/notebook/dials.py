"""A dial for a notebook: one prompt, and a slider over the steering angle.

It shows the answer at the angle, its grade, and the prompt's activation in the steering plane.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt, PromptSet
from lens_steer.errors import LensSteerError, expect, installed
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
    """The results for one prompt at one angle.

    Attributes:
        angle: The angle in degrees; None without steering.
        answer: The greedy answer.
        grade: The grade of the answer; None where nothing grades it.
        coordinates: The coordinates of the last prompt token's activation along b1 and b2, as it leaves the dial's
            site.
        arriving: The same coordinates before the plan writes at the site, where only earlier sites are steered. None
            where the plan does not write at the site.
    """

    angle: float | None
    answer: str
    grade: str | None
    coordinates: tuple[float, float]
    arriving: tuple[float, float] | None = None


@dataclass(eq=False)
class Dial:
    """The widget that :func:`dial` returns.

    The results of every angle that was visited are kept, so that returning to it costs nothing.

    Attributes:
        model: The model that is steered.
        calibration: The calibration with the plane and the sites.
        prompt: The prompt.
        method: The name of the method.
        options: The options of the method.
        site: The site whose activation the picture shows.
        max_new_tokens: The largest number of tokens of an answer; see :func:`lens_steer.generate`.
        engine: The engine that generates; see :func:`lens_steer.generate`.
        grade: The function that grades an answer, or None.
        slider: The widget of the angle.
        picture: The widget of the plane.
        said: The widget of the answers.
        message: The widget of the line that says what is going on.
        box: The widget that holds all others.
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
        """Make the plan at an angle in degrees."""
        return make_plan(self.method, self.calibration, **find_method(self.method).at_value(angle), **self.options)

    def at(self, angle: float | int | None) -> Turned:
        """Return the results at an angle, or without steering for None; each is measured once and then kept.

        Raises:
            LensSteerError: If a plan already steers the model, if the angle is not a number, or if the context is too
                short for the answer.
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
            # what arrives at the site is what leaves it when all other sites are steered but not this one
            with _under(self.model, _without(plan, self.site)):
                arriving = self._coordinates()
        return Turned(angle, answer, None if self.grade is None else self.grade(self.prompt, answer), leaving, arriving)

    def _coordinates(self) -> tuple[float, float]:
        h = record_prompts(self.model, PromptSet((self.prompt,), "dial"), [self.site], engine=self.engine)[0, 0]
        return self._in_plane(h)

    def _in_plane(self, h: Float[Tensor, " d_model"]) -> tuple[float, float]:
        x, y = (self.calibration.basis.double() @ h.double()).tolist()
        return x, y

    def drawing(self, angle: float | int) -> Drawing:
        """Return the data of the picture at an angle.

        It holds the prompt's activation in the plane: without steering, as it arrives at the site, and as it leaves the
        site. The class means are included where the calibration has them.
        """
        from lens_steer.figures.core import Drawing

        points: dict[str, tuple[float, float]] = {}
        made = self.calibration
        if self.site in made.sites:
            for side, mean in (("positive", made.mean_positive), ("negative", made.mean_negative)):
                if mean is not None:
                    points[f"{side} mean"] = self._in_plane(mean[made.sites.index(self.site)])
        turned = self.at(angle)
        points |= {"not steered": self.at(None).coordinates, "steered": turned.coordinates}
        if turned.arriving is not None:
            points["arriving"] = turned.arriving
        columns = {"part": list(points), "x": [x for x, _ in points.values()], "y": [y for _, y in points.values()]}
        return Drawing("turned_in_plane", columns, {"site": self.site, "method": self.method, "angle": float(angle)})

    def show(self, angle: float | int) -> None:
        """Put the answer and the picture of an angle into the widgets."""
        rows = [
            {
                "": "not steered" if t.angle is None else f"{self.method}, {t.angle:g}°",
                **({} if t.grade is None else {"grade": t.grade}),
                "answer": t.answer,
            }
            for t in (self.at(None), self.at(angle))
        ]
        if angle not in self._pictures:
            self._pictures[angle] = _png(self.drawing(angle))
        self.picture.value = self._pictures[angle]
        self.said.value = html.grid(rows, strong=("grade",), width=sys.maxsize)

    def _turn(self, change: Any) -> None:
        """Handle a move of the slider.

        An error that the user can correct goes to the message, since nothing else would show it.
        """
        self.message.value = html.note("generating …")
        try:
            self.show(change["new"])
        except LensSteerError as error:
            self.message.value = html.note(f"not shown: {error}")
        else:
            kept = sorted(found for found in self._kept if found is not None)
            self.message.value = html.note(f"kept: {', '.join(f'{found:g}' for found in kept)} degrees")

    def __repr__(self) -> str:
        kept = f"{len(self._pictures)} angle{'' if len(self._pictures) == 1 else 's'} kept"
        return f"Dial({self.method} on {self.calibration.model}, {self.prompt.text[:40]!r}, {kept})"

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
    """Show a slider over the steering angle in a notebook.

    The dial shows the graded answer at the angle beside the unsteered one, and the prompt in the steering plane before
    and after steering. The angle is read when the slider is released. Each angle is generated once; returning to it is
    immediate.

    Args:
        model: The model, from :func:`lens_steer.load_model`.
        calibration: The calibration with the plane and the sites.
        prompt: One prompt; a string is a user turn.
        method: The name of a method with an angle, from :data:`lens_steer.steer.method_table.METHODS`.
        angle: The angle at which the dial begins, in degrees.
        step: The step of the slider, in degrees.
        site: The site whose activation at the last prompt token the picture shows. None means the selected site if the
            method steers it, otherwise the last site that it steers.
        max_new_tokens: The largest number of tokens of an answer; see :func:`lens_steer.generate`.
        engine: The engine that generates; see :func:`lens_steer.generate`.
        grade: A function from prompt and answer to a grade. The default is the organisms' ground truth, and for other
            prompts the 12 refusal phrases. None shows no grade.
        options: Options of the method, such as ``at`` or ``positions``.

    Returns:
        The dial, which a notebook displays.

    Raises:
        LensSteerError: If ipywidgets is not installed, if the method has no angle or does not take an option, if the
            angle or the step is not between 0 and 360, if the site or the engine is unknown, if the calibration is of
            another model, or if a plan already steers the model.

    >>> import lens_steer as ls
    >>> model, found = ls.load_model("organism/qwen2"), ls.load_calibration("figures/calibration")
    >>> turning = ls.dial(model, found, "What is 4 plus 3?", step=30, max_new_tokens=4)
    >>> turning.slider.value = 360
    >>> turning.at(360).answer
    '7.'
    """
    mend = "dial needs ipywidgets, which is not installed here: pip install 'lens-steer[notebook]'"
    widgets = installed("ipywidgets", mend)
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
    """Return prompt, method, options and site of a dial, checked before anything runs."""
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
    sites.resolve([sites.parse(site).name], info.layout)
    return Prompt.of(prompt) if isinstance(prompt, str) else prompt, record.name, options, site


def _under(model: Any, plan: SteeringPlan | None) -> AbstractContextManager[Any]:
    return nullcontext() if plan is None or not plan.sites else steering(model, plan, tell=False)


def _without(plan: SteeringPlan, site: str) -> SteeringPlan:
    """Return the plan without one of its sites."""
    left = [replace(step, sites=tuple(name for name in step.sites if name != site)) for step in plan.steps]
    return replace(plan, steps=tuple(step for step in left if step.sites))


def _png(drawing: Drawing) -> bytes:
    """Draw a figure as a PNG image; other figures that the notebook has open are not touched."""
    import matplotlib.pyplot as plt

    from lens_steer.figures.core import styled
    from lens_steer.figures.saving import draw

    fig, _ = draw(drawing)
    with io.BytesIO() as stream, styled():
        fig.savefig(stream, format="png")
        plt.close(fig)
        return stream.getvalue()
