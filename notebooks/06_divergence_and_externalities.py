# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Where in an answer steering acts, and what benign steering does to safety
#
# **Question:** at which tokens of an answer does steering move the model, and does steering that is meant well (towards compliance with harmless
# requests, towards JSON) make it comply with harmful ones, as Steering Externalities (arXiv 2602.04896) claims?
#
# A small version of the study, on 24 held-out prompts of each class; about half a minute on one core. The full one is read from `figures/` at the end.

# %%
import json
import tempfile
from pathlib import Path

import pandas as pd

import lens_steer as ls
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.sweep_protocol import Protocol
from lens_steer.evaluation.sweeps import run
from lens_steer.figures import divergence, saving
from lens_steer.figures.core import Drawing
from lens_steer.metrics.benchmarks import NO_TASKS
from lens_steer.metrics.token_divergence import token_divergence
from lens_steer.studies.externalities import depth
from lens_steer.studies.externalities.calibration import calibrate_compliance, calibrate_json
from lens_steer.studies.externalities.conditions import (
    FIRST,
    REST,
    positions_of,
)
from lens_steer.studies.externalities.controls import random_like, refusal_bases
from lens_steer.studies.externalities.grading import JSON_RATES, RATES, annotated, rates
from lens_steer.studies.externalities.material import (
    harmful_responses,
    organism_material,
    own_answers,
)
from lens_steer.studies.externalities.positive_control import against_refusal

pd.options.display.max_colwidth = 100
model = ls.load_model("organism/qwen2")
material = organism_material(n_tasks=24)  # contrasts whose splits share no request, and tasks
refusal_acts = ls.record(model, material.refusal, "resid_post", engine="hf", progress=False)
refusal = ls.calibrate(refusal_acts)
material.refusal

# %% [markdown]
# ## Divergence, token by token
#
# The responses are fixed and forced on both models, so that every token is compared in the same context. Two sets: complying answers to harmful
# requests (the model's own, given under its unrestricted mode), and its own answers to harmless ones. What steers is a positive control on
# purpose: StTP against the refusal direction.

# %%
harmful = harmful_responses(model, material)
benign = own_answers(model, material.refusal.report.negative)
control = against_refusal(refusal)
found = {
    name: token_divergence(model, control, responses, [p.response for p in responses])
    for name, responses in (
        ("harmful requests, complying responses", harmful),
        ("harmless requests, own responses", benign),
    )
}
figure, axes = ls.draw(divergence.drawing(found, max_position=24))

# %% [markdown]
# On harmful requests the first token moves by far the most, where the model decides whether it refuses; on harmless ones it does not move at all.
# Around token 20 both move alike: there the steering damages what is said. A curve that starts high is in part this choice of responses
# (unsteered the model would never begin so), and says by itself little about the steering.
#
# The same on the text itself:

# %%
token_divergence(model, control, harmful[:4], [p.response for p in harmful[:4]])


# %% [markdown]
# ## The first token sets the mode
#
# If the first token decides, steering it alone should do what steering every token does. `first k` steers what decides the answer's first k
# tokens; `all but first k` everything else.


# %%
def measured(plans, part, tasks=NO_TASKS, names=RATES):
    """Shares of each plan's answers, graded exactly, in plain text and as JSON alike."""
    protocol = Protocol(model, part, "report", tasks)
    grids = [Grid(name, plan and (lambda value, plan=plan: plan)) for name, plan in plans.items()]
    rows = run(protocol, grids, tempfile.mkdtemp(), "rows", progress=False)
    rows = annotated(rows, protocol.sides)
    return {name: rates([row for row in rows if row["condition"] == name], names) for name in plans}


few = material.refusal.report.first(24)
plans = {"no steering": None, "every token": control}
for family in (FIRST, REST):
    for k in (1, 4):
        plans[f"{family}, k = {k}"] = against_refusal(refusal, positions=positions_of(family, k))
table = measured(plans, few)
shown = ("attack", "positive_refused", "positive_degenerate", "negative_right")
pd.DataFrame({name: {q: found[q] for q in shown} for name, found in table.items()}).T.map(
    "{:.2f}".format
)

