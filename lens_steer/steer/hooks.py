"""The typed hooks that carry out a plan, on a HookedTransformer, a TransformerBridge or a plain Hugging Face model.

``with steering(model, plan):`` adds exactly the plan's hooks and removes exactly those, also after an exception. A hook
is a :func:`functools.partial` over a pure operator and a clock. The clock knows which tokens of the running forward are
steered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_steer.errors import LensSteerError, expect
from lens_steer.inference.attach import SiteFunction, attached, stream_of
from lens_steer.inference.clock import Clock, clock_for
from lens_steer.inference.engines import Active, active
from lens_steer.models import sites
from lens_steer.models.fits import check_fits
from lens_steer.models.loading import blocks_of, embedding_of, final_norm_of, info_of
from lens_steer.operators.catalogue import Bound, bind, operator
from lens_steer.steer.effects import EffectLog, Tally
from lens_steer.steer.plans import SteeringPlan, Step

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint


log = logging.getLogger(__name__)


@runtime_checkable
class SteeringHook(Protocol):
    """A hook that steers: it takes a site's activation and returns the tensor that replaces it.

    ``hook`` is the hook point at which it is called, or None at a module of a Hugging Face model.
    """

    def __call__(
        self, activation: Float[Tensor, "batch pos d_model"], *, hook: HookPoint | None
    ) -> Float[Tensor, "batch pos d_model"]: ...


@contextmanager
def steering(model: Any, plan: SteeringPlan, *, effects: EffectLog | None = None, tell: bool = True) -> Iterator[Any]:
    """Steer a model for the length of a ``with`` block.

    The block adds exactly the plan's hooks and removes exactly those, also after an exception. Hooks that were there
    before stay. Plans of nested blocks act one after the other, the outer plan first. Padding is never steered. At the
    end of the block a warning is logged if the model ran and the plan did nothing: no token was at its positions, no
    gate fired, or its parameters are the identity.

    Args:
        model: A model from :func:`lens_steer.load_model`, or its Hugging Face twin.
        plan: A plan made for this model.
        effects: A log that records what the plan did, site by site; None records nothing.
        tell: Whether to warn if tokens were steered and no activation changed. Pass False where a study measures the
            identity on purpose.

    Yields:
        The model.

    Raises:
        LensSteerError: If the model has processed weights, if the plan was made for another model or has no site, or if
            one of its sites does not exist in the model or cannot be written.
    """
    expect(
        "plan",
        plan,
        SteeringPlan,
        "steering(model, plan) takes one plan, such as ls.selective_steering(calibration, 150); nest blocks for "
        "several",
    )
    info = info_of(model)
    check_fits(plan, model)
    if not plan.sites:
        raise LensSteerError(f"the plan {plan.method!r} matches no site: make it with at=… naming some")
    outside = [name for name in plan.sites if sites.parse(name).block >= info.n_layers]
    if outside:
        raise LensSteerError(
            f"the plan names {outside[0]!r}, and the model has {info.n_layers} blocks: make the plan on this model"
        )
    tally = Tally()
    with _in_force(model, plan, effects, tally):
        yield model
    tally.settle()
    if message := tally.told(plan, tell=tell):
        log.warning("%s", message)


@contextmanager
def _in_force(model: Any, plan: SteeringPlan, effects: EffectLog | None, tally: Tally) -> Iterator[None]:
    """Attach the plan's hooks to the model, or to its twin, and count in the tally what they did."""
    clock, functions = clock_for(model, plan.positions), []
    for step in plan.steps:
        # The vectors of a step are moved to each device once: a model may be spread over several devices.
        bound: dict[torch.device, Bound] = {}
        for name in step.sites:
            like = example(model, name)
            if like.device not in bound:
                bound[like.device] = bind_rows(step, like, clock)
            functions.append((name, _hook(step, bound[like.device], clock, name, effects, model, tally)))
    again = partial(_in_force, plan=plan, effects=effects, tally=tally)
    after = partial(_after_blocks, method=plan.method, tally=tally)
    with following(
        model,
        clock,
        functions,
        plan.method,
        again,
        n_rows=plan.n_rows,
        tokens=effects is not None,
        after=after,
        plan=plan if effects is None else None,
    ):
        yield
        tally.forwards, tally.steered = tally.forwards + clock.forwards, tally.steered + clock.steered


@contextmanager
def following(
    model: Any,
    clock: Clock,
    functions: Iterable[tuple[str, SiteFunction]],
    method: str,
    again: Callable[[Any], Any],
    *,
    n_rows: int | None = None,
    tokens: bool = True,
    reads: bool = False,
    after: Callable[..., None] | None = None,
    plan: SteeringPlan | None = None,
) -> Iterator[None]:
    """Attach functions at sites for the length of the block, with a clock that is told of every forward.

    The clock is told three things of each forward, in this order. A pre-hook of the model announces the forward and its
    attention mask. A pre-hook of the embedding gives the token ids. A pre-hook of the first block starts the forward,
    since the batch size, the width and the number of cached columns are known there.

    Args:
        model: A model of any backend.
        clock: The clock from which the functions read where the running forward is in its batch.
        functions, reads: See :func:`lens_steer.inference.attach.attached`.
        method: The name that messages use for these functions.
        again: A function that puts the same functions in force on another model.
        n_rows: The number of prompts for which there is one value each; None where one value serves all prompts.
        tokens: Whether the clock is also given the token ids of each forward. A clock that reads segments always is.
        after: A function that is called before the last norm, with the arguments of a forward pre-hook.
        plan: The plan that the functions carry out, if they do nothing else; see
            :class:`lens_steer.inference.engines.Active`.
    """
    with ExitStack() as stack:
        followers = [
            model.register_forward_pre_hook(partial(_announce, clock=clock), with_kwargs=True),
            blocks_of(model)[0].register_forward_pre_hook(partial(_start, clock=clock), with_kwargs=True),
        ]
        if tokens or clock.segments is not None:
            followers.append(embedding_of(model).register_forward_pre_hook(partial(_follow, clock=clock)))
        if after is not None:
            followers.append(final_norm_of(model).register_forward_pre_hook(after))
        for follower in followers:
            stack.callback(follower.remove)
        handles = stack.enter_context(attached(model, functions, reads=reads))
        stack.enter_context(active(model, Active(method, handles, tuple(followers), n_rows, again, plan)))
        yield


