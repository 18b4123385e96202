# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The steering circle
#
# **Question:** what does every angle of a rotation do to refusals, which angle would an honest protocol choose, and does that angle do on new
# prompts what it did on those that chose it?
#
# About a minute and a half on one core, most of it for controls.

# %%
import tempfile
from functools import partial

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

import lens_steer as ls
from lens_steer.evaluation.conditions import (
    IDENTITY,
    NONE,
    RANDOM_PLANE,
    control_grids,
    method_grids,
)
from lens_steer.evaluation.controls import Controls
from lens_steer.evaluation.harmonics import fit_harmonic, how_many_angles
from lens_steer.evaluation.protocol import chosen_grids, differences, on_select
from lens_steer.evaluation.selection import Constraint, settings
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.figures import sweeps
from lens_steer.figures.comparison import harmonic_drawing
from lens_steer.figures.core import GREY, NEGATIVE, POSITIVE, styled
from lens_steer.metrics.benchmarks import task_splits
from lens_steer.metrics.refusal_score import refusal_scores_by_value
from lens_steer.reports.sweep_report import sweep_method

model = ls.load_model("organism/qwen2")
prompts = ls.load_contrast("organism/refusal")
cal = ls.calibrate(ls.record(model, prompts.fit, progress=False))
turn = partial(ls.selective_steering, cal)
cal

# %% [markdown]
# ## Cheap first: the refusal score
#
# How likely is an answer to begin as a refusal does? `log p − log(1 − p)` of the first token needs one forward a prompt and angle and no
# generation, so all 36 angles cost little. Every thin line is one prompt of the select split.

# %%
angles = [float(a) for a in range(0, 360, 10)]
scores = {
    side: refusal_scores_by_value(model, turn, angles, getattr(prompts.select, side)[:32])
    for side in ("positive", "negative")
}
with styled():
    figure, axes = plt.subplots(1, 2, figsize=(6.9, 2.6), sharey=True)
    for axis, side, color in zip(axes, scores, (POSITIVE, NEGATIVE), strict=True):
        plain, steered = scores[side]
        axis.plot(angles, steered.T, color=color, alpha=0.15, lw=0.6)
        mean = f"mean of {len(plain)} prompts"
        axis.plot(angles, steered.mean(axis=0), color=color, marker="o", label=mean)
        axis.axhline(plain.mean(), color=GREY, ls=":", label="the same without steering")
        axis.set(title=f"{side} prompts", xlabel="angle (degrees)", xticks=range(0, 361, 90))
        axis.legend()
    axes[0].set_ylabel("refusal score (nats)")

# %% [markdown]
# The same turn lowers the score of harmful prompts and raises that of harmless ones: what frees the one class brings the other nearer to refusal.
#
# ## Harmonic response
#
# What reads a rotated vector linearly is a first harmonic of the angle, `m + A cos(θ − φ)`: three numbers a prompt. How far does that go?

# %%
rows = {}
for side, (_, steered) in scores.items():
    fit = fit_harmonic(angles, steered)
    phase = np.angle(np.exp(1j * np.deg2rad(fit.phase)).mean(), deg=True) % 360  # a circular mean
    rows[f"{side} prompts"] = {
        "mean amplitude (nats)": fit.amplitude.mean(),
        "mean phase (degrees)": phase,
        "median R²": np.median(fit.r2),
        "R² of the worst 5 %": np.quantile(fit.r2, 0.05),
    }
    for few in how_many_angles(angles, steered):
        if few["n_angles"] in (3, 6, 18):
            rows[f"{side} prompts"][f"error, {few['n_angles']} angles"] = few["error"]
pd.DataFrame(rows).T.round(2)

# %% [markdown]
# The last columns fit a harmonic to so many angles and foretell the scores at all others; an error of 1 is what the mean alone would have.
# From six angles on more of them help no more: what is left is not harmonic. The same as a figure, with every prompt's R²:

# %%
steered = {side: by_angle for side, (_, by_angle) in scores.items()}
figure, axes = ls.draw(harmonic_drawing(angles, steered))

