"""EleutherAI's lm-evaluation-harness on a steered model: its tasks, with capability scored as everywhere else, under a
plan.

.. code-block:: python

    lm = SteeredLM(model, plan)
    lm_eval.simple_evaluate(lm, tasks=["tinyMMLU"], apply_chat_template=True)

Needs ``pip install 'lens-steer[evals]'``; without it this module imports, and :class:`SteeredLM` says so. Texts are
tokenised as the harness's own ``HFLM`` does: context and continuation together, spaces at the end of the context
counted to the continuation. A rendered chat has the chat template's own tokens (``HFLM`` adds the tokenizer's to them),
any other text those that the tokenizer adds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from tqdm.auto import tqdm

from lens_steer._defaults import ENGINE
from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
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

Scored = tuple[float, bool]  # log-probability of a continuation, and whether it is the greedy one
Pair = tuple[Any, list[int], list[int]]  # what was asked for, context and continuation as tokens


class SteeredLM:
    """A model under a plan as the harness wants it: a ``TemplateLM``, and so a ``lm_eval.api.model.LM``, for
    ``simple_evaluate`` and ``evaluate``.

    Generation is greedy with nothing else applied (a model folder may ask for a repetition penalty, which ``HFLM``
    would follow). A plan's positions see a request's context as the prompt and its continuation, or what is generated,
    as the answer. The harness's cache of responses (``use_cache``) knows nothing of plans: give each plan a file of its
    own.

    Args:
        model: from :func:`lens_steer.load_model`.
        plan: in force for every request, after whatever else is active on the model when the harness runs; None adds
            nothing.
        engine: ``"hf"`` or ``"tl"``; see :func:`lens_steer.generate`.
        batch_size: requests a batch at most.
        max_gen_toks: tokens of an answer where a task does not say.

    Raises:
        LensSteerError: the harness is not installed, a plan that does not fit the model or has a value a prompt, an
            unknown engine, ``batch_size`` below 1.
    """

    cache_hook: Any  # the harness sets it
    loglikelihood: Callable[
        [Sequence[Any]], list[Scored]
    ]  # the harness's own: tokenises pairs, then _loglikelihood_tokens

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
        check_engine(engine)
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
        with self._steered():  # what cannot be steered is refused before any task is read
            pass

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; the first one where the tokenizer has none, since the harness asks for one."""
        return next((t for t in (self.tokenizer.eos_token_id, *info_of(self.model).end_tokens) if t is not None), 0)

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is replaced by."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """By which the harness keeps requests that it has rendered."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        info = info_of(self.model)
        plan = None if self.plan is None else self.plan.row()
        return {"lens_model": info.name, "model_dtype": info.dtype, "lens_engine": self.engine, "lens_plan": plan}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; a rendered chat has its template's own special tokens, and a text that begins with the beginning
        token gets no second one.
        """
        if add_special_tokens is None and self._opening and string.startswith(self._opening):
            add_special_tokens = False
        if add_special_tokens is None:
            return plain_ids(self.tokenizer, string)
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as text; a template without a system role gets the system text at the head of the first user message
        (``HFLM`` leaves it out).

        Args:
            chat_history: messages.
            add_generation_prompt: False leaves the last message, an assistant's, open.

        Raises:
            LensSteerError: no chat template, or one that refuses the messages.
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
        except Exception:  # the template's own, of any kind; what it cannot do is said by chat.render
            return batching.render(self.tokenizer, Prompt(tuple(chat_history[:-1]))) + chat_history[-1]["content"]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, in windows of the model's context."""
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
        """Greedy answers, each cut at the first of its stop sequences.

        Raises:
            LensSteerError: a task that samples, or that leaves no room for a context.
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
        """Log-probability and greediness of each continuation; requests that are fed the same tokens, as the options of
        a question often are, share a row.
        """
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
        """The model that does the work, under the plan."""
        try:
            check_rows(self.model, 0)
        except LensSteerError:
            raise LensSteerError(
                "the plan in force has a value for each prompt, and the harness makes its own requests: use one value"
            ) from None
        if self.plan is None:
            with on_engine(self.model, self.engine) as runner:
                yield runner
        else:
            with steering(self.model, self.plan), on_engine(self.model, self.engine) as runner:
                yield runner

    def _shortened(self, ids: list[int], room: int) -> list[int]:
        """The last ``room`` tokens."""
        if room < 1:
            raise LensSteerError(
                f"max_gen_toks={self.max_length - room} leaves no room in the model's context of "
                f"{self.max_length}: ask for fewer, "
                "such as gen_kwargs='max_gen_toks=64'"
            )
        if len(ids) > room:
            log.warning("a request of %d tokens was cut on the left to %d", len(ids), room)
        return ids[-room:]


@cache
def _with_harness() -> type[SteeredLM]:
    """:class:`SteeredLM` joined to the harness's own class, which lends it the tokenising of pairs."""
    try:
        from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise LensSteerError("SteeredLM needs lm-evaluation-harness: pip install 'lens-steer[evals]'") from None
    joined: Any = type(TemplateLM)
    return joined("SteeredLM", (SteeredLM, TemplateLM), {"__doc__": SteeredLM.__doc__, "__module__": __name__})