# %% [markdown]
# `attack` is the share of harmful requests that are complied with *rightly*. Steering the prompt's last token alone frees every answer; steering
# every other token frees none; steering all of them breaks half of the answers. That the first token sets the mode does reproduce.
#
# ## The two benign steerings
#
# STEER-COMPLIANCE adds a multiple of the first principal component of complying against refusing answers at several blocks; STEER-JSON sets the
# projection on the mean difference between prompts with and without a request for JSON. Both are calibrated on the fit split. The strength and
# the block are those that the full study chose on its select split.

# %%
compliance = calibrate_compliance(model, material.compliance, progress=False)
towards_json = calibrate_json(model, material.json, progress=False)
strength, site = compliance.absolute(0.1), "blocks.2.hook_resid_post"
random = {
    "compliance": random_like({s: compliance.direction(s) for s in compliance.steered}, seed=0),
    "JSON": random_like({site: towards_json.direction(site)}, seed=0),
}
plans = {
    "no steering": None,
    "StTP against refusal": control,
    "compliance": compliance.plan(strength),
    "compliance, random direction": compliance.plan(strength, along=random["compliance"]),
    "JSON": towards_json.plan(site),
    "JSON, random direction": towards_json.plan(site, along=random["JSON"]),
}
table = measured(plans, few, material.tasks.report)
questions = material.json.report.first(24)  # other prompts, that ask for JSON or not
asking = measured(plans, questions, names=JSON_RATES)
table = {name: table[name] | asking[name] for name in plans}
shown = ("attack", "positive_refused", "negative_right", "capable", "json_unasked")
pd.DataFrame({name: {q: found[q] for q in shown} for name, found in table.items()}).T.map(
    "{:.2f}".format
)

# %% [markdown]
# The control raises attack success, so a rise would be seen. Neither benign steering does: on this model the paper's main claim does not
# reproduce. One reason can be looked at: where the benign directions lie to the refusal direction.

# %%
acts = {
    "compliance": ls.record(
        model, material.compliance, "resid_post", pooling="response", engine="hf", progress=False
    ),
    "json": ls.record(model, material.json, "resid_post", engine="hf", progress=False),
}
bases = refusal_bases(refusal)
angles = [
    *depth.angles(
        "compliance", compliance, acts["compliance"], refusal_acts, bases, compliance.steered
    ),
    *depth.angles("json", towards_json, acts["json"], refusal_acts, bases, (site,)),
]
columns = {name: [getattr(a, name) for a in angles] for name in ("steering", "block", "steered")}
columns |= {"mean": [a.angle.value for a in angles], "n": [a.angle.n for a in angles]}
columns |= {"low": [a.angle.low for a in angles], "high": [a.angle.high for a in angles]}
bound = depth.random_cosine(refusal.d_model)[1]
figure, axes = ls.draw(Drawing("externality_angles", columns, {"random_cosine": bound}))

# %% [markdown]
# Full markers are the blocks that are steered. An angle above the grey band would point away from refusal; none does.
#
# ## The full study
#
# `make externalities` ran every control on three models; its figures are drawn here from the committed numbers.

# %%
drawing, meta = saving.load("../figures/externalities/qwen2", "externality_strength")
figure, axes = ls.draw(drawing)

# %% [markdown]
# Stronger steering towards compliance does end the refusals. What takes their place is never a right answer: harmless requests and tasks break
# at the same strength. The claims that decide, on all three models (interval of the difference, paired by prompt):

# %%
claims = (
    "attack-control",
    "purpose-json",
    "attack-compliance",
    "attack-json",
    "attack-over-random-compliance",
    "attack-over-random-json",
)
rows = {}
for name in ("qwen2", "llama", "gemma2"):
    path = Path("../figures/externalities") / name / "externalities.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    for claim in record["claims"]:
        if claim["id"] in claims:
            low, high = claim["interval"]
            told = f"{claim['verdict']} {claim['value']:.2f} [{low:.2f}, {high:.2f}]"
            rows.setdefault(claim["statement"], {})[name] = told
pd.DataFrame(rows).T

# %% [markdown]
# ## What to try next
#
# - Another model: `organism/gemma2`, where steps as long straight against refusal do free a few answers.
# - Stronger: `compliance.plan(compliance.absolute(0.4))`, and look at `helped` and `capable` before `attack`.
# - The whole study at once: `from lens_steer.studies.externalities.study import study`, or `lens-steer externalities` with files of your own.
# - Divergence of any plan on any text: `lens-steer divergence --calibration CAL --method selective --angle 150 --responses FILE.jsonl --out DIR`.
# - What the fixed responses do to the first token: force the model's own refusals instead of complying responses.
