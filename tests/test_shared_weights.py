"""One set of weights for the model and its Hugging Face twin: equal to the library's own conversion to the bit, views
wherever the layout allows, kept apart where it does not.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lens_steer as ls
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.sweep_protocol import _weights_hash
from lens_steer.models.hooked_transformer import CONVERTERS, GEMMAS, hooked_config
from lens_steer.models.huggingface import read_weights
from lens_steer.models.loading import hf_twin
from lens_steer.models.location import read_config
from tests.conftest import HAS_HOOKED
from tests.tiny import build

pytestmark = pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
OWN_ON_GEMMA = (".w", "W_E")  # stored as 1 + w, and times sqrt(d_model)


class SizesMade(TorchDispatchMode):
    """Keeps the sizes of all tensors that are made inside its block with memory of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:
            self.sizes.append(made.numel())
        return made


@pytest.fixture(scope="module", params=list(CONVERTERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request.param, tmp_path_factory.mktemp(request.param))


def converted(folder: Path, dtype: torch.dtype) -> Any:
    """The model as the library makes it from a state dict, without processing, with weights of its own."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions

    config = read_config(str(folder), str(folder))
    cfg = HookedTransformerConfig.from_dict(
        {**hooked_config(config, str(folder)), "dtype": dtype, "device": "cpu", "d_vocab": config.vocab_size}
    )
    source = read_weights(str(folder), config, dtype)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(cfg, move_to_device=False)
        model.load_and_process_state_dict(
            getattr(weight_conversions, CONVERTERS[config.model_type])(source, cfg),
            fold_ln=False,
            center_writing_weights=False,
            center_unembed=False,
            fold_value_biases=False,
        )
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_the_librarys_own_to_the_bit(folder: Path, dtype: torch.dtype) -> None:
    """Every tensor, the rotary tables too, and so the logits."""
    model, wanted = ls.load_model(folder, dtype=dtype, backend="hooked"), converted(folder, dtype)
    found, theirs = model.state_dict(), wanted.state_dict()
    assert found.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
    ids = torch.tensor([[5, 9, 7, 30, 12]])
    with torch.inference_mode():
        assert torch.equal(model(ids), wanted(ids))
    assert all(p.requires_grad and not p.is_meta for p in model.parameters())
    assert not any(b.is_meta for b in model.buffers())


def test_the_twin_has_the_same_memory(folder: Path) -> None:
    """All but the zeros that only one of them has, and on Gemma what is stored otherwise; a change in place of a shared
    one is seen by both.
    """
    model: Any = ls.load_model(folder, backend="hooked")
    twin = hf_twin(model)
    theirs = {p.untyped_storage().data_ptr() for p in twin.parameters()}
    for name, p in model.named_parameters():
        other = "b_" in name and not (model.lens_info.architecture == "qwen2" and name.rsplit("_", 1)[1] in "QKV")
        other |= model.lens_info.architecture in GEMMAS and name.endswith(OWN_ON_GEMMA)
        assert (p.untyped_storage().data_ptr() in theirs) != other, name
        assert not other or "b_" not in name or not p.any(), name
    with torch.no_grad():
        model.blocks[1].attn.W_O.mul_(-2)
        model.blocks[2].mlp.W_gate[:, 3] = 1.0
    assert (twin.model.layers[2].mlp.gate_proj.weight[3] == 1).all()
    options: dict[str, Any] = {"max_new_tokens": 6}
    assert ls.generate(model, ["Hi"], engine="hf", **options) == ls.generate(model, ["Hi"], engine="tl", **options)


def test_what_only_one_of_them_sees_is_refused(folder: Path) -> None:
    """A bias that Hugging Face does not have, a weight put in another's place, the model moved to another dtype."""
    for change in (
        lambda m: m.blocks[0].attn.b_O.add_(1),
        lambda m: setattr(m.blocks[0].mlp, "W_in", torch.nn.Parameter(m.blocks[0].mlp.W_in.detach().clone())),
        lambda m: m.double(),
    ):
        model: Any = ls.load_model(folder, backend="hooked")
        with torch.no_grad():
            change(model)
        with pytest.raises(LensSteerError, match=r"replaced, moved or changed after loading.*: use engine='tl'"):
            ls.generate(model, ["Hi"], max_new_tokens=2, engine="hf")


def test_a_forward_copies_no_weight(folder: Path) -> None:
    """What the library lays out anew before each product is laid out so already: Hugging Face's own memory."""
    model: Any = ls.load_model(folder, backend="hooked")
    assert model.unembed.W_U.T.is_contiguous()
    for block in model.blocks:
        attn, mlp = block.attn, block.mlp
        assert all(w.T.is_contiguous() for w in (mlp.W_in, mlp.W_gate, mlp.W_out))
        assert all(w.transpose(1, 2).is_contiguous() for w in (attn.W_Q, attn._W_K, attn._W_V))
        assert attn.W_O.permute(2, 0, 1).is_contiguous()


def test_a_run_is_known_by_its_weights_without_a_copy(folder: Path) -> None:
    """What tells two checkpoints of one name apart reads the first entries of each parameter, whichever way it is laid
    out, and nothing else.
    """
    model = ls.load_model(str(folder))
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode() + parameter.detach().contiguous().flatten()[:16].double().numpy().tobytes())
    with SizesMade() as made:
        found = _weights_hash(model)
    assert found == digest.hexdigest()
    assert max(made.sizes) <= 4 * 16  # the entries, and where they stand


