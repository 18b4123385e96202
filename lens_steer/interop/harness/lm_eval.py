"""EleutherAI's lm-evaluation-harness on a steered model: the harness's tasks and scores, under a plan.

.. code-block:: python

    lm = SteeredLM(model, plan)
    lm_eval.simple_evaluate(lm, tasks=["tinyMMLU"], apply_chat_template=True)

The harness is installed with ``pip install 'lens-steer[evals]'``. Without it this module can be imported, and
:class:`SteeredLM` raises an error that says so. Texts are tokenised as the harness's own ``HFLM`` does: context and
continuation together, with spaces at the end of the context moved to the continuation. A rendered chat has only the
special tokens of the chat template (``HFLM`` also adds those of the tokenizer). Any other text has those that the
tokenizer adds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from tqdm.auto import tqdm

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError, installed
from lens_steer.inference import batching
from lens_steer.inference.engines import check_engine, check_rows, on_engine
from lens_steer.inference.forward import last_logits
from lens_steer.inference.generation import answer_ids
from lens_steer.inference.teacher_forcing import logits_budget
from lens_steer.interop.harness.lm_eval_generation import Wanted, cut
from lens_steer.models.loading import device_of, info_of
from lens_steer.models.templates import template_of
from lens_steer.models.tokenization import pad_id, plain_ids
from lens_steer.steer.hooks import steering
from lens_steer.steer.plans import SteeringPlan

log = logging.getLogger(__name__)

Scored = tuple[float, bool]  # log-probability of a continuation, and True if it is the greedy one
Pair = tuple[Any, list[int], list[int]]  # the request's pair of texts, and the tokens of context and continuation


class SteeredLM:
    """A model under a plan for the harness: a ``TemplateLM``, and so a ``lm_eval.api.model.LM``.

    It is an argument of ``simple_evaluate`` and ``evaluate``. Decoding is greedy without any other processing (a model
    folder may ask for a repetition penalty, which ``HFLM`` would apply). For the positions of a plan, the context of a
    request is the prompt, and the continuation or the generated text is the answer. The harness's cache of responses
    (``use_cache``) does not depend on the plan, so use a separate file for each plan.

    Args:
        model: A model of :func:`lens_steer.load_model`.
        plan: The plan that is in force for every request. It acts after any other plan that is active on the model when
            the harness runs. None adds nothing.
        engine: ``"hf"`` or ``"tl"``; see :func:`lens_steer.generate`.
        batch_size: The largest number of requests in a batch.
        max_gen_toks: The largest number of tokens of an answer, for tasks that give none.

    Raises:
        LensSteerError: If the harness is not installed, if the plan does not fit the model or has one value per prompt,
            if the engine is unknown, or if ``batch_size`` is below 1.
    """

    cache_hook: Any  # set by the harness
    # The harness's own method: it tokenises pairs of texts and calls _loglikelihood_tokens.
    loglikelihood: Callable[[Sequence[Any]], list[Scored]]

    def __new__(cls, *args: Any, **kwargs: Any) -> SteeredLM:
        return object.__new__(_with_harness() if cls is SteeredLM else cls)

    def __init__(
        self,
        model: Any,
        plan: SteeringPlan | None = None,
        engine: str = ENGINE,
        batch_size: int = 64,
        max_gen_toks: int = 256,
    ) -> None:
        super().__init__()
        info = info_of(model)
        check_engine(engine, answers=False)
        if batch_size < 1:
            raise LensSteerError(f"batch_size={batch_size}: at least 1 is needed")
        if plan is not None and plan.n_rows is not None:
            raise LensSteerError(
                f"the plan {plan.method!r} has a value for each of {plan.n_rows} prompts, and the harness makes "
                "its own requests: use one value"
            )
        self.model, self.plan, self.engine, self.batch_size = model, plan, engine, batch_size
        self.tokenizer, self.max_length, self.max_gen_toks = info.tokenizer, info.n_ctx, max_gen_toks
        self._opening = "" if info.template.plain else batching.opening(info.tokenizer)
        self._device = device_of(model)
        with self._steered():  # refuses a plan that does not fit the model, before any task is read
            pass

    @property
    def eot_token_id(self) -> int:
        """Return the token that ends a text.

        If the tokenizer has none, this is the model's first end token, or 0 without one, because the harness needs a
        token.
        """
        return next((t for t in (self.tokenizer.eos_token_id, *info_of(self.model).end_tokens) if t is not None), 0)

    @property
    def prefix_token_id(self) -> int:
        """Return the token that replaces an empty context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """Return the name under which the harness stores requests that it has rendered."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Return the facts on the model that the harness writes beside its results."""
        info = info_of(self.model)
        plan = None if self.plan is None else self.plan.row()
        return {"lens_model": info.name, "model_dtype": info.dtype, "lens_engine": self.engine, "lens_plan": plan}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the token ids of a text.

        A rendered chat has only its template's own special tokens. A text that begins with the beginning-of-sequence
        token does not get a second one.
        """
        if add_special_tokens is None and self._opening and string.startswith(self._opening):
            add_special_tokens = False
        if add_special_tokens is None:
            return plain_ids(self.tokenizer, string)
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a chat as text.

        If the template has no system role, the system text is put at the beginning of the first user message (``HFLM``
        leaves it out).

        Args:
            chat_history: The messages.
            add_generation_prompt: False leaves the last message, which is an assistant's, open.

        Raises:
            LensSteerError: If there is no chat template, or if it refuses the messages.
        """
        if add_generation_prompt:
            return batching.render(self.tokenizer, Prompt(tuple(chat_history)))
        try:
            return self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=False,
                continue_final_message=True,
                **template_of(self.tokenizer).options,
            )
        except Exception:  # a template may raise any error; batching.render raises a LensSteerError if it fails as well
            return batching.render(self.tokenizer, Prompt(tuple(chat_history[:-1]))) + chat_history[-1]["content"]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of whole texts, in windows of the model's context."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # pyright: ignore[reportMissingImports]

        texts = [request.args[0] for request in requests]
        windows = [
            (row, make_disjoint_window(window))
            for row, text in enumerate(texts)
            for window in get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
        ]
        scored = self._loglikelihood_tokens([(None, *window) for _, window in windows], disable_tqdm)
        totals = [0.0] * len(texts)
        for (row, _), (value, _) in zip(windows, scored, strict=True):
            totals[row] += value
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return greedy answers, each cut before the first of its stop sequences.

        Raises:
            LensSteerError: If a task samples, or if the length of its answers leaves no room for a context.
        """
        wanted = [Wanted.of(request.args[1], self.max_gen_toks) for request in requests]
        encoded = [
            self._shortened(self.tok_encode(request.args[0]) or [self.prefix_token_id], self.max_length - w.tokens)
            for request, w in zip(requests, wanted, strict=True)
        ]
        answers = [""] * len(requests)
        with (
            self._steered() as runner,
            tqdm(total=len(requests), desc="generate_until", disable=disable_tqdm, leave=False) as bar,
        ):
            for kind in dict.fromkeys(wanted):
                rows = [(row, ids, 0) for row, ids in enumerate(encoded) if wanted[row] == kind]
                for batch in self._batches(runner, rows, extra=kind.tokens):
                    for row, ids in zip(
                        batch.rows, answer_ids(runner, batch, kind.tokens, until=kind.until), strict=True
                    ):
                        answers[row] = cut(self.tokenizer.decode(ids, skip_special_tokens=True), kind.until)
                        self.cache_hook.add_partial("generate_until", requests[row].args, answers[row])
                    bar.update(len(batch.rows))
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[Scored]:
        """Return the log-probability of each continuation, and True if it is the greedy one.

        Requests with the same input tokens share a row of a batch, as the options of a question often do.
        """
        # The logits at a token predict the next one, so the last token of a request is not fed to the model. Options
        # of one token after the same context therefore have the same input, and one row gives the logits of all.
        fed: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for row, (asked, context, continuation) in enumerate(requests):
            if not continuation or not context or len(continuation) > self.max_length:
                raise LensSteerError(
                    f"request {row} ({str(asked)[:60]}…) has {len(context)} context and {len(continuation)} "
                    "continuation tokens: at least 1 of each is needed, and at most "
                    f"{self.max_length} of a continuation"
                )
            whole = self._shortened(context + continuation, self.max_length + 1)
            fed.setdefault((tuple(whole[:-1]), len(continuation)), []).append(row)
        keys = list(fed)
        found: list[Scored] = [(0.0, False)] * len(requests)
        with (
            self._steered() as runner,
            tqdm(total=len(requests), desc="loglikelihood", disable=disable_tqdm, leave=False) as bar,
        ):
            rows = [(i, list(ids), length - 1) for i, (ids, length) in enumerate(keys)]
            for batch in self._batches(runner, rows, max_logits=logits_budget(runner)):
                logits = last_logits(runner, batch, max(batch.response_lengths) + 1)
                for i, row_logits in zip(batch.rows, logits, strict=True):
                    spread = row_logits[-keys[i][1] :].float().log_softmax(dim=-1)
                    greedy = spread.argmax(dim=-1).tolist()
                    for row in fed[keys[i]]:
                        asked, _, continuation = requests[row]
                        picked = spread.gather(-1, torch.tensor(continuation, device=spread.device)[:, None])
                        found[row] = (float(picked.double().sum()), greedy == continuation)
                        if asked is not None:
                            self.cache_hook.add_partial("loglikelihood", asked, found[row])
                    bar.update(len(fed[keys[i]]))
        return found

    def _batches(
        self, runner: Any, rows: Sequence[tuple[int, list[int], int]], **limits: Any
    ) -> Iterator[batching.Batch]:
        return batching.padded(
            rows, pad_id(self.tokenizer), max_rows=self.batch_size, device=device_of(runner), **limits
        )

    @contextmanager
    def _steered(self) -> Iterator[Any]:
        """Yield the model that runs, under the plan."""
        try:
            check_rows(self.model, 0)
        except LensSteerError:
            raise LensSteerError(
                "the plan in force has a value for each prompt, and the harness makes its own requests: use one value"
            ) from None
        under = nullcontext() if self.plan is None else steering(self.model, self.plan)
        with under, on_engine(self.model, self.engine) as runner:
            yield runner

    def _shortened(self, ids: list[int], room: int) -> list[int]:
        """Return the last ``room`` tokens."""
        if room < 1:
            raise LensSteerError(
                f"max_gen_toks={self.max_length - room} leaves no room in the model's context of {self.max_length}: "
                "ask for fewer, such as gen_kwargs='max_gen_toks=64'"
            )
        if len(ids) > room:
            log.warning("a request of %d tokens was cut on the left to %d", len(ids), room)
        return ids[-room:]


@cache
def _with_harness() -> type[SteeredLM]:
    """Return :class:`SteeredLM` joined with the harness's ``TemplateLM``, which tokenises pairs of texts."""
    mend = "SteeredLM needs lm-evaluation-harness: pip install 'lens-steer[evals]'"
    harness = installed("lm_eval.api.model", mend).TemplateLM
    return type(harness)("SteeredLM", (SteeredLM, harness), {"__doc__": SteeredLM.__doc__, "__module__": __name__})
