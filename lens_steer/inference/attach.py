"""Functions that are attached to a model at sites, and removed again without touching other hooks, on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lens_steer.errors import LensSteerError
from lens_steer.models import sites
from lens_steer.models.info import ModelInfo
from lens_steer.models.layout import ROUTER_LOGITS, Layout
from lens_steer.models.loading import info_of

# A function that is called with the activation of a site, ``[batch, pos, d_model]``, and the keyword ``hook``, the hook
# point of TransformerLens or None. The tensor that it returns replaces the activation; None leaves it as it is.
SiteFunction = Callable[..., Tensor | None]


@contextmanager
def attached(
    model: Any, functions: Iterable[tuple[str, SiteFunction]], *, reads: bool = False
) -> Iterator[tuple[object, ...]]:
    """Call functions at named sites in every forward inside the ``with`` block.

    The functions run after everything that is already attached at the same site. At the end exactly these functions are
    removed, also after an exception; hooks of the user stay.

    Args:
        model: A model from :func:`lens_steer.load_model`, or its Hugging Face twin.
        functions: Pairs of a site name and the function to call there, in the order of the calls.
        reads: If True, the functions only read, and return None.

    Yields:
        The handles of the attached functions, in order.

    Raises:
        LensSteerError: If the model has no such hook point, or if a function writes at a site that can only be read on
            a Hugging Face model or a TransformerBridge.

    >>> import lens_steer as ls
    >>> model, shapes = ls.load_model("organism/qwen2"), []
    >>> with attached(model, [("blocks.0.hook_resid_pre", lambda h, hook: shapes.append(tuple(h.shape)))], reads=True):
    ...     logits = model("Hello")
    >>> len(shapes), shapes[0][-1]
    (1, 128)
    """
    info = info_of(model)
    points = {} if info.backend == "hf" else model.hook_dict
    with ExitStack() as stack:
        handles: list[object] = []
        for name, function in functions:
            if not reads:
                _check_written(name, info)
            if info.backend == "hf":
                handle = _at_module(model, sites.parse(name), info.layout, function, stack)
                stack.callback(handle.remove)
            else:
                handle = _at_point(points, sites.point(name, info.layout), function, stack)
            handles.append(handle)
        yield tuple(handles)


def at_input(module: nn.Module, function: SiteFunction, *, prepend: bool = False) -> RemovableHandle:
    """Call a function on the residual stream that a module receives.

    If the function returns a tensor, the tensor replaces the stream; if it returns None, the stream is unchanged.

    Args:
        module: A block or a norm, of any backend.
        function: The function to call; its argument ``hook`` is None.
        prepend: If True, the function runs before the functions that are already attached there.

    Returns:
        The handle that removes the function.

    >>> doubled = at_input(identity := nn.Identity(), lambda h, hook: 2 * h)
    >>> import torch
    >>> identity(torch.tensor(3.0))
    tensor(6.)
    """
    return module.register_forward_pre_hook(partial(_on_input, function=function), with_kwargs=True, prepend=prepend)


@contextmanager
def standing_in(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the ``forward`` of a module inside the ``with`` block.

    If the module already had a replaced ``forward`` (Accelerate sets one on every module that it places), that one is
    restored at the end.

    >>> import torch
    >>> model = nn.Identity()
    >>> with standing_in(model, lambda x: x + 1):
    ...     model(torch.tensor(1))
    tensor(2)
    >>> model(torch.tensor(1))
    tensor(1)
    """
    own = vars(module)
    given = {"forward": own["forward"]} if "forward" in own else {}
    own["forward"] = forward
    try:
        yield
    finally:
        del own["forward"]
        own.update(given)


def _check_written(name: str, info: ModelInfo) -> None:
    """Refuse to write at a site that can only be read."""
    sites.check_writable([name])
    if info.backend != "hooked" and sites.parse(name).kind == "resid_mid":
        whose, mend = {
            "hf": ("by engine='hf'", "engine='tl' on a model with backend='hooked'"),
            "bridge": ("on a TransformerBridge", "backend='hooked'"),
        }[info.backend]
        if not info.known_by_name:
            whose, mend = f"on {info.architecture!r}", "a plan at resid_pre or resid_post"
        raise LensSteerError(
            f"site {name!r} cannot be written {whose} (no module's output is the stream after attention, which goes "
            f"past the norm that reads it too): use {mend}, or steer attn_out"
        )


def _at_point(points: dict[str, Any], name: str, function: SiteFunction, stack: ExitStack) -> object:
    if name not in points:
        raise LensSteerError(f"the model has no hook point {name!r}: load it with lens_steer.load_model")
    point = points[name]
    # model.hooks() is not used: at its end it would remove every hook of its context level, including hooks of the
    # user.
    point.add_hook(function)
    handle = point.fwd_hooks[-1]

    def remove() -> None:
        handle.hook.remove()
        if handle in point.fwd_hooks:
            point.fwd_hooks.remove(handle)

    stack.callback(remove)
    return handle


def _at_module(
    model: Any, site: sites.Site, layout: Layout, function: SiteFunction, stack: ExitStack
) -> RemovableHandle:
    module = model.get_submodule(site.module(layout))
    if site.kind in (*layout.blocks[site.block].flat, ROUTER_LOGITS):
        function = _by_row(model.get_submodule(layout.paths[site.block]), function, stack)
    if site.is_input:
        return at_input(module, function)
    return module.register_forward_hook(partial(_on_output, function=function, place=site.output(layout)))


def _by_row(block: nn.Module, function: SiteFunction, stack: ExitStack) -> SiteFunction:
    """Return a function for an activation ``[batch · pos, width]`` that calls the given one with rows of positions.

    The numbers of rows and positions are those of the stream that went into the block.
    """
    shape: list[int] = []

    def see(h: Tensor, hook: Any = None) -> None:
        shape[:] = h.shape

    def by_row(h: Tensor, hook: Any = None) -> Tensor | None:
        new = function(h.reshape(*shape[:2], -1), hook=hook)
        return None if new is None else new.reshape(h.shape)

    stack.callback(at_input(block, see).remove)
    return by_row


def _on_output(module: nn.Module, args: Any, output: Any, *, function: SiteFunction, place: int) -> Any:
    if not isinstance(output, tuple):
        return function(output, hook=None)
    new = function(output[place], hook=None)
    return None if new is None else (*output[:place], new, *output[place + 1 :])


def _on_input(module: nn.Module, args: Any, kwargs: dict[str, Any], *, function: SiteFunction) -> Any:
    new = function(stream_of(args, kwargs), hook=None)
    if new is None:
        return None
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, _stream_name(kwargs): new})


def stream_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the residual stream among the arguments of a block or a norm: the first one.

    >>> import torch
    >>> stream_of((), {"mask": None, "hidden_states": torch.zeros(1, 2, 3)}).shape
    torch.Size([1, 2, 3])
    """
    return args[0] if args else kwargs[_stream_name(kwargs)]


def _stream_name(kwargs: Mapping[str, Any]) -> str:
    return next(name for name, value in kwargs.items() if isinstance(value, Tensor) and value.is_floating_point())
