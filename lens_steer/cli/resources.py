"""The command that estimates the memory and the time of a study."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from lens_steer.cli.common import emit, read_prompts
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Template
from lens_steer.cli.options import Column, Device, Limit, MaxNewTokens, Model, Sites
from lens_steer.errors import LensSteerError


@grouped
def plan_resources(
    template: Template,
    model: Model = "organism/qwen2",
    prompts: Annotated[
        str | None, typer.Option(help="Prompts file, tokenised to know their length (needs the tokenizer alone).")
    ] = None,
    n_prompts: Annotated[int | None, typer.Option(help="How many prompts, without a file.")] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(help="Tokens of each with its chat template, without a file.")
    ] = None,
    sites: Sites = "norm_out",
    dtype: Annotated[str, typer.Option(help="Of the weights: float32, bfloat16, float16, int8, int4.")] = "float32",
    max_new_tokens: MaxNewTokens = 64,
    batch_size: Annotated[int, typer.Option(help="Answers at once.")] = 128,
    tflops: Annotated[
        float | None, typer.Option(help="Speed to reckon with; left out, a matrix product measures this machine.")
    ] = None,
    device: Device = None,
    column: Column = None,
    limit: Limit = None,
) -> None:
    """Memory and a lower bound on time of recording and answering prompts, from the model's configuration alone; no
    weights are read.
    """
    from lens_steer.models import sites as sites_
    from lens_steer.models.footprint import Shape, estimate, measured_flops, stored_dtype
    from lens_steer.models.loading import usable_device
    from lens_steer.models.location import locate, read_config
    from lens_steer.models.structure import layout_of

    if (prompts is None) == (n_prompts is None):
        raise LensSteerError("give either --prompts or --n-prompts (with --prompt-tokens)")
    folder = locate(model)
    config = read_config(model, folder)
    shape = Shape.of(config)
    if prompts is None:
        if prompt_tokens is None:
            raise LensSteerError("--n-prompts needs --prompt-tokens too")
        count, tokens = n_prompts or 0, prompt_tokens
    else:
        from lens_steer.inference.batching import encode

        chosen, tokenizer = read_prompts(prompts, column=column, limit=limit), template.tokenizer(model)
        count = len(chosen)
        tokens = round(sum(len(encode(tokenizer, p)) for p in chosen) / count)
    names = sites_.resolve(sites, layout_of(config))
    speed = measured_flops(usable_device(device)) if tflops is None else tflops * 1e12
    found = estimate(
        shape,
        n_prompts=count,
        prompt_tokens=tokens,
        n_sites=len(names),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        dtype=dtype,
        flops=speed,
        stored=stored_dtype(config, dtype),
    )
    emit(
        {
            "model": model,
            "n_prompts": count,
            "prompt_tokens": tokens,
            "n_sites": len(names),
            "dtype": dtype,
            "tflops": round(speed / 1e12, 3),
            **found.row(),
        }
    )


COMMANDS: tuple[Callable[..., None], ...] = (plan_resources,)
