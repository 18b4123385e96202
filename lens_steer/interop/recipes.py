"""How to serve an export: the command lines for vLLM and llama.cpp, and one request that chooses the adapter.

Taken from the public documentation of vLLM (LoRA adapters; OpenAI-compatible server) and of llama.cpp (``convert_hf_to_gguf.py``, ``convert_lora_to_gguf.py``, ``tools/server``).
Neither was run here: what is checked here is PEFT and Transformers.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from lens_steer.errors import LensSteerError
from lens_steer.interop.lora import COSINE, SINE, circle_weights

ENGINES = ("vllm", "llama.cpp")
NOT_RUN = "# not run here (PEFT and Transformers were): from the engine's public documentation"
SHOWN_ANGLE = 200.0  # of the request to a pair of adapters


def check_recipe(engine: str | None) -> None:
    """Refuse an engine that there is no recipe for.

    Raises:
        LensSteerError: with those that there are.
    """
    if engine is not None and engine not in ENGINES:
        raise LensSteerError(f"recipe={engine!r}: use one of {', '.join(ENGINES)}")


def recipe(engine: str, kind: str, folder: str | Path, base: str, adapters: Sequence[str] = ()) -> str:
    """The lines that serve an export, and one request.

    Args:
        engine: ``"vllm"`` or ``"llama.cpp"``.
        kind: ``"lora"``, ``"bank"``, ``"circle"`` or ``"merged"``.
        folder: of the export.
        base: name or path of the base model.
        adapters: names of a bank's adapters, which are subfolders.

    Raises:
        LensSteerError: an unknown engine; a pair of adapters for vLLM, which takes one adapter a request.

    >>> print(recipe("vllm", "lora", "out", "Qwen/Qwen2.5-1.5B-Instruct"))
    # not run here (PEFT and Transformers were): from the engine's public documentation
    vllm serve Qwen/Qwen2.5-1.5B-Instruct --enable-lora --max-loras 1 --lora-modules steered=out
    # one request; the adapter is its model, and the base model's name is the model without steering
    curl http://localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{"model": "steered", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}'
    """
    check_recipe(engine)
    where = str(folder)
    lines = _vllm(kind, where, base, adapters) if engine == "vllm" else _llama_cpp(kind, where, base, adapters)
    return "\n".join([NOT_RUN, *lines])


def _vllm(kind: str, folder: str, base: str, adapters: Sequence[str]) -> list[str]:
    if kind == "circle":
        raise LensSteerError(
            "recipe='vllm': vLLM takes one adapter a request and does not scale it: export a bank, or use recipe='llama.cpp'"
        )
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


def _llama_cpp(kind: str, folder: str, base: str, adapters: Sequence[str]) -> list[str]:
    if kind == "merged":
        return [
            f"python convert_hf_to_gguf.py {shlex.quote(folder)} --outfile steered.gguf --outtype f16",
            "llama-server -m steered.gguf --jinja --port 8080",
            "# one request",
            _curl(8080, {}),
        ]
    names = {"lora": ["steered"], "circle": [COSINE, SINE], "bank": list(adapters)}[kind]
    folders = {name: folder if kind == "lora" else f"{folder}/{name}" for name in names}
    scales = dict.fromkeys(names, 0.0) | {names[0]: 1.0}
    if kind == "circle":
        scales = dict(zip(names, (round(w, 6) for w in circle_weights(SHOWN_ANGLE)), strict=True))
    chosen = [{"id": i, "scale": scales[name]} for i, name in enumerate(names) if scales[name]]
    about = f"the angle {SHOWN_ANGLE:g} (scales cos θ − 1 and sin θ)" if kind == "circle" else f"the adapter {names[0]}"
    return [
        f"python convert_hf_to_gguf.py {shlex.quote(base)} --outfile base.gguf --outtype f16  # a local folder",
        *(
            f"python convert_lora_to_gguf.py {shlex.quote(path)} --base {shlex.quote(base)} --outfile {name}.gguf"
            for name, path in folders.items()
        ),
        f"llama-server -m base.gguf {' '.join(f'--lora-scaled {name}.gguf:0' for name in names)} --jinja --port 8080",
        f"# one request with {about}; adapters it does not name have scale 0, and other scales run in a batch of their own",
        _curl(8080, {"lora": chosen}),
    ]


def _curl(port: int, body: dict[str, object]) -> str:
    whole = {**body, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    data = json.dumps(whole).replace("'", "'\\''")
    return f"curl http://localhost:{port}/v1/chat/completions -H 'Content-Type: application/json' -d '{data}'"
