"""The command that shows the input of a model: rendered text and token ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from lens_steer.cli.common import emit, read_prompts
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Template
from lens_steer.cli.options import Model
from lens_steer.errors import LensSteerError


@grouped
def tokens(
    template: Template,
    model: Model,
    prompts: Annotated[
        str, typer.Option(help="Prompts file, or an organism's contrast, of which the report split is read.")
    ],
    limit: Annotated[int | None, typer.Option(help="The first so many prompts.")] = None,
) -> None:
    """Prompts as the model gets them: rendered text, token ids and tokens, and the marks of a reasoning model's
    thoughts; needs configuration and tokenizer, no weights.
    """
    from lens_steer.inference.rendering import tokens as shown
    from lens_steer.models.thoughts import marks_of

    if limit is not None and limit < 1:
        raise LensSteerError(f"--limit {limit}: at least 1 is needed")
    chosen = read_prompts(prompts)
    tokenizer = template.tokenizer(model)
    found = shown(tokenizer, chosen[:limit])
    applied = {k: v for k, v in tokenizer.lens_template.row().items() if k != "text"}
    marks = marks_of(tokenizer)
    emit(
        {
            "model": model,
            "template": applied,
            "thought_marks": None if marks is None else asdict(marks),
            "n": len(found),
            "prompts": [one.row() for one in found],
        }
    )


COMMANDS: tuple[Callable[..., None], ...] = (tokens,)
