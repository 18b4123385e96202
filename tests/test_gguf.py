"""Control vectors as GGUF: written and read back, every writer's files, the layer convention, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.interop.gguf.vectors import export_gguf_cvec, import_gguf, layer_number
from tests.imported import WIDTH, a_set, by_hand, loaded, logits_of, rows

gguf = pytest.importorskip("gguf")


def written(
    path: Path,
    directions: dict[str, Any],
    *,
    hint: str = "qwen2",
    architecture: str = "controlvector",
    signed: bool = False,
    **more: str,
) -> Path:
    """A control vector as the other projects write it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string(f"{architecture}.model_hint", hint)
    (writer.add_int32 if signed else writer.add_uint32)(f"{architecture}.layer_count", len(directions))
    for key, value in more.items():
        writer.add_string(f"{architecture}.{key}", value)
    for name, value in directions.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def vectors(*numbers: int, dtype: Any = np.float32) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {f"direction.{n}": generator.standard_normal(WIDTH).astype(dtype) for n in numbers}


@pytest.mark.parametrize(
    ("hint", "architecture"),
    [("llama", "mistral"), ("mistral", "mistral"), ("gemma3", "gemma3_text"), ("elsewhere", "qwen3")],
)
def test_a_hint_by_either_name(tmp_path: Path, hint: str, architecture: str) -> None:
    """Hugging Face's model type, as repeng writes it, or llama.cpp's name of the architecture; what neither knows is
    the user's word.
    """
    made = import_gguf(written(tmp_path / "v.gguf", vectors(1), hint=hint), architecture=architecture)
    assert made.architecture == architecture
    if hint != "elsewhere":
        with pytest.raises(LensSteerError, match=f"made on a model of architecture {hint!r}, not 'gemma2'"):
            import_gguf(tmp_path / "v.gguf", architecture="gemma2")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_written_and_read_back(tmp_path: Path, dtype: torch.dtype) -> None:
    """Equal in float32 at the same sites, with the model; a block's input is the output of the block before."""
    made = a_set(rows(1, 3, dtype=dtype) | {"blocks.3.hook_resid_pre": torch.ones(WIDTH, dtype=dtype)})
    numbers = export_gguf_cvec(made, tmp_path / "v.gguf")
    assert numbers == {"blocks.1.hook_resid_post": 1, "blocks.3.hook_resid_pre": 2, "blocks.3.hook_resid_post": 3}
    back = import_gguf(tmp_path / "v.gguf")
    assert back.sites == tuple(f"blocks.{n}.hook_resid_post" for n in (1, 2, 3))
    for site, number in numbers.items():
        assert torch.equal(back.raw(f"blocks.{number}.hook_resid_post"), made.raw(site).float())
    assert (back.model, back.architecture, back.n_layers, back.dtype) == ("tiny", "qwen2", 4, "float32")
    assert back.details["written_like"] == "lens-steer"
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    assert [(t.name, t.tensor_type.name, list(t.shape)) for t in reader.tensors] == [
        (f"direction.{n}", "F32", [WIDTH]) for n in (1, 2, 3)
    ]
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "qwen2"
    assert reader.get_field("controlvector.layer_count").contents() == 3


def test_an_additive_plan_is_written_with_its_coefficient(tmp_path: Path) -> None:
    """``α d``; anything but an addition to every token is refused."""
    made = a_set(rows(1, 2))
    export_gguf_cvec(made.additive_plan(-2.5), tmp_path / "v.gguf")
    assert torch.allclose(import_gguf(tmp_path / "v.gguf").directions, -2.5 * made.directions)
    for plan, message in (
        (made.ablation_plan(site=made.sites[0]), "no addition"),
        (made.additive_plan(positions="prompt"), "positions"),
    ):
        with pytest.raises(LensSteerError, match=message):
            export_gguf_cvec(plan, tmp_path / "w.gguf")
    assert not (tmp_path / "w.gguf").exists()


@pytest.mark.parametrize(
    ("options", "writer"),
    [
        ({}, "repeng"),
        ({"signed": True}, "llama.cpp's cvector-generator"),
        ({"method": "diffmean"}, "EasySteer"),
        ({"method": "pca", "easysteer": '{"version":1,"component":"hidden_states","metadata":null}'}, "EasySteer"),
    ],
)
def test_every_writer(tmp_path: Path, options: dict[str, Any], writer: str) -> None:
    """The same convention for all: direction N is the output of block N; the architecture is the file's hint, the depth
    the caller's.
    """
    directions = vectors(3, 1)
    found = import_gguf(written(tmp_path / "v.gguf", directions, **options), n_layers=4)
    assert found.sites == ("blocks.1.hook_resid_post", "blocks.3.hook_resid_post")
    assert np.array_equal(found.raw("blocks.3.hook_resid_post").numpy(), directions["direction.3"])
    assert (found.architecture, found.n_layers, found.model) == ("qwen2", 4, "")
    assert (found.details["written_like"], found.details["model_hint"]) == (writer, "qwen2")
    assert found.additive_plan().sites == found.sites


def test_half_precision_and_block_0(tmp_path: Path) -> None:
    """EasySteer counts block 0 too; the dtype found is kept."""
    found = import_gguf(written(tmp_path / "v.gguf", vectors(0, dtype=np.float16), hint="unknown", method="pca"))
    assert (found.sites, found.dtype, found.architecture) == (("blocks.0.hook_resid_post",), "float16", None)