# %% [markdown]
# ## The protocol
#
# Scores of first tokens are no answers. For those: every setting on the *select* split, a choice by an objective under constraints, and the
# chosen setting alone on the *report* split. A random plane at the same sites runs beside it.

# %%
small = prompts.first(select=24, report=32)
tasks = task_splits(24)
controls = control_grids(cal, None, values=range(0, 360, 60))
grids = [
    *method_grids(cal, "selective", values=range(0, 360, 30)),
    *(grid for grid in controls if grid.condition in (NONE, IDENTITY, RANDOM_PLANE)),
]
constraints = [Constraint.parse("capable>=95%")]
out = tempfile.mkdtemp()
how = {"constraints": constraints, "progress": False}
select, choices, _ = on_select(model, small, grids, out, tasks=tasks.select, **how)
shown, chosen = ["selective", RANDOM_PLANE], {"selective": choices["selective"].value}
figure, axes = ls.draw(sweeps.by_value("class_swap", select, shown, None, chosen))

# %%
figure, axes = ls.draw(
    sweeps.by_value("polar", select, shown, ("positive_right", "perplexity_ref"))
)

# %% [markdown]
# What was chosen, and by how close a race:

# %%
table = pd.DataFrame([vars(choice) for choice in choices.values()])
table.set_index("condition")[["value", "met", "n_met", "n", "n_equal"]]

# %% [markdown]
# `n_met` of `n` settings keep to the constraint, and `n_equal` share the best objective: 120° would have done as well.
#
# ## The report
#
# Only now the report split: each condition at its choice, and nothing else.

# %%
protocol = Protocol(model, small.report, "report", tasks.report)
rows = run(protocol, chosen_grids(grids, choices), out, "report", progress=False)
reported = settings(rows)
reported

# %% [markdown]
# Differences on the same prompts, with 95 % intervals:

# %%
for against in (NONE, RANDOM_PLANE):
    for quantity, found in differences(rows, "selective", against).items():
        print(f"selective less {against}, {quantity}: {found}")

# %% [markdown]
# And did the angle do on new prompts what it did on those that chose it?

# %%
for split, found in (("select", select), ("report", reported)):
    chosen = next(
        s for s in found if s.condition == "selective" and s.value == choices["selective"].value
    )
    print(f"{split}: {chosen.measured['positive_right']}")

# %% [markdown]
# ## In one call
#
# `sweep_method` does all of this for one method and writes rows, numbers and figures to a folder; `lens-steer sweep` is the same on the command
# line. Here for the absolute angle of Angular Steering, with its controls at the chosen angle, ten draws of each kind:

# %%
standard = method_grids(cal, "standard", values=range(0, 360, 45))
folder = tempfile.mkdtemp()
drawn = Controls(cal, draws=10, select_values=0)
found = sweep_method(model, small, standard, folder, tasks=tasks, controls=drawn, **how)
found

# %% [markdown]
# ## Turn it yourself
#
# A slider over the angle for one prompt. It is live only while the notebook runs; the picture below it shows one of its positions.

# %%
turning = ls.dial(model, cal, prompts.report.positive[1], angle=150, engine="hf")
turning

# %%
for angle in (None, 150):
    print("without steering:" if angle is None else f"{angle}°:", turning.at(angle).answer)
figure, axes = ls.draw(turning.drawing(150))

# %% [markdown]
# ## What to try next
#
# - Other constraints: `Constraint.parse("negative_refused<=0.05")` keeps the angle away from the swap; `"perplexity_ref<=1.5"` keeps answers plain.
# - Other sites or another plane: `method_grids(cal, "selective", at=[…])`, `basis=`; all controls at once: `control_grids(cal, shuffled)`.
# - More prompts: take `prompts` in place of `small`. Every method at once, with all controls: `lens-steer compare`, in `figures/comparison`.
# - Other models answer otherwise: on `organism/gemma2` this method frees no answer under the comparison's constraints; `standard` does.
