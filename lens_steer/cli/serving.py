"""The options of a serving engine (``--engine vllm``), and its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from lens_steer._defaults import REMOTE
from lens_steer.cli.groups import Group
from lens_steer.errors import LensSteerError


@dataclass(frozen=True)
class Serving(Group):
    """The options ``--tensor-parallel``, ``--pipeline-parallel``, ``--gpu-memory`` and ``--context``."""

    tensor_parallel: Annotated[
        int | None, typer.Option(help="With --engine vllm: accelerators over which each layer is split.")
    ] = None
    pipeline_parallel: Annotated[
        int | None, typer.Option(help="With --engine vllm: groups of accelerators over which the blocks are split.")
    ] = None
    gpu_memory: Annotated[
        float | None, typer.Option(help="With --engine vllm: share of an accelerator's memory that it may take.")
    ] = None
    context: Annotated[
        int | None, typer.Option(help="With --engine vllm: tokens of a prompt with its answer at most (4096).")
    ] = None

    def check(self, engine: str, *plans: Any, reads: str | None = None) -> None:
        """Refuse, before a model is loaded, what the engine cannot do.

        Args:
            engine: The engine.
            plans: The plans that it is to carry out, as far as they are known; None among them is left out.
            reads: An option that needs activations; None if none was given.

        Raises:
            LensSteerError: If an option of a serving engine goes with another one, a number is out of range, a plan
                does not fold into an adapter, vLLM is not installed, or activations are to be read.
        """
        from lens_steer.inference.engines import check_engine
        from lens_steer.interop.serving.adapters import check_served
        from lens_steer.interop.serving.vllm_engine import VllmSettings, check_installed

        check_engine(engine)
        given = self.given()
        if engine not in REMOTE:
            if given:
                name, value = next(iter(given.items()))
                raise LensSteerError(f"--{name.replace('_', '-')} {value}: it goes with --engine vllm")
            return
        VllmSettings(**given)
        if reads is not None:
            raise LensSteerError(f"{reads}: --engine {engine} has no hooks that read activations, use --engine hf")
        for plan in plans:
            if plan is not None:
                check_served(plan, engine)
        check_installed()

    def start(self, model: Any, engine: str) -> None:
        """Start the serving engine of a loaded model; nothing for an engine of this process."""
        if engine in REMOTE:
            from lens_steer.interop.serving.vllm_engine import VllmEngine, VllmSettings

            VllmEngine(model, VllmSettings(**self.given()))
