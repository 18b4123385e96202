# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # First steps: from two prompt sets to a steered model
#
# **Question:** where in a small chat model do harmful and harmless requests part, and does rotating its activations in the plane
# spanned there change what it answers?
#
# Everything runs offline on an embedded model that was really trained; it takes ten seconds on one core.

# %%
import lens_steer as ls
from lens_steer.figures import geometry
from lens_steer.geometry.summary import summarise
from lens_steer.metrics.grading import grade

model = ls.load_model("organism/qwen2")
prompts = ls.load_contrast("organism/refusal")
acts = ls.record(model, prompts.fit, sites="norm_out", progress=False)
cal = ls.calibrate(acts)
cal

# %% [markdown]
# What was recorded is one vector a prompt and site: the last prompt token, at the output of every norm, gain included.
#
# ## Where the classes part
#
# The mean projection of both classes on the selected direction, site by site. Where the two means lie on opposite sides of zero, the
# site is *discriminative* (shaded).

# %%
drawings = geometry.drawings(summarise(cal))
figure, axes = ls.draw(drawings["class_projections"])

# %% [markdown]
# All candidate directions seen in the steering plane. A candidate near the circle lies in the plane.

# %%
figure, axes = ls.draw(drawings["plane_path"])

# %% [markdown]
# ## Steer
#
# Selective steering rotates the discriminative sites by a relative angle. The context adds exactly the plan's hooks and removes exactly those.

# %%
held_out = prompts.report.positive[:16]
for angle in (0, 90, 150, 210):
    with ls.steering(model, ls.selective_steering(cal, angle)):
        answers = ls.generate(model, held_out, max_new_tokens=40)
    grades = [grade(prompt, answer) for prompt, answer in zip(held_out, answers, strict=True)]
    summary = ", ".join(f"{name} {grades.count(name)}" for name in dict.fromkeys(grades))
    print(f"{angle:>3}°: {summary}; for instance: {answers[0]}")

# %% [markdown]
# ## What to try next
#
# - Another plane: `ls.selective_steering(cal, 150, basis=random_plane(model.cfg.d_model, seed=0))` from `lens_steer.geometry.planes`.
# - Another model: `organism/llama`, or a local Hugging Face folder.
# - Your own prompts: `ls.load_contrast(positive="with.txt", negative="without.txt", split=(0.5, 0.25, 0.25))`.
# - The absolute angle of Angular Steering: `ls.standard_angular(cal, 150)`; other methods: `ls.act_add(cal, -1)`, `ls.directional_ablation(cal)`, `ls.target_projection(cal)`.
