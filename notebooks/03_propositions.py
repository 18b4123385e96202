# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Propositions 1 and 2
#
# **Question:** Selective Steering (arXiv 2601.19375) claims that setting an angle (Angular Steering, Eq. 2) does not preserve activation norms
# (Proposition 1) and that turning by an angle (Eq. 6) does (Proposition 2). Is that so, and if not, what does separate the two?
#
# Every claim is a record with its criterion fixed in code beforehand. About a minute and a half on one core.

# %%
import lens_steer as ls
from lens_steer.studies.propositions.verify import verify, verify_model

found = verify(progress=False)
found

# %% [markdown]
# ## The formulas
#
# Random vectors, and vectors found by gradient ascent, in float64 with an exactly orthonormal basis.

# %%
for name in ("proposition-1", "proposition-1-proof", "proposition-2"):
    claim = found.claim(name)
    print(f"{claim.verdict:6} {claim.statement}")
    print(f"       {claim.quantity}: {claim.value:.2g} (n = {claim.n})\n")
found.claim("proposition-1-proof").witness

# %% [markdown]
# The witness of the proof's failing step: a vector that SAS at 0° moves, with the same norm before and after. What rounding does, to both rotations alike:

# %%
figure, axes = ls.draw(found.drawings["norm_change"])

# %% [markdown]
# ## What separates them

# %%
for kind in ("identity", "composition-adds", "isometry", "linear", "classes-apart"):
    pair = [
        found.claim(f"{kind}-{op}{'-formula' if kind == 'classes-apart' else ''}")
        for op in ("SS", "SAS")
    ]
    print(f"{kind:17} SS {pair[0].verdict:6} SAS {pair[1].verdict}")

# %% [markdown]
# ## On a model
#
# Recorded activations, norms of later blocks, and answers. Each condition's own best angle comes from the select split; everything shown from the report split.
# To be quick, 32 prompts of each class choose here and 32 others report: half of what there is. The intervals are wider for it;
# `make verify` takes all prompts and wrote `figures/propositions.md`.

# %%
model = ls.load_model("organism/qwen2")
prompts = ls.load_contrast("organism/refusal")
on_model = verify_model(model, prompts.first(select=32, report=32), engine="hf", progress=False)
on_model

# %% [markdown]
# Norms kept at every steered norm output are not norms kept in the stream of later blocks:

# %%
figure, axes = ls.draw(on_model.drawings["norm_drift"])

# %% [markdown]
# One thing changed at a time, differences paired by prompt. Compare the round points (every condition at its own best angle) with the square ones (all at one nominal angle).

# %%
figure, axes = ls.draw(on_model.drawings["paired_differences"])

# %% [markdown]
# ## What to try next
#
# - A published calibration: `verify({"mine": import_official("DIR")})` from `lens_steer.interop.imports.official`.
# - Your own operator: `formula.proposition_claims({**formula.OPERATORS, "SAS": mine})` from `lens_steer.studies.propositions`; a broken one is caught, with a witness.
# - Another model: `organism/llama`, `organism/gemma2`.