class _ByRow:
    """The bound operator of a step that has one value for each row.

    It is bound to the values of the rows that are running, and bound again only when these rows change.
    """

    def __init__(self, step: Step, like: Tensor, clock: Clock) -> None:
        self._step, self._like, self._clock = step, like, clock
        self._rows: Tensor | None = None
        self._bound: Bound | None = None

    def __call__(self, h: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        rows = self._clock.rows
        if rows is None and len(h) != self._step.n_rows:
            raise LensSteerError(
                f"the plan has a value for each of {self._step.n_rows} rows, and the batch has {len(h)}: give as many"
            )
        if self._bound is None or rows is not self._rows:
            self._rows = rows
            with torch.inference_mode(False):  # a later forward with gradients may then use these tensors
                parameters = self._step.parameters if rows is None else self._step.at_rows(rows)
                self._bound = bind(self._step.operator, parameters, self._like)
        return self._bound(h)


def bind_rows(step: Step, like: Tensor, clock: Clock) -> Bound:
    """Return the step's bound operator; with one value for each row, it follows the rows of the running batch."""
    return bind(step.operator, step.parameters, like) if step.n_rows is None else _ByRow(step, like, clock)


def _hook(
    step: Step, bound: Bound, clock: Clock, site: str, effects: EffectLog | None, model: Any, tally: Tally
) -> SteeringHook:
    gate = operator(step.operator).gate
    fires = None if gate is None else gate(step.parameters, example(model, site))
    plain = partial(_steer, operator=bound, clock=clock, tally=tally, fires=fires)
    if effects is None:
        return plain
    ends = info_of(model).end_tokens
    return partial(_steer_and_log, steer=plain, clock=clock, fires=fires, site=site, effects=effects, end_tokens=ends)


def _steer(
    activation: Float[Tensor, "batch pos d_model"],
    hook: HookPoint | None = None,
    *,
    operator: Bound,
    clock: Clock,
    tally: Tally,
    fires: Callable[[Tensor], Tensor] | None,
) -> Float[Tensor, "batch pos d_model"]:
    """Apply the operator at the steered positions and leave all others as they are; this is the hook."""
    if not clock.started:  # the forward did not begin at the first block, where the clock is started
        clock.start(activation.shape[0], activation.shape[1])
    selected = clock.selected
    if clock.idle:
        return activation
    steered = operator(activation)
    if selected is not None:
        selected = selected.to(activation.device)
        steered = torch.where(selected[..., None], steered, activation)
    if not tally.changed:
        tally.see(activation, steered, fires, selected)
    return steered


def _steer_and_log(
    activation: Float[Tensor, "batch pos d_model"],
    hook: HookPoint | None = None,
    *,
    steer: Callable[[Tensor], Tensor],
    clock: Clock,
    fires: Callable[[Tensor], Tensor] | None,
    site: str,
    effects: EffectLog,
    end_tokens: tuple[int, ...],
) -> Float[Tensor, "batch pos d_model"]:
    """Run :func:`_steer` and add what it did to the log."""
    steered = steer(activation)
    fired = torch.ones_like(activation[..., 0], dtype=torch.bool) if fires is None else fires(activation)
    effects.add(site, activation, steered, fired, clock.counted(activation.shape[1], end_tokens))
    return steered


def _announce(module: nn.Module, args: Any, kwargs: dict[str, Any], *, clock: Clock) -> None:
    positional = args[1] if len(args) > 1 and isinstance(args[1], Tensor) and info_of(module).backend == "hf" else None
    clock.announce(kwargs.get("attention_mask", positional))


def _start(module: nn.Module, args: Any, kwargs: dict[str, Any], *, clock: Clock) -> None:
    stream = stream_of(args, kwargs)
    clock.start(stream.shape[0], stream.shape[1], sites.cached_columns((*args, *kwargs.values())))


def _follow(module: nn.Module, args: tuple[Any, ...], *, clock: Clock) -> None:
    if args and isinstance(args[0], Tensor) and args[0].ndim == 2:
        clock.follow(args[0])


def _after_blocks(module: nn.Module, args: tuple[Any, ...], *, method: str, tally: Tally) -> None:
    """Refuse activations that are not finite, before the last norm, and read the tally.

    A steered model whose activations overflow raises an error here instead of answering nonsense. The check waits for
    the device, so reading the tally afterwards costs nothing.
    """
    if not bool(torch.isfinite(args[0][:, -1]).all()):
        raise LensSteerError(
            f"under the plan {method!r} activations are not finite any more: steer less strongly, or load the "
            "model in float32 or bfloat16"
        )
    tally.settle()


def example(model: Any, site: str) -> Float[Tensor, " d_model"]:
    """Return a zero vector with the width, dtype and device of the site's activations."""
    at, info = sites.parse(site), info_of(model)
    block = blocks_of(model)[at.block]
    # The integer dtype of a quantised weight is not the dtype of the activations.
    parameter = next(p for p in block.parameters() if p.is_floating_point())
    return torch.zeros(sites.width_at(at, info.layout, info.d_model), dtype=parameter.dtype, device=parameter.device)
