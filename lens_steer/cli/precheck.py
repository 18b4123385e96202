"""Checks of a model before its weights are read.

The configuration and the tokenizer suffice to see whether prompts, sites, and a calibration, plan or probe fit the
model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_steer.data import Prompt, PromptSet
from lens_steer.inference.clock import clock_for
from lens_steer.inference.forward import check_room
from lens_steer.inference.pooling import check_poolable
from lens_steer.inference.record import width_of
from lens_steer.models import sites
from lens_steer.models.fits import check_fits
from lens_steer.models.info import ModelInfo, read_info
from lens_steer.probes.io import check_probe
from lens_steer.probes.probe import Probe

Asked = tuple[PromptSet | Sequence[Prompt], int]


@dataclass(frozen=True)
class Unloaded:
    """A model without its weights, which stands in for the model wherever only the description is read.

    See :func:`lens_steer.models.loading.info_of`.

    Attributes:
        lens_info: The description that the loaded model will have, with the backend ``unloaded``.
    """

    lens_info: ModelInfo


def describe(name: str | Path, **how: Any) -> Unloaded:
    """Read the configuration and the tokenizer of a model, and no weights.

    Args:
        name: The model; see :func:`lens_steer.load_model`.
        how: The chat template with its arguments and date, the adapter and the revision; see
            :func:`lens_steer.models.info.read_info`, also for the errors that are raised.

    >>> describe("organism/llama").lens_info.d_model
    128
    """
    return Unloaded(read_info(name, **how)[0])


def precheck(
    model: Unloaded,
    asked: Sequence[Asked] = (),
    *,
    forced: Sequence[PromptSet | Sequence[Prompt]] = (),
    made: Any = None,
    site_spec: str | Sequence[str] | None = None,
    pooling: str = "last",
    positions: str = "all",
) -> None:
    """Refuse before loading what would be refused after it.

    Args:
        model: The description of the model.
        asked: Prompts, each set with the number of tokens that an answer may have (0: the prompts are only recorded).
        forced: Prompts that run with their fixed responses.
        made: A calibration, a plan or a probe that is to steer the model.
        site_spec: The sites that are to be recorded.
        pooling: What is recorded of each of the forced prompts; see :func:`lens_steer.record`.
        positions: The tokens that a plan steers.

    Raises:
        LensSteerError: If the chat template refuses a prompt, if a prompt is longer than the context leaves room for or
            its response lacks what is recorded, if the model does not have a site or the segments that a plan steers,
            or if the calibration, plan or probe is of another model.
    """
    info = model.lens_info
    if isinstance(made, Probe):
        check_probe(made, model)
    elif made is not None:
        check_fits(made, model)
    clock_for(model, positions)
    if site_spec is not None:
        width_of(info, sites.resolve(site_spec, info.layout))
    for prompts, new in asked:
        check_room(model, prompts, max_new_tokens=new)
    for prompts in forced:
        check_room(model, prompts, with_response=True)
        check_poolable(model, PromptSet(tuple(prompts), getattr(prompts, "name", "prompts")), pooling)
