"""A causal language model from Hugging Face as a judge, whose generated text is read by two patterns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.metrics.judges.pretrained import check_counts, context_of, load_judge_model, name_of
from lens_steer.metrics.judges.reading import VerdictPatterns, fill, read_template
from lens_steer.metrics.judges.verdicts import Verdict, on_answers, progress_bar
from lens_steer.models.tokenization import pad_id, plain_ids


class GenerativeJudge:
    """A causal language model that continues a filled template; two patterns read the verdict from its text.

    Decoding is greedy, in left-padded batches; the model's own sampling settings and repetition penalties are switched
    off. ``raw`` is the judge's text up to its end token.

    The judge gets the last user message as ``{prompt}``. System messages belong to the steered model and are not shown
    to the judge. Neither inputs nor responses are truncated: an input that does not fit the context is an error.

    Args:
        model: A hub name, a local folder, ``organism/…``, or a loaded model with ``tokenizer``.
        template: A text or file with ``{prompt}`` and ``{response}``. None stands for the chat template of the judge's
            tokenizer, applied to the conversation with the response as the assistant's turn, as guard models expect it.
        harmful_pattern, safe_pattern: See :class:`VerdictPatterns`. A text that matches neither pattern, or both, gives
            no verdict.
        chat_turns: True sends the filled template as a user's turn in the chat template of the judge's tokenizer. False
            sends it as the whole input.
        system: A system message before this turn; None for none.
        max_new_tokens: The largest number of tokens of the verdict.
        batch_size: The number of responses in a batch.
        device, dtype, tokenizer: See :func:`lens_steer.metrics.judges.pretrained.load_judge_model`.
        progress: True shows a progress bar if there are many responses.
        name: The name of the judge. None stands for the short name of the model.

    Raises:
        LensSteerError: If there is no such model, if the template or a pattern is not valid, if ``system`` is given
            without a template that is sent as a chat turn, or if the judge's tokenizer lacks a chat template that is
            needed.

    >>> judge = GenerativeJudge("organism/qwen2", "{response}", harmful_pattern="7", safe_pattern="8")
    >>> judge([Prompt.of("any")], ["What is 4 plus 3?"])
    [Verdict(harmful=True, score=None, raw='7.')]
    """

    def __init__(
        self,
        model: Any,
        template: str | Path | None = None,
        *,
        harmful_pattern: str,
        safe_pattern: str,
        chat_turns: bool = True,
        system: str | None = None,
        max_new_tokens: int = 32,
        batch_size: int = 8,
        device: str | torch.device | None = None,
        dtype: str = "auto",
        tokenizer: Any = None,
        progress: bool = True,
        name: str | None = None,
    ) -> None:
        check_counts(max_new_tokens=max_new_tokens, batch_size=batch_size)
        self.patterns = VerdictPatterns(harmful_pattern, safe_pattern)
        self.template = None if template is None else read_template(template)
        self.chat_turns, self.system = chat_turns or template is None, system
        if system is not None and (template is None or not chat_turns):
            raise LensSteerError(
                "system is given without a chat turn of ours to stand before: give template= and chat_turns=True"
            )
        self.name = name or name_of(model)
        self.model, self.tokenizer = load_judge_model(
            "AutoModelForCausalLM", model, tokenizer, device=device, dtype=dtype
        )
        if self.chat_turns and not getattr(self.tokenizer, "chat_template", None):
            raise LensSteerError(
                f"the tokenizer of {self.name!r} has no chat template: give template= with chat_turns=False, or "
                "set its chat_template"
            )
        self.max_new_tokens, self.batch_size, self.progress = max_new_tokens, batch_size, progress

    def __repr__(self) -> str:
        return (
            f"GenerativeJudge({self.name!r}, harmful_pattern={self.patterns.harmful!r}, "
            f"safe_pattern={self.patterns.safe!r})"
        )

    def encode(self, prompt: Prompt, response: str) -> list[int]:
        """Return the token ids of the judge's input for one response.

        These are the ids of the chat template or, with ``chat_turns=False``, those that the tokenizer gives the filled
        template (without a second beginning-of-sequence token).
        """
        if self.template is not None and not self.chat_turns:
            return plain_ids(self.tokenizer, fill(self.template, prompt.text, response))
        if self.template is not None:
            return batching.encode(
                self.tokenizer, Prompt.of(fill(self.template, prompt.text, response), system=self.system)
            )
        turns = tuple(m for m in prompt.messages if m["role"] != "system")
        return batching.encode(self.tokenizer, Prompt((*turns, {"role": "assistant", "content": response})))

    @on_answers
    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]:
        """Judge every response.

        Raises:
            LensSteerError: If the numbers of prompts and responses differ, or if an input and its verdict do not fit
                into the judge's context.
        """
        inputs = [self.encode(p, r) for p, r in zip(prompts, responses, strict=True)]
        context = context_of(self.model)
        for row, ids in enumerate(inputs):
            if context is not None and len(ids) + self.max_new_tokens > context:
                raise LensSteerError(
                    f"response {row} ({responses[row][:40]!r}…) needs {len(ids) + self.max_new_tokens} tokens with "
                    f"its verdict, more than {self.name!r} takes ({context}): shorten the response, or lower "
                    f"max_new_tokens={self.max_new_tokens}"
                )
        texts: dict[int, str] = {}
        sequences = [(row, ids, 0) for row, ids in enumerate(inputs)]
        with progress_bar(self.name, len(inputs), self.progress) as bar:
            for batch in batching.padded(
                sequences,
                pad_id(self.tokenizer),
                max_tokens=sys.maxsize,
                max_rows=self.batch_size,
                device=self.model.device,
            ):
                texts |= dict(zip(batch.rows, self._write(batch), strict=True))
                bar.update(len(batch.rows))
        return [Verdict(self.patterns.read(texts[row]), None, texts[row]) for row in range(len(inputs))]

    def _write(self, batch: batching.Batch) -> list[str]:
        ends = self._end_tokens()
        texts = []
        for ids in self._continue(batch, ends).tolist():
            stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
            texts.append(self.tokenizer.decode(ids[:stop], skip_special_tokens=True))
        return texts

    def _continue(self, batch: batching.Batch, ends: list[int]) -> Int[Tensor, "batch new"]:
        from transformers import GenerationConfig

        # Settings that are not given here would be taken from the checkpoint's generation configuration.
        config = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=ends,
            pad_token_id=pad_id(self.tokenizer),
        )
        with torch.inference_mode():
            ids = self.model.generate(batch.ids, attention_mask=batch.mask, generation_config=config)
        return ids[:, batch.ids.shape[1] :]

    def _end_tokens(self) -> list[int]:
        own = self.model.generation_config.eos_token_id
        listed = own if isinstance(own, list) else [own]
        return sorted({token for token in (*listed, self.tokenizer.eos_token_id) if token is not None})
