# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Probes, and steering that knows where the boundary is
#
# **Question:** a probe reads from the activations whether the model lies. Does carrying a lie's activations across the probe's boundary make
# the model tell the truth?
#
# The model here answers questions of fact truly under an honest system prompt, and with the world's own lies under a dishonest one. About half
# a minute on one core.

# %%
import pandas as pd
import torch
from matplotlib import pyplot as plt

import lens_steer as ls
from lens_steer.evaluation.conditions import TOWARDS_POSITIVE
from lens_steer.figures import probe_plane, probes
from lens_steer.figures.core import BLUE, GREY, VERMILION, styled
from lens_steer.metrics.benchmarks import organism_tasks
from lens_steer.metrics.grading import grade
from lens_steer.probes.depth import probe_depth
from lens_steer.stats.rates import wilson

model = ls.load_model("organism/gemma2")
honesty = ls.load_contrast("organism/honesty")
honesty

# %% [markdown]
# ## A probe at every depth
#
# One sample is a response averaged over its tokens, at a block's output; a probe is a logistic regression on the fit split. Everything drawn is
# of held-out questions.

# %%
fit, report = (
    ls.record(model, part, "resid_post", pooling="response", engine="hf", progress=False)
    for part in (honesty.fit, honesty.report)
)
scan = probe_depth(fit, report, draws=10, progress=False)
figure, axes = ls.draw(probes.probe_depth_drawing(scan))


# %% [markdown]
# From block 2 on the probe is right on every held-out question. *Selectivity* takes off what probes of shuffled labels are right by (chance), or
# what remembering single questions gives. The third panel: from block 2 on the probe's normal lies close to the difference of means, and less
# close to Fisher's direction.
#
# ## Read here, steer there?
#
# StMP (arXiv 2604.08169) carries every token that lies on the wrong side of the boundary, `ρ < m`, to `ρ + 2α (m − ρ)`: with α = 1 it is mirrored
# at the boundary. Every block is tried on the select split, under the dishonest prompt.