def test_gradients_are_apart(folder: Path) -> None:
    """A backward pass through one leaves the other's gradients alone."""
    model: Any = ls.load_model(folder, backend="hooked")
    model(torch.tensor([[5, 6, 7]])).sum().backward()
    assert model.embed.W_E.grad is not None
    assert all(p.grad is None for p in hf_twin(model).parameters())


def test_the_tokenizer_is_read_once(folder: Path) -> None:
    """The model's own shares the vocabulary and gives the ids of the one that the library would read; ours keeps its
    special tokens.
    """
    import copy

    from transformers import AutoTokenizer

    model: Any = ls.load_model(folder, backend="hooked")
    ours, fresh = model.lens_info.tokenizer, AutoTokenizer.from_pretrained(folder)
    assert (ours.bos_token, ours.eos_token, ours.init_kwargs) == (fresh.bos_token, fresh.eos_token, fresh.init_kwargs)
    assert model.tokenizer._tokenizer is ours._tokenizer
    wanted = converted(folder, torch.float32)
    wanted.set_tokenizer(copy.deepcopy(ours), default_padding_side="left")
    assert model.tokenizer.bos_token == wanted.tokenizer.bos_token
    for texts in ("The bridge.", ["The bridge.", "Hi"], ""):
        for bos in (None, False, True):
            assert torch.equal(model.to_tokens(texts, prepend_bos=bos), wanted.to_tokens(texts, prepend_bos=bos)), (
                texts,
                bos,
            )


def test_rotary_tables_are_computed_once_a_kind_of_attention(folder: Path) -> None:
    """Blocks of one kind hold the very same table, equal to the one that the library makes for each; nothing of the
    library stays changed.
    """
    from transformer_lens.components.abstract_attention import AbstractAttention

    own = AbstractAttention.calculate_sin_cos_rotary
    model: Any = ls.load_model(folder, backend="hooked")
    assert AbstractAttention.calculate_sin_cos_rotary is own
    tables: dict[str, set[int]] = {}
    for block in model.blocks:
        attention = block.attn
        tables.setdefault(str(attention.attn_type), set()).add(attention.rotary_sin.data_ptr())
        wanted = own(
            attention,
            model.cfg.rotary_dim,
            len(attention.rotary_sin),
            base=attention._rotary_base(),
            dtype=model.cfg.dtype,
        )
        assert torch.equal(attention.rotary_sin, wanted[0]) and torch.equal(attention.rotary_cos, wanted[1])
    assert all(len(held) == 1 for held in tables.values())
