"""Control vectors with a certificate: the file, applied as llama.cpp does, is compared with the hooked model.

The file is read back, and ``direction.N`` is added to the output of decoder layer N of the Hugging Face model by a
plain PyTorch forward hook, in float32, as llama.cpp adds it. This reference uses nothing of the plan.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_steer._io.atomic import whole_file
from lens_steer.errors import LensSteerError
from lens_steer.interop.exports.certificate import Certificate, Trial, certify, check_trial, require
from lens_steer.interop.exports.folding import Folded
from lens_steer.interop.gguf.vectors import control_vector, export_gguf_cvec, import_gguf
from lens_steer.interop.imports.directions import DirectionSet, filled_in
from lens_steer.interop.imports.model_facts import model_facts
from lens_steer.models import sites
from lens_steer.models.layout import KNOWN
from lens_steer.models.loading import read_again
from lens_steer.steer.plans import SteeringPlan


def certificate_file(file: str | Path) -> Path:
    """Return the path of a control vector's certificate, which is beside the vector.

    >>> certificate_file("out/kind.gguf").name
    'kind.certificate.json'
    """
    return Path(file).with_suffix(".certificate.json")


def export_control_vector(
    plan: SteeringPlan, file: str | Path, model: Any = None, *, trial: Trial | None = None
) -> tuple[dict[str, int], Certificate | None]:
    """Write an additive plan as a control vector, and read the file back, which must give exactly the same values.

    If a model is given, the control vector and the hooked model are also run side by side for a certificate.

    Args:
        plan: An addition of fixed directions to every token.
        file: The file to write.
        model: The model that the plan is for. Without a model there is no certificate.
        trial: The prompts and the tolerance of the certificate.

    Returns:
        The number N of each site, and the certificate (None without a model), which is written beside the file.

    Raises:
        LensSteerError: For the reasons of :func:`lens_steer.interop.gguf.vectors.export_gguf_cvec`. Also if the plan
            belongs to another model, if the certificate fails, or if the certificate of an earlier export is in its
            place.

    >>> import lens_steer as ls, tempfile
    >>> model = ls.load_model("organism/qwen2")
    >>> acts = ls.record(model, ls.load_contrast("organism/refusal").fit, "resid_post", progress=False)
    >>> plan = ls.act_add(ls.calibrate(acts), -1, at="blocks.5.hook_resid_post")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     numbers, found = export_control_vector(plan, folder + "/v.gguf", model)
    >>> numbers, found.verdict
    ({'blocks.5.hook_resid_post': 5}, 'pass')
    """
    directions, _ = control_vector(plan)
    check_place(file)
    if model is not None:
        check_trial(model, trial)
    with whole_file(file) as work:
        numbers = export_gguf_cvec(plan, work)
        back = import_gguf(work)
        if not torch.equal(back.directions, directions.directions.float()) or [
            sites.parse(n).block for n in back.sites
        ] != sorted(numbers.values()):
            raise LensSteerError(
                f"{str(file)!r} does not come back as it was written: the gguf package stores it otherwise"
            )
        if model is None:
            return numbers, None
        found = certify(
            model, controlled(read_again(model), back), Folded(plan, {}, (), "gguf"), "control vector", trial
        )
        found = require(replace(found, versions=found.versions | {"gguf": metadata.version("gguf")}))
        with whole_file(certificate_file(file)) as note:
            directions_at = {f"direction.{number}": name for name, number in numbers.items()}
            note.write_text(json.dumps(found.row() | {"directions": directions_at}, indent=1) + "\n", encoding="utf-8")
    return numbers, found


def completed(directions: DirectionSet, model: str | None) -> DirectionSet:
    """Fill in what directions do not state of their model, from the model's configuration alone.

    The directions are returned unchanged if nothing is missing, or if no model is named.

    Raises:
        LensSteerError: If the configuration cannot be read.

    >>> from lens_steer.interop.imports.directions import direction_set
    >>> bare = direction_set(
    ...     {"blocks.1.hook_resid_post": torch.ones(128)},
    ...     model="",
    ...     architecture=None,
    ...     n_layers=None,
    ...     source_format="test",
    ... )
    >>> completed(bare, "organism/llama").architecture
    'llama'
    """
    known = directions.own_layout is not None or directions.architecture in KNOWN
    if model is None or (known and directions.n_layers is not None):
        return directions
    return filled_in(directions, model_facts(model))


def check_place(file: str | Path) -> None:
    """Refuse a place where a certificate already exists: it would be taken for the certificate of the new file.

    Raises:
        LensSteerError: If there is a certificate.
    """
    if certificate_file(file).exists():
        raise LensSteerError(
            f"{str(certificate_file(file))!r} is the certificate of an earlier export: name another file, or remove it"
        )


def controlled(twin: Any, found: DirectionSet) -> Any:
    """Return a Hugging Face model that adds a control vector's directions to the outputs of its decoder layers."""
    for name in found.sites:
        layer = twin.get_submodule(f"model.layers.{sites.parse(name).block}")
        layer.register_forward_hook(_Addition(found.raw(name).float()))
    return twin


class _Addition:
    """A forward hook that adds a vector in float32."""

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector

    def __call__(self, module: Any, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        added = (hidden.float() + self.vector.to(hidden.device)).to(hidden.dtype)
        return (added, *output[1:]) if isinstance(output, tuple) else added