def test_steering_equals_a_plain_hook(tiny_folder: Path, twin: Any, tmp_path: Path) -> None:
    """``direction.2`` adds to the output of the third block."""
    model = loaded(tiny_folder)
    tokens, directions = torch.arange(9)[None] + 60, vectors(2)
    path = written(tmp_path / "v.gguf", directions, hint=model.lens_info.architecture)
    with ls.steering(model, import_gguf(path, n_layers=4).additive_plan(3)):
        steered = logits_of(model, tokens)
    wanted = by_hand(twin, "model.layers.2", 3 * torch.from_numpy(directions["direction.2"]), tokens)
    assert float((steered - wanted).abs().max()) < 2e-4
    assert float((steered - logits_of(twin, tokens)).abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("blocks.0.hook_resid_post", "the output of block 0"),
        ("blocks.1.hook_resid_pre", "the output of block 0"),
        ("blocks.0.hook_resid_pre", "the embedding"),
        ("blocks.2.hook_resid_mid", "output of a block only"),
        ("blocks.2.ln1.hook_out", "output of a block only"),
    ],
)
def test_sites_that_no_control_vector_reaches(tmp_path: Path, site: str, message: str) -> None:
    """Refused with the reason, and no file appears."""
    with pytest.raises(LensSteerError, match=message):
        layer_number(site)
    with pytest.raises(LensSteerError, match=message):
        export_gguf_cvec(a_set({site: torch.ones(WIDTH)}), tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []


def test_bad_exports(tmp_path: Path) -> None:
    """One tensor twice, an unknown architecture, too large for float32."""
    twice = rows(2) | rows(3, kind="hook_resid_pre")
    big = {"blocks.2.hook_resid_post": torch.full((4,), 1e300, dtype=torch.float64)}
    for made, message in (
        (a_set(twice), "are one tensor, the output of block 2"),
        (a_set(rows(2), architecture=None), "architecture is unknown"),
        (a_set(big), "too large for float32"),
    ):
        with pytest.raises(LensSteerError, match=message):
            export_gguf_cvec(made, tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda p: written(p, vectors(1), architecture="llama"), {}, "architecture 'llama', not a control vector"),
        (lambda p: written(p, {}), {}, "no direction at all"),
        (
            lambda p: written(p, vectors(1) | {"blk.0.attn_q.weight": np.ones(4, np.float32)}),
            {},
            "holds the tensor 'blk.0",
        ),
        (lambda p: written(p, {"direction.-1": np.ones(4, np.float32)}), {}, "holds the tensor 'direction.-1'"),
        (lambda p: written(p, {"direction.1": np.ones((2, 4), np.float32)}), {}, "has shape"),
        (lambda p: written(p, {"direction.1": np.ones(4, np.int32)}), {}, "is stored as I32"),
        (lambda p: written(p, {"direction.1": np.array([1, np.nan], np.float32)}), {}, "not finite"),
        (lambda p: written(p, vectors(1) | {"direction.2": np.ones(3, np.float32)}), {}, "do not fit together"),
        (
            lambda p: written(p, vectors(1), method="pca", easysteer='{"component":"router_logits"}'),
            {},
            "directions of 'router_logits'",
        ),
        (lambda p: written(p, vectors(1), method="pca", easysteer="{"), {}, "is not valid JSON"),
        (lambda p: written(p, vectors(1)), {"architecture": "llama"}, "made on a model of architecture 'qwen2'"),
        (lambda p: written(p, vectors(5)), {"n_layers": 4}, "does not exist in a model of 4 blocks"),
        (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), {}, "Git LFS pointer"),
        (lambda p: p.write_bytes(b"PK\x03\x04"), {}, "is not a GGUF file"),
        (lambda p: None, {}, "does not exist"),
    ],
)
def test_bad_files(tmp_path: Path, make: Callable[[Path], Any], options: dict[str, Any], message: str) -> None:
    """Each named."""
    make(tmp_path / "v.gguf")
    with pytest.raises(LensSteerError, match=message):
        import_gguf(tmp_path / "v.gguf", **options)


def test_damaged_files_give_errors_of_ours(tmp_path: Path) -> None:
    """Cut short or with a byte changed, a file is read or refused with a message; no other exception comes out."""
    whole = written(tmp_path / "v.gguf", vectors(1)).read_bytes()
    generator = np.random.default_rng(1)
    for cut in generator.integers(0, len(whole) - 40, 40):
        (tmp_path / "v.gguf").write_bytes(whole[:cut])
        with pytest.raises(LensSteerError):
            import_gguf(tmp_path / "v.gguf")
    for place in generator.integers(0, len(whole), 150):
        (tmp_path / "v.gguf").write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            import_gguf(tmp_path / "v.gguf")
        except LensSteerError as error:
            assert str(error)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how to install it."""
    monkeypatch.setitem(sys.modules, "gguf", None)
    for call in (
        lambda: import_gguf(tmp_path / "v.gguf"),
        lambda: export_gguf_cvec(a_set(rows(1)), tmp_path / "v.gguf"),
    ):
        with pytest.raises(LensSteerError, match=r"pip install 'lens-steer\[export\]'"):
            call()
