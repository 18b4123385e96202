"""Hidden states that vLLM extracted, as a recording of two classes of prompts.

vLLM (its method ``extract_hidden_states`` with the connector for files) writes one file for each request:
``hidden_states`` [n_tokens, n_layers, d_model] and ``token_ids`` [n_tokens]. Layer i is the residual stream before
block i, and layer ``n_layers`` the stream after the last block. A file says neither which layers it holds nor which
prompt it is of: the layers are given, and prompts are recognised by their token ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lens_steer.data import Contrast, Prompt, PromptSet
from lens_steer.errors import LensSteerError, first_line
from lens_steer.inference import batching
from lens_steer.inference.class_means import recording
from lens_steer.inference.pooling import Pooling, check_poolable
from lens_steer.inference.record import Activations, check_sides
from lens_steer.models.info import ModelInfo
from lens_steer.models.loading import info_of
from lens_steer.models.sites import Site

HIDDEN, TOKENS = "hidden_states", "token_ids"
KINDS = ("resid_pre", "resid_post")


def import_hidden_states(
    folder: str | Path,
    model: Any,
    contrast: Contrast,
    layers: Sequence[int],
    *,
    kind: str = "resid_post",
    pooling: Pooling = "last",
) -> Activations:
    """Read the hidden states that vLLM wrote for the prompts of a contrast.

    Args:
        folder: The folder with vLLM's files (``.safetensors``), one for each prompt, in any order. A file may go on
            with tokens that were generated. Files of other prompts are left alone.
        model: A loaded model, or the description of one: its tokenizer and template give the token ids of the prompts.
        contrast: The prompts.
        layers: The layers that the files hold, in their order (vLLM's ``eagle_aux_hidden_state_layer_ids``).
        kind: ``"resid_pre"`` or ``"resid_post"``: under which name a layer is kept. The stream before block i is
            ``resid_pre`` of block i and ``resid_post`` of block i − 1.
        pooling: ``"last"`` keeps the last token of the prompt, ``"response"`` the mean over the tokens of the prompt's
            response.

    Returns:
        The recording, with ``vllm`` as its backend.

    Raises:
        LensSteerError: If a layer does not exist, if no layer has a site of this kind, if the folder holds no file of a
            prompt, or if a file is corrupt, has another number of layers or of tokens, another width, or values that
            are not finite.
    """
    info = info_of(model)
    if kind not in KINDS or pooling not in ("last", "response"):
        raise LensSteerError(f"kind={kind!r}, pooling={pooling!r}: use {' or '.join(KINDS)}, and last or response")
    check_sides(contrast)
    for side in (contrast.positive, contrast.negative):
        check_poolable(model, side, pooling)
    columns = _columns(info, layers, kind)
    files = _files(Path(folder))
    how = (files, len(layers), columns, pooling)
    positive, negative = (_side(info, side, *how) for side in (contrast.positive, contrast.negative))
    about: dict[str, Any] = recording(info, contrast, pooling) | {"backend": "vllm"}
    return Activations(
        tuple(columns),
        positive,
        negative,
        tuple(p.group for p in contrast.positive),
        tuple(p.group for p in contrast.negative),
        **about,
        hashes_positive=contrast.positive.hashes,
        hashes_negative=contrast.negative.hashes,
    )


def _columns(info: ModelInfo, layers: Sequence[int], kind: str) -> dict[str, int]:
    """Return the column of the files for each site, in network order."""
    wrong = [layer for layer in layers if not 0 <= layer <= info.n_layers]
    if wrong or len(set(layers)) < len(layers):
        raise LensSteerError(
            f"layers={list(layers)!r}: give each once, from 0 (before the first block) to {info.n_layers} (after the "
            "last one), in the order in which vLLM was given them"
        )
    shift = 0 if kind == "resid_pre" else -1
    blocks = {layer + shift: column for column, layer in enumerate(layers) if 0 <= layer + shift < info.n_layers}
    if not blocks:
        raise LensSteerError(f"layers={list(layers)!r}: none of them is {kind} of a block")
    return {Site(block, kind).name: blocks[block] for block in sorted(blocks)}


def _files(folder: Path) -> dict[tuple[int, ...], Path]:
    """Return the files of a folder by their token ids."""
    paths = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not paths:
        raise LensSteerError(f"folder {str(folder)!r} holds no .safetensors file: give the folder that vLLM wrote to")
    found: dict[tuple[int, ...], Path] = {}
    for path in paths:
        ids = _read(path, TOKENS)[0]
        if ids.ndim != 1 or ids.is_floating_point():
            raise LensSteerError(f"{str(path)!r}: {TOKENS} of shape {tuple(ids.shape)} are no token ids of one prompt")
        found.setdefault(tuple(ids.tolist()), path)
    return found


def _read(path: Path, *names: str) -> list[Tensor]:
    try:
        with safe_open(path, framework="pt") as stored:
            return [stored.get_tensor(name) for name in names]
    except (SafetensorError, OSError) as error:
        raise LensSteerError(
            f"{str(path)!r} cannot be read as hidden states of vLLM ({first_line(error)}): extract it again, or take "
            "it out of the folder"
        ) from None


def _side(
    info: ModelInfo,
    prompts: PromptSet,
    files: Mapping[tuple[int, ...], Path],
    n_layers: int,
    columns: Mapping[str, int],
    pooling: Pooling,
) -> Float[Tensor, "n_prompts n_sites d_model"]:
    rows = []
    for row, prompt in enumerate(prompts):
        ids = batching.encode(info.tokenizer, prompt)
        response = batching.encode_response(info.tokenizer, prompt) if pooling == "response" else []
        path = _file_of(prompt, row, prompts.name, [*ids, *response], files)
        hidden, tokens = _read(path, HIDDEN, TOKENS)
        _check(path, hidden, tokens, n_layers, info.d_model)
        states = hidden[:, list(columns.values())].float()
        rows.append(states[len(ids) : len(ids) + len(response)].mean(dim=0) if response else states[len(ids) - 1])
    return torch.stack(rows)


def _file_of(prompt: Prompt, row: int, name: str, ids: list[int], files: Mapping[tuple[int, ...], Path]) -> Path:
    """Return the file of a prompt: that of its token ids, or one that goes on from them."""
    wanted = tuple(ids)
    found = files.get(wanted) or next((path for given, path in files.items() if given[: len(ids)] == wanted), None)
    if found is None:
        raise LensSteerError(
            f"no file has the token ids of prompt {row} of {name!r} ({prompt.text[:40]!r}…, {len(ids)} tokens from "
            f"{ids[:4]} on): send vLLM the ids that 'lens-steer tokens' shows, with this model and template"
        )
    return found


def _check(path: Path, hidden: Tensor, tokens: Int[Tensor, " pos"], n_layers: int, d_model: int) -> None:
    if hidden.ndim != 3 or tuple(hidden.shape) != (len(tokens), n_layers, d_model):
        raise LensSteerError(
            f"{str(path)!r}: {HIDDEN} have the shape {tuple(hidden.shape)}, and {(len(tokens), n_layers, d_model)} is "
            "needed (tokens, layers, d_model): give the layers that were extracted, and the model"
        )
    if not bool(torch.isfinite(hidden).all()):
        raise LensSteerError(f"{str(path)!r} holds values that are not finite: extract it again")