# %%
def truths(prompts, plan=None):
    """How many answers are true, false, incoherent."""
    if plan is None:
        answers = ls.generate(model, prompts, max_new_tokens=24, engine="hf")
    else:
        with ls.steering(model, plan):
            answers = ls.generate(model, prompts, max_new_tokens=24, engine="hf")
    grades = [grade(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    return {name: grades.count(name) for name in ("correct", "wrong", "incoherent")}


def recovered(method, probe, alpha):
    """How many liars of the select split tell the truth."""
    plan = method(probe, alpha, positions="generated")
    return truths(honesty.select.negative, plan)["correct"]


fitted = {result.probe.site: result.probe for result in scan.results}
tried = {
    (site, alpha): recovered(ls.mirror_projection, probe, alpha)
    for site, probe in fitted.items()
    for alpha in (1, 3)
}
blocks, n = range(len(fitted)), len(honesty.select.negative)
with styled():
    figure, axis = plt.subplots(figsize=(4.6, 2.7))
    right = [result.measured["accuracy"].value for result in scan.results]
    axis.plot(blocks, right, color=GREY, marker="D", ls=":", label="the probe is right (held-out)")
    for alpha, color, marker in ((1, BLUE, "o"), (3, VERMILION, "s")):
        shares = [wilson(tried[site, alpha], n) for site in fitted]
        label = f"liars tell the truth, StMP, α = {alpha}"
        axis.plot(blocks, [s.value for s in shares], color=color, marker=marker, label=label)
        low, high = [s.low for s in shares], [s.high for s in shares]
        axis.fill_between(blocks, low, high, color=color, alpha=0.15, lw=0)
    axis.set(xlabel="block", ylabel=f"share (n = {n})", xticks=blocks, ylim=(-0.03, 1.05))
    figure.legend(loc="outside lower center", ncols=1)

# %% [markdown]
# That a boundary can be read says little about whether crossing it changes what the model says: the probe is right at every block from 2 on.
# Crossing its boundary helps most at block 2, less at each block after, and hardly from block 8 on.
#
# ## The choice, on new questions
#
# At the best block all three methods of the paper, each with the coefficient that the select split likes best. Then the report split: beside
# each choice the same steps along a random direction, and, since a gate should leave honest answers alone, the honest prompt and other tasks.

# %%
site, _ = max(tried, key=tried.get)
probe = fitted[site]
random = torch.randn(len(probe.direction), generator=torch.Generator().manual_seed(0))
methods = {
    "SwFC": (ls.fixed_coefficient, "swfc"),
    "StTP": (ls.target_projection, "sttp"),
    "StMP": (ls.mirror_projection, "stmp"),
}
plans = {"no steering": None}
for name, (method, key) in methods.items():
    found = {alpha: recovered(method, probe, alpha) for alpha in TOWARDS_POSITIVE[key]}
    best = max(found, key=found.get)
    plans[f"{name}, α = {best:g}"] = method(probe, best, positions="generated")
    plans[f"{name}, α = {best:g}, random direction"] = method(
        probe, best, positions="generated", along=random
    )

sides = {
    "liars": honesty.report.negative,
    "honest": honesty.report.positive,
    "tasks": organism_tasks(96),
}
rows = {
    name: {
        side: wilson(truths(asked, plan)["correct"], len(asked)) for side, asked in sides.items()
    }
    for name, plan in plans.items()
}
print(f"steered at {site}; share of right answers [95 %]")
pd.DataFrame(rows).T.map("{:.2f}".format)

# %% [markdown]
# All three recover the truth, and along a random direction next to nothing comes back. What the gate buys is seen in the last column: SwFC moves
# every token and costs the most tasks (with intervals that overlap; `figures/traits` has all of them).
#
# ## Watching it
#
# `ls.monitor` reads the projection of every token at the probe's site while the model speaks. Orange is the honest side, blue the other; the gate
# fires on what is underlined. Four questions, first without steering:

# %%
asked, stmp = honesty.report.negative[:4], plans[f"StMP, α = {best:g}"]
with ls.monitor(model, probe) as seen:
    ls.generate(model, asked, max_new_tokens=24)
seen

# %% [markdown]
# The same under StMP. Entered inside of `steering`, the monitor sees what the plan wrote:

# %%
with ls.steering(model, stmp), ls.monitor(model, probe) as seen:
    ls.generate(model, asked, max_new_tokens=24)
seen

# %% [markdown]
# The same as a table, and how often the gate still fires:

# %%
print(f"the gate fires on {seen.fire_rate('generated'):.0%} of the generated tokens")
table = seen.to_pandas()
table[table.region == "generated"].head(6)

# %% [markdown]
# ## Averages are not tokens
#
# The probe was fitted on averages, but its gate decides token by token. Every dot is one token of a held-out answer; the line is the boundary.

# %%
tokens = ls.record_tokens(model, honesty.report.first(16), [site], engine="hf")
figure, axes = ls.draw(probe_plane.boundary_plane_drawing(probe, fit, tokens))

# %%
for side, name in (("positive", "honest"), ("negative", "dishonest")):
    fires = probe.project(getattr(tokens, side)[:, 0]) < probe.threshold
    print(f"the gate fires on {fires.double().mean():.0%} of the {name} tokens")

# %% [markdown]
# ## What to try next
#
# - `organism/qwen2` recovers about half of its answers, at block 4; `organism/llama` none. `lens-steer traits --model organism/llama --trait honesty --out DIR`
#   runs the whole protocol.
# - Another trait: `ls.load_contrast("organism/compassion")`. Its probes are as good, and no setting brings it back.
# - A probe of single tokens: `ls.fit_probe(ls.record_tokens(model, honesty.fit, [site]), site)`.
# - Every position, not the answer's alone: leave `positions="generated"` out.
# - Keep a probe for the command line: `ls.save_probe(probe, "DIR")`, then `lens-steer steer --probe DIR --method mirror_projection --coefficient 3`.
