"""Control vectors with a certificate: the file, read back, does what the plan's hooks do; one that does not is not
kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lens_steer.errors import LensSteerError
from lens_steer.interop.exports.certificate import Trial
from lens_steer.interop.gguf import control_vectors
from lens_steer.interop.gguf.control_vectors import certificate_file, check_place, export_control_vector
from lens_steer.interop.gguf.vectors import import_gguf
from lens_steer.interop.imports.directions import direction_set
from lens_steer.models.loading import hf_twin, read_again
from tests.imported import WIDTH, by_hand, loaded, logits_of, rows
from tests.test_folding import plan_of
from tests.test_parity import PROMPTS

pytest.importorskip("gguf", reason="GGUF files need the extra 'export'")

QUICK = Trial(PROMPTS[:2], new_tokens=3)


def adding(model: Any, *sites: str, coefficient: float = -1.5) -> Any:
    """A plan that adds another direction at every site."""
    generator = torch.Generator().manual_seed(1)
    steps = [
        ("add", s, {"direction": torch.randn(WIDTH, generator=generator), "coefficient": coefficient}) for s in sites
    ]
    return plan_of(model, *steps)


def test_the_certificate(tiny_folder: Path, tmp_path: Path) -> None:
    """Of every family; it stands beside the file and says what the plan changes."""
    model = loaded(tiny_folder)
    plan = adding(model, "blocks.1.hook_resid_post", "blocks.3.hook_resid_pre", "blocks.3.hook_resid_post")
    numbers, found = export_control_vector(plan, tmp_path / "v.gguf", model, trial=QUICK)
    assert found is not None
    assert list(numbers.values()) == [1, 2, 3]
    assert (found.verdict, found.kind, found.n_prompts, found.folded_sites) == ("pass", "control vector", 2, plan.sites)
    assert found.largest_change_by_plan > 0.1
    written = json.loads((tmp_path / "v.certificate.json").read_text(encoding="utf-8"))
    assert written["directions"]["direction.2"] == "blocks.3.hook_resid_pre"
    assert "gguf" in written["versions"]
    twin = hf_twin(model)
    tokens = torch.arange(9)[None] + 60
    before = logits_of(twin, tokens)
    assert torch.equal(before, logits_of(twin, tokens))  # its hooks were on a model of its own


def test_what_it_adds_is_what_a_hook_by_hand_adds(tiny_folder: Path, tmp_path: Path) -> None:
    """To the output of the named block, on a model read anew."""
    model = loaded(tiny_folder)
    plan = adding(model, "blocks.2.hook_resid_post", coefficient=2.0)
    export_control_vector(plan, tmp_path / "v.gguf")
    steered = control_vectors.controlled(read_again(model), import_gguf(tmp_path / "v.gguf"))
    tokens = torch.arange(9)[None] + 60
    wanted = by_hand(hf_twin(model), "model.layers.2", 2.0 * plan.steps[0].parameters["direction"].float(), tokens)
    assert torch.allclose(logits_of(steered, tokens), wanted, atol=1e-6)
    assert not torch.allclose(logits_of(hf_twin(model), tokens), wanted, atol=1e-2)


def test_without_a_model(tiny_folder: Path, tmp_path: Path) -> None:
    """Written and read back, and no certificate; a certificate that lies there is not taken for its own."""
    plan = direction_set(rows(1, 2), model="m", architecture="qwen2", n_layers=4, source_format="test").additive_plan(3)
    numbers, found = export_control_vector(plan, tmp_path / "v.gguf")
    assert (list(numbers.values()), found, certificate_file(tmp_path / "v.gguf").exists()) == ([1, 2], None, False)
    check_place(tmp_path / "v.gguf")
    certificate_file(tmp_path / "v.gguf").write_text("{}", encoding="utf-8")
    with pytest.raises(LensSteerError, match="the certificate of an earlier export"):
        export_control_vector(plan, tmp_path / "v.gguf")


def test_another_block_fails(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong between plan and file: the block, a direction, nothing added at all; nothing is kept."""
    model = loaded(tiny_folder)
    plan = adding(model, "blocks.1.hook_resid_post")
    monkeypatch.setattr(control_vectors, "controlled", lambda twin, found: twin)
    with pytest.raises(LensSteerError, match="the control vector export does not do what the hooks do"):
        export_control_vector(plan, tmp_path / "v.gguf", model, trial=QUICK)
    monkeypatch.undo()

    def moved(path: Path) -> Any:
        found = import_gguf(path)
        return direction_set(
            {"blocks.2.hook_resid_post": found.directions[0]},
            model="",
            architecture=None,
            n_layers=None,
            source_format="",
        )

    monkeypatch.setattr(control_vectors, "import_gguf", moved)
    with pytest.raises(LensSteerError, match="does not come back as it was written"):
        export_control_vector(plan, tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []


def test_refused(tiny_folder: Path, tmp_path: Path) -> None:
    """Another model's plan, a bad trial, what cannot be a control vector."""
    model = loaded(tiny_folder)
    wide = direction_set(
        {"blocks.1.hook_resid_post": torch.ones(8)},
        model="m",
        architecture=model.lens_info.architecture,
        n_layers=4,
        source_format="t",
    )
    for plan, trial, message in (
        (wide.additive_plan(), QUICK, "d_model 8"),
        (adding(model, "blocks.1.hook_resid_post"), Trial(new_tokens=0), "new_tokens=0"),
        (adding(model, "blocks.1.hook_resid_mid"), QUICK, "output of a block only"),
        (adding(model, "blocks.0.hook_resid_post"), QUICK, "the output of block 0"),
    ):
        with pytest.raises(LensSteerError, match=message):
            export_control_vector(plan, tmp_path / "v.gguf", model, trial=trial)
    assert list(tmp_path.iterdir()) == []
