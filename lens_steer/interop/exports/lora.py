"""Plans as LoRA adapters: a single one, a bank with one per angle, or a pair for all angles of a selective rotation.

Since ``R_θ − I = (cos θ − 1) I + sin θ J`` with ``J = [[0, −1], [1, 0]]``, the factor B of a rotation
(:mod:`lens_steer.interop.exports.folding`) is ``(cos θ − 1) B_cos + sin θ B_sin``. These are two fixed adapters with
the same A, scaled by the two weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lens_steer._io.atomic import whole_folder
from lens_steer.errors import LensSteerError
from lens_steer.interop.exports.adapters import load_adapter, peft, quiet, write_adapter
from lens_steer.interop.exports.certificate import Certificate, Trial, certify, check_trial, require, write_certificate
from lens_steer.interop.exports.folding import Factor, Folded, fold
from lens_steer.models.huggingface import is_gguf, is_text_part
from lens_steer.models.loading import info_of
from lens_steer.models.sites import STREAM, parse
from lens_steer.steer.plans import SteeringPlan

BANK, CIRCLE = "bank.json", "circle.json"
COSINE, SINE = "cosine", "sine"  # the two adapters of a pair
CIRCLE_ANGLES = (45.0, 130.0, 200.0, 270.0, 350.0)  # degrees; the angles at which a pair is certified


def export_lora(
    plan: SteeringPlan,
    model: Any,
    folder: str | Path,
    *,
    partial: bool = False,
    trial: Trial | None = None,
    base: str | None = None,
) -> Certificate:
    """Write a plan as an adapter that ``peft.PeftModel.from_pretrained`` loads, with its certificate.

    Args:
        plan: A plan made for this model.
        model: A model of :func:`lens_steer.load_model`.
        folder: A new or an empty folder.
        partial: True leaves out the steps that do not fold.
        trial: The prompts and the tolerance of the certificate.
        base: The name or path of the base model that is written into the adapter. None stands for the place that the
            model was loaded from.

    Raises:
        LensSteerError: If PEFT is not installed, if the plan does not fold, if the folder is not empty, or if the
            certificate fails.

    >>> import lens_steer as ls, tempfile
    >>> plan = ls.selective_steering(ls.load_calibration("figures/calibration"), 200)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_lora(plan, ls.load_model("organism/qwen2"), folder).verdict
    'pass'
    """
    _check(model, folder, trial)
    folded = fold(plan, model, into="lora", partial=partial)
    with whole_folder(folder) as work:
        write_adapter(work, folded.factors, base or info_of(model).folder)
        found = require(certify(model, load_adapter(model, work).get_base_model(), folded, "lora", trial))
        write_certificate(work, found)
    return found


def export_bank(
    plan: SteeringPlan,
    angles: Sequence[float | int],
    model: Any,
    folder: str | Path,
    *,
    partial: bool = False,
    trial: Trial | None = None,
    base: str | None = None,
    progress: bool = False,
) -> dict[str, Certificate]:
    """Write a plan at many angles, as one adapter per angle.

    The folder gets one subfolder per angle (``angle_000``, ``angle_010``, …), each with an adapter and a certificate,
    and the file ``bank.json``. Angles that are equal up to full turns become one adapter. The subfolders share no
    files. For the other arguments see :func:`export_lora`.

    Returns:
        The certificates by the name of the adapter.

    Raises:
        LensSteerError: For the reasons of :func:`export_lora`. Also if there are no angles, or if the plan has no
            angle.
    """
    _check(model, folder, trial)
    named = {angle_name(a): float(a) % 360.0 for a in angles}
    if not named:
        raise LensSteerError("angles is empty: give at least one")
    base = base or info_of(model).folder
    found, loaded = {}, None
    with whole_folder(folder) as work:
        for name, angle in tqdm(named.items(), desc="export", unit="angle", disable=not progress, leave=False):
            folded = fold(plan.at(angle), model, into="lora", partial=partial)
            write_adapter(work / name, folded.factors, base)
            if loaded is None:
                loaded = load_adapter(model, work / name, name)
            else:
                with quiet():
                    loaded.load_adapter(str(work / name), adapter_name=name)
            loaded.set_adapter(name)
            found[name] = require(certify(model, loaded.get_base_model(), folded, "lora bank", trial))
            write_certificate(work / name, found[name])
        _write(work / BANK, {"format_version": 1, "base_model": base, "adapters": named})
    return found


def export_circle(
    plan: SteeringPlan,
    model: Any,
    folder: str | Path,
    *,
    partial: bool = False,
    trial: Trial | None = None,
    base: str | None = None,
    progress: bool = False,
) -> dict[float, Certificate]:
    """Write a selective rotation as two adapters, ``cosine`` and ``sine``, which combine to every angle.

    With the weights ``cos θ − 1`` and ``sin θ`` the two adapters are the rotation by θ. ``circle.json`` describes how
    to combine them. In PEFT this is
    ``add_weighted_adapter(["cosine", "sine"], [cos θ − 1, sin θ], name, combination_type="cat")``; the combination type
    ``"linear"`` takes roots of the weights and is not their sum. The certificate covers :data:`CIRCLE_ANGLES`, combined
    in this way. For the other arguments see :func:`export_lora`. The plan's own angle has no effect.

    Returns:
        The certificates by angle.

    Raises:
        LensSteerError: For the reasons of :func:`export_lora`. Also if the plan is not one selective rotation per site,
            by one angle.
    """
    _check(model, folder, trial)
    folded, pair = circle_factors(plan, model, partial=partial)
    base, found = base or info_of(model).folder, {}
    with whole_folder(folder) as work:
        for name, factors in pair.items():
            write_adapter(work / name, factors, base)
        loaded = load_adapter(model, work / COSINE, COSINE)
        with quiet():
            loaded.load_adapter(str(work / SINE), adapter_name=SINE)
        for angle in tqdm(CIRCLE_ANGLES, desc="certify", unit="angle", disable=not progress, leave=False):
            name, at_angle = angle_name(angle), replace(folded, plan=folded.plan.at(angle))
            with quiet():
                loaded.add_weighted_adapter([COSINE, SINE], list(circle_weights(angle)), name, combination_type="cat")
            loaded.set_adapter(name)
            found[angle] = require(certify(model, loaded.get_base_model(), at_angle, "lora circle", trial))
        worst = max(found.values(), key=lambda c: c.relative_logit_difference)
        write_certificate(work, worst, angles=[c.row() for c in found.values()])
        _write(
            work / CIRCLE,
            {
                "format_version": 1,
                "base_model": base,
                "weights": {COSINE: "cos(angle) - 1", SINE: "sin(angle)"},
                "example": {"angle": 200.0, "weights": dict(zip((COSINE, SINE), circle_weights(200.0), strict=True))},
                "peft": f"model.add_weighted_adapter(['{COSINE}', '{SINE}'], weights, name, combination_type='cat')",
            },
        )
    return found


def circle_weights(angle: float | int) -> tuple[float, float]:
    """Return ``cos θ − 1`` and ``sin θ`` of an angle in degrees.

    >>> [round(w, 3) for w in circle_weights(90)]
    [-1.0, 1.0]
    """
    # The angle is reduced to −180° … 180°, and −2 sin²(θ/2) equals cos θ − 1 without cancellation at small angles.
    radians = math.radians(180 - (180 - float(angle)) % 360)
    return -2 * math.sin(radians / 2) ** 2, math.sin(radians)


def circle_factors(
    plan: SteeringPlan, model: Any, *, partial: bool = False
) -> tuple[Folded, dict[str, Mapping[str, Factor]]]:
    """Return the plan as folded at 90°, and the factors of the pair by adapter.

    B is linear in ``(cos θ − 1, sin θ)``, so two angles determine both parts: ``B_cos = −B(180°)/2`` and
    ``B_sin = B(90°) + B_cos``.

    Raises:
        LensSteerError: If the plan is not one selective rotation per site by one angle, or if it rotates the residual
            stream. Also for the reasons of :func:`lens_steer.interop.exports.folding.fold`.
    """
    how = "export the plan at an angle, or as a bank"
    other = next((s.operator for s in plan.steps if s.operator != "selective"), None)
    if other is not None:
        raise LensSteerError(
            f"a pair of adapters turns by any angle, and operator {other!r} is no rotation by it: {how}"
        )
    twice = next((n for n in plan.sites if sum(n in s.sites for s in plan.steps) > 1), None)
    stream = next((n for n in plan.sites if parse(n).kind in STREAM), None)
    if twice or stream:
        raise LensSteerError(
            "a pair of adapters is linear in (cos θ − 1, sin θ), and the plan turns "
            f"{f'twice at {twice}' if twice else f'the stream at {stream}'}: {how}"
        )
    quarter, half = (fold(plan.at(a), model, into="lora", partial=partial) for a in (90.0, 180.0))
    cosine = {m: replace(f, b=-f.b / 2) for m, f in half.factors.items()}
    sine = {m: replace(f, b=f.b + cosine[m].b) for m, f in quarter.factors.items()}
    return quarter, {COSINE: cosine, SINE: sine}


def angle_name(angle: float | int) -> str:
    """Return the name of the adapter for an angle, reduced to one turn.

    The name has no dot, because PEFT does not allow one.

    >>> angle_name(10), angle_name(370), angle_name(-22.5)
    ('angle_010', 'angle_010', 'angle_337_5')
    """
    if not math.isfinite(angle):
        raise LensSteerError(f"angle={angle!r} is not a finite number of degrees")
    whole, _, part = f"{float(angle) % 360.0:.6g}".partition(".")
    return f"angle_{int(whole):03d}{f'_{part}' if part else ''}"


def check_new(folder: str | Path) -> None:
    """Refuse a folder that is not empty: files of another export would be read together with the new ones.

    Raises:
        LensSteerError: If the folder is not empty, or if it is a file.
    """
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise LensSteerError(
            f"output folder {str(folder)!r} is not empty: name a new one, as servers read whatever lies in it"
        )


def _check(model: Any, folder: str | Path, trial: Trial | None) -> None:
    peft()
    check_new(folder)
    check_base(model)
    check_trial(model, trial)


def check_base(model: Any) -> None:
    """Refuse a model whose weights do not lie in a folder as they are, so that no adapter has them as its base.

    Raises:
        LensSteerError: If the model is the text part of a checkpoint with images, has a merged adapter or was read from
            a GGUF file.
    """
    info = info_of(model)
    if is_text_part(info.folder):
        raise LensSteerError(
            f"model {info.name!r} is the text part of a checkpoint with images, which names its layers otherwise, "
            "so no adapter fits both: write the text part as a "
            "folder of its own, lens_steer.hf_twin(model).save_pretrained(folder) and "
            "model.lens_info.tokenizer.save_pretrained(folder), and load that; or export merged"
        )
    if info.adapter or is_gguf(info.folder):
        what = f"has the adapter {info.adapter!r} merged" if info.adapter else "was read from a GGUF file"
        raise LensSteerError(
            f"model {info.name!r} {what}, so another adapter would have no base in a folder of its own: write "
            "one, lens_steer.hf_twin(model).save_pretrained(folder) and "
            "model.lens_info.tokenizer.save_pretrained(folder), and load that; or export merged"
        )


def _write(path: Path, facts: dict[str, Any]) -> None:
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
