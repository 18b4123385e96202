"""One block of a decoder, read backwards from what it gives to the next one; see :mod:`lens_steer.models.structure`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import nn

from lens_steer.errors import LensSteerError
from lens_steer.models.layout import BRANCHES, NORM_KINDS, Block, Router
from lens_steer.models.norms import norm_formula
from lens_steer.models.trace import Operation, Trace

PRODUCTS = ("mm", "addmm", "bmm", "matmul", "linear")  # products of matrices in ATen


class StructureError(LensSteerError):
    """The error for a model that is not built as :mod:`lens_steer.models.structure` says; it tells what was found."""


def read_block(model: nn.Module, trace: Trace, path: str, told: str) -> Block:
    """Read one block from the trace of a forward pass.

    Args:
        model: The model that was traced.
        trace: From :func:`lens_steer.models.trace.traced`.
        path: The path of the block in the model.
        told: The beginning of every message.

    Raises:
        StructureError: If the block does not give its input plus the outputs of one attention and one MLP.

    >>> import transformers
    >>> from lens_steer.models.trace import on_meta, traced
    >>> made = on_meta(transformers.GPTNeoXConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=2))
    >>> read_block(made, traced(made), "gpt_neox.layers.0", "block 0").parallel
    True
    """
    return _Reader(model, trace, path, told).block()


@dataclass(frozen=True)
class _Branch:
    """A value that is added to the stream.

    Attributes:
        module: The outermost module of the block that makes it.
        after, before: The norms around it.
        stream: The value of the stream that it reads.
        attends: Whether it attends over positions.
        scaled: Whether it is multiplied by a number on its way.
    """

    module: str
    after: str | None
    before: str | None
    stream: int
    attends: bool
    scaled: bool


class _Reader:
    def __init__(self, model: nn.Module, trace: Trace, path: str, told: str) -> None:
        self.trace, self.path, self.told = trace, path, told
        call = trace.calls[path]
        self.start, self.end = trace.origin(call.inputs[0]), trace.origin(call.outputs[0])
        # Outer modules first, so that a value belongs to the outermost module that made it.
        self.inside = sorted((n for n in trace.calls if n.startswith(f"{path}.")), key=lambda name: name.count("."))
        self.formulas = {name: f for name in self.inside if (f := norm_formula(model.get_submodule(name)))}

    def block(self) -> Block:
        streams, added, rescaled = self._stream()
        branches = [self._branch(value, streams) for value in added]
        attention, mlp = self._two(branches, streams)
        modules: dict[str, str] = {}
        for (before, out, after), branch in zip(BRANCHES, (attention, mlp), strict=True):
            if branch.before is not None and branch.before not in modules.values():
                modules[before] = branch.before
            modules[out] = branch.module
            if branch.after is not None:
                modules[after] = branch.after
        parallel = mlp.stream == attention.stream
        middle = "" if parallel else mlp.before or self._reader_of(mlp.stream)
        flat = [kind for kind, name in modules.items() if not self._in_rows(self.trace.calls[name].outputs)]
        flat += ["resid_mid"] if middle and not self._in_rows(self.trace.calls[middle].inputs) else []
        return Block(
            modules=tuple((kind, self._short(name)) for kind, name in modules.items()),
            formulas=tuple((kind, self.formulas[name]) for kind, name in modules.items() if kind in NORM_KINDS),
            middle=self._short(middle),
            parallel=parallel,
            attends=attention.attends,
            scaled=tuple(out for (_, out, _), b in zip(BRANCHES, (attention, mlp), strict=True) if b.scaled),
            others=tuple(self._short(b.module) for b in branches if b not in (attention, mlp)),
            rescaled=rescaled,
            flat=tuple(flat),
            router=self._router(attention.module),
        )

    def _router(self, attention: str) -> Router | None:
        """Return what gives the logits from which the experts are chosen: the product behind the choice of the largest.

        None if nothing outside of attention is chosen so, or if no module gives that product.
        """
        chosen = [m for m in self.trace.made.values() if m.name == "topk" and self._within(m, self.path)]
        products = {p for m in chosen if not self._within(m, attention) for p in self._products(m.inputs[0])}
        for name in reversed(self.inside):  # inner modules first
            for place, value in enumerate(self.trace.calls[name].outputs):
                if len(products) == 1 and self.trace.origin(value) in products:
                    return Router(self._short(name), place, self.trace.shapes[value][-1])
        return None

    def _products(self, value: int) -> set[int]:
        """Return the nearest products of matrices from which a value is computed, in this block."""
        found: set[int] = set()
        seen: set[int] = set()
        values = [value]
        while values:
            if (at := self.trace.origin(values.pop())) in seen:
                continue
            seen.add(at)
            made = self.trace.made.get(at)
            if made is None or not self._within(made, self.path):
                continue
            if made.name in PRODUCTS:
                found.add(at)
            else:
                values += made.inputs
        return found

    def _within(self, made: Operation, module: str) -> bool:
        """Return True if an operation runs in a module, or in one inside of it."""
        return f"{made.module}.".startswith(f"{module}.")

    def _in_rows(self, values: tuple[int, ...]) -> bool:
        """Return True if the first of some values is of the shape ``[batch, pos, d_model]``."""
        return len(self.trace.shapes[values[0]]) == 3

    def _two(self, branches: list[_Branch], streams: list[int]) -> tuple[_Branch, _Branch]:
        """Return attention and the MLP; further branches are allowed if there is no doubt which of them are these."""
        mixers = [b for b in branches if b.attends] or [b for b in branches if b.stream == streams[0]]
        rest = [b for b in branches if b not in mixers]
        if len(mixers) == 1:
            at = streams.index(mixers[0].stream)
            later = [b for b in rest if streams.index(b.stream) > at]
            # The stream right after attention is what the MLP reads; in a parallel block nothing is read later.
            candidates = [b for b in later if b.stream == min((x.stream for x in later), key=streams.index)]
            candidates = candidates or [b for b in rest if b.stream == mixers[0].stream]
            if len(candidates) == 1:
                return mixers[0], candidates[0]
        found = ", ".join(f"{b.module} ({'attends' if b.attends else 'does not'})" for b in branches) or "nothing"
        raise StructureError(f"{self.told} adds {found} to the stream, in which no attention and MLP can be told apart")

    def _stream(self) -> tuple[list[int], list[int], bool]:
        """Return the values of the stream from the block's input on, what is added, and whether the sum is scaled."""
        value, rescaled = self.end, False
        while (scaled := self._multiplied(value)) is not None:
            value, rescaled = self.trace.origin(scaled), True
        streams, added = [value], []
        while value != self.start:
            made = self.trace.made.get(value)
            if made is None or not self._sums(made):
                what = "comes from outside of it" if made is None else f"is made by {made.name!r} in {made.module!r}"
                raise StructureError(f"{self.told} does not give its input plus what it adds: the output {what}")
            before = [v for v in map(self.trace.origin, made.inputs) if self._is_stream(v)]
            if len(before) != 1:
                raise StructureError(f"{self.told} does not give its input plus what it adds: it changes its input")
            others = [v for v in made.inputs if self.trace.origin(v) != before[0]]
            added += [leaf for other in others for leaf in self._leaves(other)]
            value = before[0]
            streams.append(value)
        return streams[::-1], added[::-1], rescaled

    def _sums(self, made: Operation) -> bool:
        """Return True for a sum of two values that the block itself computes, in none of its modules."""
        return made.name in ("add", "add_") and made.module == self.path and len(made.inputs) == 2

    def _is_stream(self, value: int) -> bool:
        """Return True if a value is the block's input, or a sum that begins with it."""
        made = self.trace.made.get(value)
        return value == self.start or (
            made is not None and self._sums(made) and any(self._is_stream(self.trace.origin(v)) for v in made.inputs)
        )

    def _leaves(self, value: int) -> list[int]:
        """Return the values of which one is the sum, in the block itself."""
        made = self.trace.made.get(self.trace.origin(value))
        if made is None or not self._sums(made):
            return [value]
        return [leaf for v in made.inputs for leaf in self._leaves(v)]

    def _branch(self, value: int, streams: list[int]) -> _Branch:
        """Follow a value that is added to the stream back to the module that makes it, and to the stream it reads."""
        module, scaled = self._maker(value)
        after = module if module in self.formulas else None
        read, before, attends = self._read(value, set(streams), after)
        if len(read) != 1 or len(before) > 1:
            through = ", ".join(sorted(before)) or "no norm"
            raise StructureError(f"{self.told}: {module} reads {len(read)} values of the stream, through {through}")
        return _Branch(module, after, next(iter(before), None), read.pop(), attends, scaled)

    def _maker(self, value: int) -> tuple[str, bool]:
        """Return the outermost module that made a value, and whether the value is multiplied by a number after that."""
        scaled = False
        while True:
            made = self.trace.made.get(value)
            where = made.module if made is not None else ""
            for name in self.inside:
                if f"{where}.".startswith(f"{name}.") and value in self.trace.calls[name].outputs:
                    return name, scaled
            before = self.trace.aliased(value)
            if before is None:
                before, scaled = self._multiplied(value), True
            if before is None:
                what = "a value from outside" if made is None else f"the result of {made.name!r} in {where!r}"
                raise StructureError(f"{self.told} adds {what} to the stream, and not the output of a module")
            value = before

    def _multiplied(self, value: int) -> int | None:
        """Return the value that the block itself multiplies by one number."""
        made = self.trace.made.get(value)
        if made is None or made.name not in ("mul", "mul_") or made.module != self.path:
            return None
        whole = [v for v in made.inputs if self.trace.shapes[v] == self.trace.shapes[value]]
        others = [v for v in made.inputs if v not in whole]
        return whole[0] if len(whole) == 1 and all(prod(self.trace.shapes[v]) == 1 for v in others) else None

    def _read(self, value: int, streams: set[int], after: str | None) -> tuple[set[int], set[str], bool]:
        """Return the values of the stream from which one is computed, through which norms, and whether by attention."""
        norms = self._norms(streams, after)
        read: set[int] = set()
        before: set[str] = set()
        seen: set[int] = set()
        values, attends = [value], False
        while values:
            if (at := values.pop()) in seen:
                continue
            seen.add(at)
            if at in norms:
                name, stream = norms[at]
                read.add(stream)
                before.add(name)
            elif (origin := self.trace.origin(at)) in streams:
                read.add(origin)
            elif (made := self.trace.made.get(at)) is not None and self._within(made, self.path):
                attends = attends or made.attends
                values += made.inputs
        return read, before, attends

    def _norms(self, streams: set[int], after: str | None) -> Mapping[int, tuple[str, int]]:
        """Return the outputs of the norms that read the stream itself, with their names and what they read."""
        found = {}
        for name in self.formulas:
            call = self.trace.calls[name]
            if name == after or not call.inputs or self._goes_on(name):
                continue
            if (origin := self.trace.origin(call.inputs[0])) in streams:
                found |= dict.fromkeys(call.outputs, (name, origin))
        return found

    def _goes_on(self, name: str) -> bool:
        """Return True if a norm is inside of a module that computes more from it, such as a gated norm."""
        outer = name.rsplit(".", 1)[0]
        if outer == self.path:
            return False
        call, inner = self.trace.calls.get(outer), self.trace.calls[name]
        if call is None or not call.inputs or self.trace.origin(call.inputs[0]) != self.trace.origin(inner.inputs[0]):
            return False  # its container is no module that is called, or a branch that takes the stream otherwise
        return not set(map(self.trace.origin, inner.outputs)) & set(map(self.trace.origin, call.outputs))

    def _reader_of(self, stream: int) -> str:
        """Return the outermost module that reads a value of the stream as its first input; empty if there is none."""
        calls = self.trace.calls
        readers = (n for n in self.inside if calls[n].inputs and self.trace.origin(calls[n].inputs[0]) == stream)
        return next(readers, "")

    def _short(self, name: str) -> str:
        return name.removeprefix(f"{self.path}.")
