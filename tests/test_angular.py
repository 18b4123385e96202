"""Angular Steering's plane configs: the plane, where it was read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.geometry.planes import gram_error
from lens_steer.interop.imports.angular import import_angular
from tests.imported import WIDTH, config, plane, save_npy


@pytest.mark.parametrize("protocol", [None, 3])
def test_a_plane_config(tmp_path: Path, protocol: int | None) -> None:
    """The basis as the authors' code makes it, every norm of the file steered, the Gram error found; it steers from a
    saved calibration.
    """
    name = "steering_config-en-dir_max_sim_2_mid-pca_0.npy"
    found = import_angular(save_npy(tmp_path / "Qwen2.5-3B-Instruct" / name, config(first_norm=False), protocol))
    pair = plane()
    first, second = (torch.from_numpy(pair[k]).double() for k in ("first_direction", "second_direction"))
    b1 = first / first.norm()
    b2 = second - (second @ b1) * b1
    assert torch.allclose(found.basis.double(), torch.stack([b1, b2 / b2.norm()]), atol=1e-7)
    assert gram_error(found.basis) < 1e-6
    assert found.details["published_gram_error"] == pytest.approx(gram_error(torch.stack([first, second])))
    assert (found.model, found.architecture, found.n_layers, found.rule) == (
        "Qwen2.5-3B-Instruct",
        "qwen2",
        4,
        "imported",
    )
    assert len(found.sites) == 7
    assert found.discriminative_sites == found.sites
    assert (found.selected_site, found.details["selected_site_from"]) == (
        "blocks.2.ln2.hook_out",
        "the file's name: 2_mid",
    )
    assert (found.details["published_dtype"], found.details["published_mode"]) == ("float32", "rotate_to")
    ls.save_calibration(found, tmp_path / "cal")
    plan = ls.standard_angular(ls.load_calibration(tmp_path / "cal"), angle=180)
    h = torch.randn(3, WIDTH)
    steered = plan.operator("blocks.1.ln1.hook_out")(h)
    inside = (h.double() @ found.basis.double().T).norm(dim=1)
    assert torch.allclose(steered.double() @ found.basis[0].double(), -inside, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "selected"),
    [
        ("steering_config-en-max_sim_1_post-pca_0", "blocks.2.ln1.hook_out"),
        ("steering_config-en-max_sim_1_mid_L20-30-pca_0", "blocks.1.ln2.hook_out"),
        ("steering_config-en-max_norm_3_input_layernorm-pca_0", "blocks.3.ln1.hook_out"),
        ("steering_config-en-max_sim_3_post_attention_layernorm-pca_0", "blocks.3.ln2.hook_out"),
        ("steering_config-en-dir_mean-pca_0", "blocks.0.ln1.hook_out"),
        ("steering_config-en-max_sim_3_post-pca_0", "blocks.0.ln1.hook_out"),
    ],
)
def test_where_the_first_direction_was_read(tmp_path: Path, name: str, selected: str) -> None:
    """From the file's name; the first site where it does not say, or names the stream after the last block."""
    assert import_angular(save_npy(tmp_path / f"{name}.npy", config()), architecture="llama").selected_site == selected


def test_bad_plane_configs(tmp_path: Path) -> None:
    """Each named; a subset of the blocks needs the depth."""
    pair = plane()
    nan = {**pair, "second_direction": np.full(WIDTH, np.nan, dtype=np.float32)}
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (config({**pair, "first_direction": pair["first_direction"][:5]}), {}, "have 5 and 48 numbers"),
        (config({"first_direction": pair["first_direction"]}), {}, "no second_direction"),
        (config(nan), {}, "not finite"),
        (config({**pair, "second_direction": 3 * pair["first_direction"]}), {}, "degenerate"),
        (config({**pair, "first_direction": "x"}), {}, "is a str, not a tensor"),
        (config({**pair, "first_direction": pair["first_direction"].astype(int)}), {}, "int64"),
        ({**config(), "model.layers.1.input_layernorm": plane(9)}, {}, "another plane at blocks.1.ln1"),
        ({**config(), "layers.1.input_layernorm": pair}, {}, "names one norm twice"),
        ({"model.layers.1.mlp": pair}, {}, "not a norm of the model"),
        ({"model.layers.3.input_layernorm": pair}, {}, "give n_layers"),
        (config(), {"n_layers": 2}, "n_layers=2"),
        (config(), {"selected_site": "blocks.9.ln1.hook_out"}, "none of the file's"),
        (config(), {"architecture": None}, "does not say its architecture"),
        ({}, {}, "no dict of modules"),
        (["a"], {}, "no dict of modules|array of"),
    ]
    for content, options, message in cases:
        with pytest.raises(LensSteerError, match=message):
            import_angular(save_npy(tmp_path / "c.npy", content), **{"architecture": "qwen2", **options})
    assert (
        import_angular(
            save_npy(tmp_path / "c.npy", {"layers.3.input_layernorm": pair}), architecture="qwen2", n_layers=9
        ).n_layers
        == 9
    )
    np.save(tmp_path / "c.npy", np.ones(3))
    with pytest.raises(LensSteerError, match="holds an array of float64"):
        import_angular(tmp_path / "c.npy")
    (tmp_path / "c.npy").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(LensSteerError, match="Git LFS pointer"):
        import_angular(tmp_path / "c.npy")
    with pytest.raises(LensSteerError, match="does not exist"):
        import_angular(tmp_path / "none.npy")
