"""Formats of prompts: another system prompt, or another chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from lens_steer.data import Contrast, PromptSet, with_system
from lens_steer.errors import LensSteerError
from lens_steer.inference.batching import encode
from lens_steer.models.templates import another_template

OWN = "own"  # the name of the format in which the model is loaded, with the prompts as they are


@dataclass(frozen=True)
class Format:
    """A way to write the same prompts, which differs from the model's own in one thing.

    Attributes:
        name: Its name.
        system: A system prompt in place of any other; it may be empty. None: the prompts stay as they are.
        template: A Jinja template in place of the model's chat template. None: the model's own.
    """

    name: str
    system: str | None = None
    template: str | None = None

    @property
    def key(self) -> str:
        """A short hash of the system prompt and the template, whatever the name is."""
        return hashlib.sha256(repr((self.system, self.template)).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def prompts(self, contrast: Contrast) -> Contrast:
        """Return the contrast with the system prompt of this format.

        Raises:
            LensSteerError: If the format has a system prompt, and the classes differ in theirs.

        >>> import lens_steer as ls
        >>> few = ls.load_contrast("organism/refusal").fit.first(1)
        >>> Format("brief", system="Be brief.").prompts(few).positive[0].messages[0]["content"]
        'Be brief.'
        """
        if self.system is None:
            return contrast
        if _systems(contrast.positive) != _systems(contrast.negative):
            raise LensSteerError(
                f"format {self.name!r}: the two classes have different system prompts, and one in their place would "
                "take the difference away: give it a template instead"
            )
        return Contrast(*(self._written(side) for side in (contrast.positive, contrast.negative)))

    def _written(self, side: PromptSet) -> PromptSet:
        return PromptSet(tuple(with_system(p, self.system or "") for p in side), side.name)

    @contextmanager
    def applied(self, tokenizer: Any) -> Iterator[None]:
        """Let a tokenizer apply the template of this format within the context; an error there names the format."""
        with nullcontext() if self.template is None else another_template(tokenizer, self.template):
            try:
                yield
            except LensSteerError as error:
                if self.name == OWN:
                    raise
                raise LensSteerError(f"format {self.name!r}: {error}") from None


def check_formats(others: Sequence[Format]) -> None:
    """Refuse formats that cannot be compared with the model's own.

    Raises:
        LensSteerError: If there is none, if two have the same name or one is called ``own``, or if one differs from the
            model's own in nothing or in two things.
    """
    if not others:
        raise LensSteerError("others is empty: give at least one system prompt or chat template beside the model's own")
    names = [f.name for f in others]
    for f in others:
        if f.name == OWN or names.count(f.name) > 1:
            raise LensSteerError(f"format {f.name!r}: the name stands for another format: use a name of its own")
        if (f.system is None) == (f.template is None):
            raise LensSteerError(f"format {f.name!r}: give it a system prompt or a template, and not both")


def same_ids(tokenizer: Any, contrast: Contrast, of: Format) -> float:
    """Return the share of prompts that have the same token ids in a format as in the own one.

    Raises:
        LensSteerError: If the template refuses a prompt, or writes nothing for one.

    >>> import lens_steer as ls
    >>> few = ls.load_contrast("organism/refusal").fit.first(2)
    >>> same_ids(ls.load_model("organism/qwen2").lens_info.tokenizer, few, Format("brief", system="Be brief."))
    0.0
    """
    own, other = ([p for side in (c.positive, c.negative) for p in side] for c in (contrast, of.prompts(contrast)))
    before = [encode(tokenizer, p) for p in own]
    with of.applied(tokenizer):
        there = [encode(tokenizer, p) for p in other]
        if not all(there):
            raise LensSteerError("the chat template writes nothing: check the names in it")
    return sum(a == b for a, b in zip(before, there, strict=True)) / len(before)


def _systems(side: PromptSet) -> set[str]:
    return {m["content"] for p in side for m in p.messages if m["role"] == "system"}
