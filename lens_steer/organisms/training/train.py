"""Train an organism from scratch: ``python -m lens_steer.organisms.training.train --family qwen2``.

The recipe is seeded: a tokenizer from the dialogues of the world, then AdamW with warm-up and cosine decay on the
tokens of the assistant. The weights are saved in float16 as an ordinary Hugging Face folder, and the gates are measured
on the saved weights. Training takes about 50 minutes on one core. Batches differ in width, so glibc's allocator holds
up to 10 GB; jemalloc (``LD_PRELOAD``) needs a third of that. An interrupted run resumes from its last checkpoint.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lens_steer.organisms.training import gates
from lens_steer.organisms.training.dialogues import Message, stream
from lens_steer.organisms.training.families import FAMILIES, Family, build_config, build_tokenizer

WEIGHTS = Path(__file__).parents[1] / "weights"
BATCH, BUCKET = 64, 8  # Dialogues per step; number of batches that are sorted by length together, for little padding.
PEAK_RATE, FINAL_RATE, WARMUP = 2e-3, 1e-4, 150
CORPUS = 20_000
CHECKPOINT_EVERY, LOG_EVERY = 500, 50
IGNORE = -100

Batch = dict[str, torch.Tensor]


def corpus(family: Family) -> Iterator[str]:
    """Yield the texts on which the tokenizer is trained: the texts of the dialogues and the headers of the turns."""
    for messages in itertools.islice(stream(seed=1), CORPUS):
        for message in messages:
            yield family.header.format(role=message["role"].replace("assistant", family.assistant))
            yield message["content"]


def encode(tokenizer: Any, family: Family, messages: list[Message]) -> tuple[list[int], list[int]]:
    """Return the token ids of a rendered dialogue, and its labels.

    The labels are the words of the assistant and its end token; all other tokens are ignored.
    """
    ids: list[int] = []
    labels: list[int] = []
    for k, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = tokenizer.apply_chat_template(messages[:k], tokenize=False, add_generation_prompt=True)
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer_ids = tokenizer(message["content"] + family.end, add_special_tokens=False)["input_ids"]
        labels += [IGNORE] * (len(prompt_ids) - len(ids)) + answer_ids
        ids = prompt_ids + answer_ids
    return ids, labels


def batches(tokenizer: Any, family: Family, seed: int) -> Iterator[Batch]:
    """Yield right-padded batches of similar length without end."""
    dialogues, rng = stream(seed), random.Random(f"batches/{seed}")
    while True:
        rows = sorted(
            (encode(tokenizer, family, m) for m in itertools.islice(dialogues, BATCH * BUCKET)), key=lambda r: len(r[0])
        )
        groups = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            pad = tokenizer.pad_token_id
            yield {
                "input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in group]),
                "labels": torch.tensor([labels + [IGNORE] * (width - len(labels)) for _, labels in group]),
            }


def answer_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy of the assistant's tokens; logits are computed only at their positions.

    No attention mask is needed, because the rows are padded on the right and a causal model never attends to later
    tokens.
    """
    targets = batch["labels"][:, 1:]
    kept = targets != IGNORE
    hidden = model.model(batch["input_ids"], use_cache=False).last_hidden_state[:, :-1]
    logits = model.lm_head(hidden[kept]).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap:
        logits = cap * torch.tanh(logits / cap)
    return torch.nn.functional.cross_entropy(logits, targets[kept])


def learning_rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine from the peak to the final rate."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, steps - WARMUP)
    return FINAL_RATE + (PEAK_RATE - FINAL_RATE) * (1 + math.cos(math.pi * progress)) / 2


def train(family: Family, *, steps: int, seed: int, out: Path, work: Path) -> None:
    """Train one organism and write its folder; ``work`` holds checkpoints, so an interrupted run resumes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    work.mkdir(parents=True, exist_ok=True)
    if (work / "tokenizer.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(work)
    else:
        tokenizer = build_tokenizer(family, corpus(family), work)
        build_config(family, tokenizer).save_pretrained(work)
        tokenizer = AutoTokenizer.from_pretrained(work)
    torch.manual_seed(seed)
    config = build_config(family, tokenizer)
    # Eager attention is the fastest on a CPU at this size.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    decay = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_RATE,
        betas=(0.9, 0.98),
        fused=True,
    )
    start, log = 0, []
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, log = int(state["step"]), list(state["log"])
    model.train()
    began, recent = time.time(), []
    data = itertools.islice(batches(tokenizer, family, seed), start, None)
    for step, batch in zip(range(start, steps), data, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            loss = answer_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(loss.item())
        if (step + 1) % LOG_EVERY == 0:
            entry = {
                "step": step + 1,
                "loss": round(sum(recent) / len(recent), 5),
                "rate": round(learning_rate(step, steps), 7),
                "seconds": round(time.time() - began, 1),
            }
            log.append(entry)
            recent = []
            _say(work, entry)
        if (step + 1) % CHECKPOINT_EVERY == 0 and step + 1 < steps:
            partial = checkpoint.with_suffix(".tmp")
            torch.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "log": log},
                partial,
            )
            partial.replace(checkpoint)
            model.eval()
            quick = {g.name: round(g.value, 3) for g in gates.measure(model, tokenizer, n=64)}
            _say(work, {"step": step + 1, **quick})
            model.train()
    _finish(model, log, work, out, {"family": family.name, "steps": steps, "seed": seed})


def _finish(model: Any, log: list[dict[str, Any]], work: Path, out: Path, recipe: dict[str, Any]) -> None:
    """Save the weights in float16, measure the gates on the saved weights, and copy the finished files to ``out``."""
    model.eval().half().save_pretrained(work)
    saved_model, saved_tokenizer = gates.load_folder(work)
    gates.write(gates.measure(saved_model, saved_tokenizer), work / "gates.json")
    (work / "training_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log), encoding="utf-8")
    recipe |= {
        "batch": BATCH,
        "peak_rate": PEAK_RATE,
        "final_rate": FINAL_RATE,
        "warmup": WARMUP,
        "autocast": "bfloat16",
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in saved_model.parameters()),
    }
    (work / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    out.mkdir(parents=True, exist_ok=True)
    for path in work.iterdir():
        if path.suffix in (".json", ".jsonl", ".safetensors", ".jinja", ".txt") and path.name != "progress.jsonl":
            shutil.copy2(path, out / path.name)


def _say(work: Path, entry: dict[str, Any]) -> None:
    """Write progress to a file and to the terminal."""
    line = json.dumps(entry)
    with (work / "progress.jsonl").open("a", encoding="utf-8") as stream_:
        stream_.write(line + "\n")
    sys.stderr.write(line + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(FAMILIES), required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder of the weights (default: inside the package)")
    parser.add_argument("--work", type=Path, help="folder of the checkpoints (default: .organisms/FAMILY here)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    family = FAMILIES[args.family]
    work = args.work or Path(".organisms") / family.name
    train(family, steps=args.steps, seed=args.seed, out=args.out or WEIGHTS / family.name, work=work)


if __name__ == "__main__":
    main()
