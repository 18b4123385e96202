"""Nothing but data is ever loaded: files that would run code, hand-written pickle streams, damaged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lens_steer.errors import LensSteerError
from lens_steer.interop.imports.angular import import_angular
from lens_steer.interop.imports.refusal_direction import import_refusal_direction
from lens_steer.interop.imports.steering_vectors import import_steering_vectors
from tests.imported import WIDTH, config, publish_run, save_npy
from tests.test_official import Malicious


def refused(call: Callable[[], Any], message: str, target: Path) -> None:
    with pytest.raises(LensSteerError, match=message):
        call()
    assert not target.exists()


def test_files_that_would_run_code_are_refused(tmp_path: Path) -> None:
    """Every reader of pickles: the message says why, and the code did not run; unpickled, it would have."""
    target, run = tmp_path / "touched", publish_run(tmp_path / "run")
    bad = Malicious(target)
    loaded = "more than tensors and was not loaded"
    for old in (True, False):
        torch.save({"layer_activations": {1: bad}}, tmp_path / "a.pt", _use_new_zipfile_serialization=old)
        refused(lambda: import_steering_vectors(tmp_path / "a.pt"), loaded, target)
        torch.save(bad, run / "direction.pt", _use_new_zipfile_serialization=old)
        refused(lambda: import_refusal_direction(run), loaded, target)
    torch.save([torch.ones(3, 4, WIDTH), bad], run / "generate_directions" / "mean_diffs.pt")
    refused(lambda: import_refusal_direction(run), loaded, target)
    plain = "more than plain data .*and was not loaded"
    for content in (bad, {"m": bad}, {"m": {"first_direction": bad}}):
        for protocol in (None, 2, 3, 5):
            save_npy(tmp_path / "c.npy", content, protocol)
            refused(lambda: import_angular(tmp_path / "c.npy", architecture="qwen2"), plain, target)
    np.load(save_npy(tmp_path / "c.npy", bad), allow_pickle=True)
    assert target.exists()  # the file is as dangerous as it looks


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(X\x05\x00\x00\x00falsetR.",  # a call by name
        b"(ios\nsystem\n.",  # the oldest way to make an instance
        b"\x80\x02cos\nsystem\n)\x81.",  # a new object
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",  # a name from the stack
        b"\x82\x01.",  # an extension registry
        b"P1\n.",  # a persistent id
        b"\x80\x04}\x85}s.",  # a key that is no name
        b"\x80\x04)R.",  # a call of nothing
        b"\x80\x04.",
        b"\x80\x04h\x07.",
    ],
)
def test_pickle_streams_by_hand(tmp_path: Path, stream: bytes) -> None:
    """Opcodes that plain data does not need, and streams that make no sense: refused, never run."""
    header = save_npy(tmp_path / "c.npy", {}).read_bytes().split(b"\n", 1)[0] + b"\n"
    (tmp_path / "c.npy").write_bytes(header + stream)
    with pytest.raises(LensSteerError, match="not loaded|corrupt|array of one object"):
        import_angular(tmp_path / "c.npy", architecture="qwen2")


def test_damaged_files_give_errors_of_ours(tmp_path: Path) -> None:
    """Cut short or with a byte changed, a file is read or refused with a message; no other exception comes out."""
    save_npy(tmp_path / "c.npy", config(blocks=1))
    torch.save({1: torch.ones(4)}, tmp_path / "a.pt")
    torch.save({1: torch.ones(4)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    save_file({"1": torch.ones(4)}, tmp_path / "d.safetensors")
    generator = np.random.default_rng(0)
    readers: dict[str, Callable[[Path], Any]] = {
        "c.npy": lambda path: import_angular(path, architecture="qwen2"),
        "a.pt": import_steering_vectors,
        "b.pt": import_steering_vectors,
        "d.safetensors": import_steering_vectors,
    }
    for name, reader in readers.items():
        whole = (tmp_path / name).read_bytes()
        path = tmp_path / f"damaged-{name}"
        for cut in generator.integers(0, len(whole), 25):
            path.write_bytes(whole[:cut])
            with pytest.raises(LensSteerError):
                reader(path)
        for place in generator.integers(0, len(whole), 60):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            try:
                reader(path)
            except LensSteerError as error:
                assert str(error)
