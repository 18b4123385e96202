"""Formats of prompts: another system prompt, or another chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lens_steer.data import Contrast, PromptSet, with_system
from lens_steer.errors import LensSteerError
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

    def prompts(self, contrast: Contrast) -> Contrast:
        """Return the contrast with the system prompt of this format.

        >>> import lens_steer as ls
        >>> few = ls.load_contrast("organism/refusal").fit.first(1)
        >>> Format("brief", system="Be brief.").prompts(few).positive[0].messages[0]["content"]
        'Be brief.'
        """
        if self.system is None:
            return contrast
        return Contrast(*(self._written(side) for side in (contrast.positive, contrast.negative)))

    def _written(self, side: PromptSet) -> PromptSet:
        return PromptSet(tuple(with_system(p, self.system or "") for p in side), side.name)

    @contextmanager
    def applied(self, tokenizer: Any) -> Iterator[None]:
        """Let a tokenizer apply the template of this format within the context."""
        if self.template is None:
            yield
            return
        with another_template(tokenizer, self.template):
            yield


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
