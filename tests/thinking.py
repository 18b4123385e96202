"""A tiny random model that has marks of thoughts, and a template with a mode for thinking."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from lens_steer.data import Prompt
from lens_steer.inference.batching import Batch
from lens_steer.inference.clock import clock_for
from lens_steer.inference.places import Places
from lens_steer.inference.segments import ANSWER, MARK, THOUGHT
from lens_steer.models.thoughts import TAGS
from lens_steer.organisms.training.dialogues import stream
from lens_steer.organisms.training.families import FAMILIES, VOCABULARY, build_tokenizer
from tests.tiny import config_of, save_random

LETTER = {MARK: ".", THOUGHT: "t", ANSWER: "a"}
ASKED = [Prompt.of("How do I burn a bridge?"), Prompt.of("Please help me dig a well at harbour 3."), Prompt.of("Hi")]
SAID = [
    "It is a bridge.</think>Take the rope now.",
    "Which well?</think>\nDig",
    "No.</think>Hello to you, and good day.",
]
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
)
CHANNEL_TOKENS = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|return|>", "<|call|>")


def template(opening: str, closing: str, *, opened: bool) -> str:
    """Qwen3's way: without thinking, the prompt holds an empty thought. ``opened``: with it, an opened one (R1's)."""
    begin = f"{{% else %}}{opening}\n" if opened else ""
    return f"{TURNS}{opening}\n\n{closing}\n\n{begin}{{% endif %}}{{% endif %}}"


def build_thinking(
    folder: Path,
    marks: tuple[str, ...] = TAGS[0],
    *,
    mode: tuple[str, str] | None = None,
    opened: bool = True,
    special: bool = False,
) -> Path:
    """Save a tiny Qwen3 whose vocabulary has the marks as added tokens; ``mode`` are other ones, of its template."""
    texts = (m["content"] for messages in itertools.islice(stream(3), 300) for m in messages)
    tokenizer = build_tokenizer(FAMILIES["qwen2"], texts, folder)
    tokenizer.add_tokens(list(marks), special_tokens=special)
    if mode is not None or len(marks) == 2:
        opening, closing = marks if mode is None else mode
        tokenizer.chat_template = template(opening, closing, opened=opened)
    tokenizer.save_pretrained(folder)
    changes = {"vocab_size": VOCABULARY + len(marks), "max_position_embeddings": 256}
    return save_random(config_of("qwen3", tokenizer, **changes), folder)


def ids_of(model: Any, text: str) -> list[int]:
    """The token ids of a text."""
    return list(model.lens_info.tokenizer(text, add_special_tokens=False)["input_ids"])


def spelled(model: Any, batch: Batch, positions: str) -> list[str]:
    """The selected tokens of every row, in the order of the prompts, decoded."""
    chosen = clock_for(model, positions).columns(Places.of(batch), 0, batch.ids.shape[1])
    found = [model.lens_info.tokenizer.decode(ids[own]) for ids, own in zip(batch.ids, chosen, strict=True)]
    return [found[batch.rows.index(row)] for row in range(len(found))]
