"""What can be known of a model before a weight is read: its configuration and tokenizer, and whether prompts, sites and
a calibration go with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_steer.data import Prompt, PromptSet
from lens_steer.inference.forward import check_room
from lens_steer.models import sites
from lens_steer.models.fits import check_fits
from lens_steer.models.info import ModelInfo, read_info
from lens_steer.probes.io import check_probe
from lens_steer.probes.probe import Probe

Asked = tuple[PromptSet | Sequence[Prompt], int]


@dataclass(frozen=True)
class Unloaded:
    """A model without its weights; stands in for it wherever only the description is read
    (:func:`lens_steer.models.loading.info_of`).

    Attributes:
        lens_info: as the loaded model will have it, its backend ``unloaded``.
    """

    lens_info: ModelInfo


def describe(name: str | Path, **how: Any) -> Unloaded:
    """Configuration and tokenizer of a model; no weight is read.

    Args:
        name: see :func:`lens_steer.load_model`.
        how: its template with arguments and date, adapter, revision; see :func:`lens_steer.models.info.read_info`, also
            for what is refused.

    >>> describe("organism/llama").lens_info.d_model
    128
    """
    return Unloaded(read_info(name, **how)[0])


def precheck(
    name: str | Path,
    asked: Sequence[Asked] = (),
    *,
    forced: Sequence[PromptSet | Sequence[Prompt]] = (),
    made: Any = None,
    site_spec: str | Sequence[str] | None = None,
    **described: Any,
) -> Unloaded:
    """Refuse before loading what would be refused after it, and give the description.

    Args:
        name: see :func:`lens_steer.load_model`.
        asked: prompts with the tokens that each answer may have (0: the prompts are only recorded).
        forced: prompts that run with their fixed responses.
        made: a calibration, a plan or a probe that is to steer the model.
        site_spec: sites that are to be recorded.
        described: template, its arguments and date, adapter, revision: see :func:`describe`.

    Raises:
        LensSteerError: what :func:`describe` raises; a template that refuses a prompt, a prompt that is longer than the
            context leaves room for, a site that the model does not have, a calibration, plan or probe of another model.
    """
    model = describe(name, **described)
    info = model.lens_info
    if isinstance(made, Probe):
        check_probe(made, model)
    elif made is not None:
        check_fits(made, model)
    if site_spec is not None:
        sites.resolve(site_spec, n_layers=info.n_layers, architecture=info.architecture)
    for prompts, new in asked:
        check_room(model, prompts, max_new_tokens=new)
    for prompts in forced:
        check_room(model, prompts, with_response=True)
    return model
