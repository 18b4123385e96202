"""How to serve an export: the command lines for vLLM and llama.cpp, and one request that chooses the adapter.

vLLM's are from its public documentation (LoRA adapters; OpenAI-compatible server) and were not tried. llama.cpp's were:
:data:`RUN` names the release, the embedded models answered as they do under hooks. Their tokenizers are unknown to
``convert_hf_to_gguf.py`` (it knows those of published models), so its choice of pre-tokenizer was set by hand for that.
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
    "vllm": "# not tried (PEFT and Transformers were): from the engine's public documentation",
    "llama.cpp": (
        "# tried with llama.cpp 0.5.0-dev (0c1e570, which llama-cpp-python 0.3.36 carries) on the embedded models"
    ),
}
SHOWN_ANGLE = 200.0  # of the request to a pair of adapters


def check_recipe(engine: str | None, kind: str | None = None) -> None:
    """Refuse an engine that there is no recipe for, or that cannot serve a kind of export.

    Raises:
        LensSteerError: with those that there are.
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
    """The lines that serve an export, and one request.

    Args:
        engine: ``"vllm"`` or ``"llama.cpp"``.
        kind: ``"lora"``, ``"bank"``, ``"circle"``, ``"merged"`` or ``"cvec"``.
        folder: of the export; the file of a control vector.
        base: name or path of the base model.
        adapters: names of a bank's adapters, which are subfolders.
        gguf: the adapters stand there as ``adapter.gguf`` too, so llama.cpp needs no converter for them.

    Raises:
        LensSteerError: an unknown engine; a pair of adapters for vLLM, which takes one adapter a request, or a control
            vector.

    >>> print(recipe("vllm", "lora", "out", "Qwen/Qwen2.5-1.5B-Instruct"))  # doctest: +ELLIPSIS
    # not tried (PEFT and Transformers were): from the engine's public documentation
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
    """Why llama.cpp does not do what an exported folder does; None where it does, or where there is no folder to look
    at.

    Found by trying: Gemma-2's unembedding untied from the embedding is dropped without a word, biases of attention's
    output are not loaded but on Llama; of adapters, biases are not converted, and the unembedding of a base that ties
    it is not found.

    Args:
        folder: a merged one, or an adapter's.
        base: of an adapter.
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
    if UNEMBEDDING in adapter.get("target_modules", ()) and _facts(Path(base) / "config.json").get(
        "tie_word_embeddings"
    ):
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
    data = json.dumps(whole).replace("'", "'\\''")
    return f"curl http://localhost:{port}/v1/chat/completions -H 'Content-Type: application/json' -d '{data}'"
