# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The direction across depth, and the layers where the classes part
#
# **Question:** does one direction tell harmful from harmless prompts at every depth, at which sites do the classes part by sign, and would
# other prompts, or shuffled labels, have given the same answer?
#
# Ten to fifteen seconds on one core. Nothing is generated: everything here is read from activations.

# %%
import pandas as pd
import torch

import lens_steer as ls
from lens_steer.figures import geometry, stability
from lens_steer.geometry.stability import stability as stability_of
from lens_steer.geometry.summary import summarise

model = ls.load_model("organism/qwen2")
prompts = ls.load_contrast("organism/refusal")
acts = ls.record(model, prompts.fit, sites="norm_out", progress=False)
cal = ls.calibrate(acts)
drawings = geometry.drawings(summarise(cal))
cal

# %% [markdown]
# ## One direction, or one a layer?
#
# A *candidate* is the unit difference of the two class means at one site. The cosines of all candidates with each other:

# %%
figure, axes = ls.draw(drawings["cosine_matrix"])

# %% [markdown]
# Not one direction, and not one a layer: there are two families, blocks 3 to 6 and blocks 7 to 11, and between them the cosine is low.
#
# The candidate with the highest mean cosine to all is *selected*. Here the race is close: the curve is flat from block 3 on.

# %%
figure, axes = ls.draw(drawings["mean_cosine"])

# %% [markdown]
# ## Where the classes part
#
# Both classes projected on the selected direction. A site is *discriminative* (shaded) where the two means have opposite signs.

# %%
figure, axes = ls.draw(drawings["class_projections"])

# %% [markdown]
# The same as a table; `to_pandas()` of any result has all rows and columns.

# %%
table = cal.to_pandas()
columns = ["mean_cosine", "mean_projection_positive", "mean_projection_negative", "share_in_plane"]
table.loc[table.discriminative, columns].round(2)

# %% [markdown]
# `share_in_plane` is the part of a candidate's squared length that lies in the steering plane. A rotation in that plane moves no more of it.
#
# Two rules are published for "opposite signs". The paper's takes raw class means, site by site. The released code takes means of
# unit-length activations and asks that every norm of a block agrees.

# %%
for rule in ("paper", "official"):
    ruled = ls.calibrate(acts, rule=rule)
    print(
        f"{rule:8} {len(ruled.discriminative_sites):2} sites, blocks {ruled.discriminative_blocks}"
    )

# %% [markdown]
# ## Would other prompts have given the same?
#
# Each class is drawn anew with replacement, 300 times, and everything is computed again. Then the labels are shuffled: what does the same
# procedure find where there is nothing to find? Random planes say how far apart two planes are by chance.

# %%
found = stability_of(acts, resamples=300, progress=False)
figure, axes = ls.draw(stability.drawing(found))

# %%
found

# %% [markdown]
# Panel by panel:
#
# - *Which site* is selected hangs on the prompts. Other prompts choose block 3 more often than block 8. Report a selected site with its share.
# - *Where the classes part* hangs on them far less: from block 6 on a site is discriminative in most resamples, before that in a third.
# - *How many sites* are discriminative is no evidence by itself: shuffled labels give as many in a third of the draws (p above). A set in the
#   same place in most resamples is evidence; a count is not.
# - Shuffled labels do not give a random plane. Even shuffled means differ along what varies most between prompts.

# %% [markdown]
# ## How many prompts does it take?
#
# The first so many prompts of each class, resampled in the same way: how often are the sites that are discriminative on all prompts found,
# and how often the others?

# %%
inside = torch.tensor([name in cal.discriminative_sites for name in cal.sites])
rows = []
for n in (8, 16, 32, 64, len(prompts.fit.positive)):
    few = ls.Contrast(prompts.fit.positive[:n], prompts.fit.negative[:n])
    drawn = stability_of(
        ls.record(model, few, sites="norm_out", progress=False), resamples=100, progress=False
    ).bootstrap
    rows.append(
        {
            "prompts a class": n,
            "discriminative sites found": drawn.discriminative[:, inside].double().mean().item(),
            "others found": drawn.discriminative[:, ~inside].double().mean().item(),
            "most often selected": cal.sites[int(drawn.selected.mode().values)],
        }
    )
pd.DataFrame(rows).set_index("prompts a class").round(2)

# %% [markdown]
# Few prompts miss nothing here; they find too much. With 8 prompts a class most resamples call the early sites discriminative too.

# %% [markdown]
# ## What to try next
#
# - Another estimator of the direction: `ls.calibrate(acts, direction="fisher")` (or `paired_pca`, `logistic`, `sparse`); all five at once: `python -m analyses.directions --out DIR`.
# - Another tensor: `ls.record(model, prompts.fit, sites="resid_post")`.
# - Another model: on `organism/llama` and `organism/gemma2` the count of discriminative sites does stand out from shuffled labels.
# - The intervals behind the figure: `found.to_pandas()`.
# - Does choosing these sites matter for what the model says? That is notebook 03; the plane is turned in notebook 04.
