# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Taking a plan to a serving engine
#
# **Question:** can a steering plan leave the notebook, as an adapter or in the weights, so that an engine that knows no hooks gives the same
# answers; and how does one know that it does?
#
# About a quarter of a minute on one core. Needs PEFT: `pip install 'lens-steer[export]'`.

# %%
import json
import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.figures.core import BLUE, GREY, VERMILION, styled
from lens_steer.inference.batching import encode
from lens_steer.interop.exports.lora import circle_weights, export_circle, export_lora
from lens_steer.interop.exports.merged import export_merged
from lens_steer.interop.exports.recipes import recipe
from lens_steer.metrics.refusal_score import refusal_score, refusal_scores_by_value, refusal_tokens

model = ls.load_model("organism/qwen2")
prompts = ls.load_contrast("organism/refusal")
cal = ls.calibrate(ls.record(model, prompts.fit, engine="hf", progress=False))
plan = ls.selective_steering(cal, 150)
asked = prompts.report.positive[:8]
os.chdir(tempfile.mkdtemp())  # exports go with the temporary folder
plan

# %% [markdown]
# A rotation at the output of a norm is linear, and `R − I` has rank 2. What a norm gives out is read by linear layers only, so the rotation folds
# into each of them as a change of rank 2: a LoRA adapter, exactly.
#
# ## The whole circle in two adapters
#
# `R_θ − I = (cos θ − 1) I + sin θ J`: one adapter scaled by `cos θ − 1` and one by `sin θ` are the rotation by any angle. The export is loaded
# back and compared with the hooks before it is kept; here it is done once more by hand, with PEFT and Transformers alone. Lines: the hooked
# model. Points: the served one.

# %%
certificates = export_circle(plan, model, "circle")
base = AutoModelForCausalLM.from_pretrained(model.lens_info.folder, dtype=torch.float32)
served = PeftModel.from_pretrained(base, "circle/cosine", adapter_name="cosine")
served.load_adapter("circle/sine", adapter_name="sine")
tokenizer = AutoTokenizer.from_pretrained(model.lens_info.folder)
begins = refusal_tokens(model.lens_info)


def served_score(prompt):
    with torch.inference_mode():
        logits = served(torch.tensor([encode(tokenizer, prompt)])).logits[0, -1]
    return float(refusal_score(logits, begins))


angles = [float(a) for a in range(0, 360, 15)]
_, hooked = refusal_scores_by_value(model, partial(ls.selective_steering, cal), angles, asked)
points = {}
for angle in angles[::3]:
    name = f"angle_{angle:.0f}"
    weights = list(circle_weights(angle))
    served.add_weighted_adapter(["cosine", "sine"], weights, name, combination_type="cat")
    served.set_adapter(name)
    points[angle] = np.array([served_score(prompt) for prompt in asked])
with styled():
    figure, axis = plt.subplots(figsize=(4.6, 2.7))
    axis.plot(angles, hooked.T, color=BLUE, lw=0.8, alpha=0.7)
    for angle, scores in points.items():
        axis.plot([angle] * len(scores), scores, color=VERMILION, marker="o", ms=3, ls="none")
    axis.axhline(0, color=GREY, lw=0.6)
    axis.set(
        xlabel="angle (degrees)",
        ylabel="refusal score (nats)",
        xticks=range(0, 361, 90),
        title=f"{len(asked)} harmful prompts: hooks (lines), adapters (points)",
    )
largest = max(abs(points[a] - hooked[:, angles.index(a)]).max() for a in points)
print(f"largest difference of a score: {largest:.1e} nats")

# %% [markdown]
# ## The certificate
#
# Every export is run beside the hooked model, freely and on forced answers. One that does not do what the hooks do is an error, and nothing is kept.

# %%
certificates[200.0]

# %% [markdown]
# ## One angle: a LoRA adapter
#
# In PEFT's format, for any engine that reads it. Loaded here by hand and compared answer by answer:

# %%
export_lora(plan, model, "adapter")
for path in sorted(Path("adapter").iterdir()):
    print(f"{path.name:28} {path.stat().st_size / 1024:6.1f} KiB")
base = AutoModelForCausalLM.from_pretrained(model.lens_info.folder, dtype=torch.float32)
served = PeftModel.from_pretrained(base, "adapter").eval()


def said(model, prompt):
    ids = torch.tensor([encode(tokenizer, prompt)])
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=32,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


with ls.steering(model, plan):
    hooked = ls.generate(model, asked, max_new_tokens=32)
answers = [said(served, prompt) for prompt in asked]
print(f"equal answers: {sum(map(str.__eq__, hooked, answers))} of {len(asked)}")
print("hooks:  ", hooked[0])
print("adapter:", answers[0])
with served.disable_adapter():
    print("without:", said(served, asked[0]))

# %% [markdown]
# ## In the weights: a folder like any other
#
# `W + B A` in every layer that reads a steered norm. No adapter, no hook: `ls.load_model` takes it as a model of its own.

# %%
certificate = export_merged(plan, model, "merged")
answers = ls.generate(ls.load_model("merged"), asked, max_new_tokens=32)
print(f"equal answers: {sum(map(str.__eq__, hooked, answers))} of {len(asked)}")
certificate

# %% [markdown]
# ## What does not fold
#
# Setting an angle (SAS) divides by a length and a gate asks about a sign: neither is linear, and both are refused with their sites. Nothing is
# exported that would be another method.

# %%
for other in (
    ls.standard_angular(cal, 150),
    ls.target_projection(cal, 0, gate="above"),
    ls.selective_steering(cal, 150, positions="generated"),
):
    try:
        export_lora(other, model, "refused")
    except LensSteerError as error:
        print(f"{other.method}: {str(error)[:220]} …\n")

# %% [markdown]
# ## Serving lines
#
# For the two engines that take such adapters; each recipe says what it was tried with. This notebook runs PEFT and Transformers alone.

# %%
print(recipe("vllm", "lora", "adapter", "your/base-model"), "\n")
print(recipe("llama.cpp", "circle", "circle", "your/base-model"))

# %% [markdown]
# `circle.json` holds the weights of the two adapters, for an engine that scales them by request:

# %%
json.loads(Path("circle/circle.json").read_text(encoding="utf-8"))["example"]

# %% [markdown]
# ## What to try next
#
# - Many angles as ready adapters: `from lens_steer.interop.exports.lora import export_bank`.
# - A plan that folds in part: `export_lora(plan, model, "DIR", partial=True)`; the certificate names what was left out.
# - A constant step: `ls.act_add(cal, -1)` folds into biases. On Gemma-2 what feeds a sum does not fold.
# - From the shell: `lens-steer export lora --calibration CAL --angle 150 --out DIR --recipe vllm`.
# - The other way round: `lens-steer import official|angular|refusal-direction|steering-vectors|gguf` brings published directions in.
# - vLLM as an engine of this library, every adapter certified first: `lens-steer sweep … --engine vllm`.
