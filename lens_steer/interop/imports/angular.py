"""Import of the plane configs of Angular Steering (arXiv 2510.26243) as calibrations.

A config is ``numpy.save`` of a dict: the module path of a norm → ``first_direction`` and ``second_direction``, each
[d_model]. Facts, taken from the authors' code (lone17/angular-steering: ``pytorch_pure/extract_directions.py``,
``pytorch_pure/generate_responses.py``, ``vllm_angular_steering.py``; lone17/vllm: ``vllm/control_vectors/models.py``,
``layers.py``; lone17/llm-activation-control: ``generate_random_config.py``):

- The dict is pickled, so ``allow_pickle=False`` refuses every published file.
  :mod:`lens_steer.interop.imports.plain_pickle` reads it as data, without unpickling.
- Every module of a file holds the same pair. The first direction has unit length. The second is a principal component
  that is *not* orthogonal to it; ``b1 = f/‖f‖``, ``b2 ∝ s − (s·b1) b1`` is computed when steering. The extraction
  scripts use float32 (the dtypes of the released files are unknown: the repository holds Git LFS pointers).
- The directions are read at the *input* of the norms, in the residual stream, and used at the *output* of the norm
  modules, after the gain. The sites are therefore norm outputs.
- The name of the file ends in ``…_{block}_{where}-…``, where ``mid`` is the stream after that block's attention,
  ``post`` is the block's output, and anything else is the name of the norm.
- Older files leave out the first block's ``input_layernorm``. Newer ones hold both norms of every block (Gemma-2:
  ``input_`` and ``pre_feedforward_layernorm``).
- Entries may also have ``mode`` (``rotate_to``), ``angle`` and ``scale_factor``. A file whose modules hold different
  planes is refused: the authors' readers disagree about it (one takes the first plane for all modules, the others each
  module's own), and no script that writes such a file was found.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_steer.errors import LensSteerError
from lens_steer.geometry.calibration import Calibration
from lens_steer.interop.imports.model_facts import guessed_architecture, n_blocks
from lens_steer.interop.imports.plain_pickle import Array, read_object_npy
from lens_steer.interop.imports.planes import plane_calibration
from lens_steer.interop.imports.source_files import existing, vector
from lens_steer.models import sites
from lens_steer.models.layout import Layout, known_layout

WHAT = "an Angular Steering config is a steering_config-*.npy"
PAIR = ("first_direction", "second_direction")
_SOURCE = re.compile(r"_(\d+)_(\w*layernorm|mid|post)(?:_[^-]*)?(?:-|$)")


def import_angular(
    path: str | Path,
    *,
    model: str = "",
    architecture: str | None = None,
    n_layers: int | None = None,
    selected_site: str | None = None,
) -> Calibration:
    """Read a plane config as a calibration.

    The basis is orthonormalised in float64, first direction first, as the authors' code does when steering; the Gram
    error of the published basis is kept. Every module of the file is a discriminative site (``rule='imported'``),
    because the method steers all of them. The file holds no candidates, so the candidate of each site is the first
    direction.

    Args:
        path: The path of the ``.npy`` file.
        model: The name of the model. If empty, the name of the file's folder is used.
        architecture: A model type of :data:`lens_steer.models.layout.KNOWN`. None derives it from the name of the
            model.
        n_layers: The number of blocks of the model. None counts the blocks in the file, which must then hold every
            block from the first on.
        selected_site: The norm whose input the first direction was read at. None derives it from the name of the file,
            else it is the first site.

    Raises:
        LensSteerError: If the file is not such a config, holds code, is truncated or has wrong shapes, if its plane is
            degenerate, or if planes differ between modules.
    """
    source = existing(Path(path), WHAT)
    config = read_object_npy(source)
    if not isinstance(config, dict) or not config or not all(isinstance(entry, dict) for entry in config.values()):
        raise LensSteerError(f"{str(path)!r} holds no dict of modules: {WHAT}")
    name = model or source.parent.resolve().name
    family = architecture or guessed_architecture(name)
    layout = known_layout(family, n_blocks(config))
    placed = {
        sites.parse_module(module, layout).name: _pair(entry, module, str(path)) for module, entry in config.items()
    }
    steered = tuple(sorted(placed, key=lambda site: sites.parse(site).order))
    if len(placed) != len(config):
        raise LensSteerError(f"{str(path)!r} names one norm twice: its {len(config)} modules are {len(placed)} sites")
    first, second = placed[steered[0]]
    for site in steered:
        if not all(torch.equal(a, b) for a, b in zip(placed[site], (first, second), strict=True)):
            raise LensSteerError(
                f"{str(path)!r} has another plane at {site} than at {steered[0]}, and a calibration has one: "
                "import a file with one plane"
            )
    chosen, told = _selected(selected_site, source.stem, steered, layout)
    return plane_calibration(
        first,
        second,
        sites=steered,
        selected_site=chosen,
        discriminative_sites=steered,
        model=name,
        architecture=family,
        n_layers=_n_layers(n_layers, steered, str(path)),
        n_positive=0,
        n_negative=0,
        source_format="angular-steering",
        details={
            "read_at": "inputs of the norms",
            "candidates_are": "the first direction at every site",
            "selected_site_from": told,
            **_extras(next(iter(config.values()))),
        },
    )


def _pair(entry: dict[str, Any], module: str, path: str) -> tuple[Tensor, Tensor]:
    absent = [name for name in PAIR if name not in entry]
    if absent:
        raise LensSteerError(f"{path!r}: {module!r} has no {absent[0]}, and a plane needs both directions")
    found = []
    for name in PAIR:
        value = entry[name].value if isinstance(entry[name], Array) else entry[name]
        numeric = hasattr(value, "dtype") and value.dtype.isnative
        found.append(vector(torch.from_numpy(value) if numeric else value, f"{path!r}: {name} of {module!r}"))
    if len(found[0]) != len(found[1]) or found[0].dtype != found[1].dtype:
        raise LensSteerError(
            f"{path!r}: the directions of {module!r} have {len(found[0])} and {len(found[1])} numbers, or differ "
            "in dtype"
        )
    return found[0], found[1]


def _n_layers(given: int | None, steered: tuple[str, ...], path: str) -> int:
    blocks = sites.blocks_of(steered)
    if given is None and blocks != tuple(range(len(blocks))):
        raise LensSteerError(
            f"{path!r} has only the blocks {blocks[0]}–{blocks[-1]}, not every one from 0 on: give n_layers=… of "
            "the model"
        )
    if given is not None and blocks[-1] >= given:
        raise LensSteerError(
            f"{path!r} has a module in block {blocks[-1]}, and n_layers={given}: import with the model that the "
            "file was made on"
        )
    return given or len(blocks)


def _selected(given: str | None, stem: str, steered: tuple[str, ...], layout: Layout) -> tuple[str, str]:
    """Return the site that stands for the place where the first direction was read, and the source of this fact."""
    if given is not None:
        if given not in steered:
            raise LensSteerError(
                f"selected_site={given!r} is none of the file's {len(steered)} sites, such as {steered[0]}"
            )
        return given, "the caller"
    found = _SOURCE.search(stem)
    if found is not None:
        block, where = int(found[1]), found[2]
        if where in ("mid", "post"):
            site = sites.Site(block, "ln2").name if where == "mid" else sites.Site(block + 1, "ln1").name
        elif block < len(layout.blocks):
            site = sites.parse_module(f"layers.{block}.{where}", layout).name
        else:
            return steered[0], "nothing: the first site"
        if site in steered:
            return site, f"the file's name: {block}_{where}"
    return steered[0], "nothing: the first site"


def _extras(entry: dict[str, Any]) -> dict[str, str | float | int]:
    return {
        f"published_{name}": value
        for name in ("mode", "angle", "scale_factor")
        if isinstance(value := entry.get(name), str | float | int)
    }
