"""The layout of a decoder: which modules write and read its residual stream, as a value that is saved with artifacts.

:mod:`lens_steer.models.structure` finds it on a model. Files that hold no layout name one of the six architectures of
:data:`KNOWN`, whose layouts are written here; a test finds the same ones on models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lens_steer.errors import LensSteerError

# Of each branch the kinds of the norm before it, of what it adds to the stream, and of the norm after it.
BRANCHES = (("ln1", "attn_out", "ln1_post"), ("ln2", "mlp_out", "ln2_post"))
ROUTER_LOGITS = "router_logits"  # the kind that is no vector of the stream
NORM_KINDS = ("ln1", "ln1_post", "ln2", "ln2_post")


@dataclass(frozen=True)
class Router:
    """What chooses the experts of a mixture.

    Attributes:
        module: The Hugging Face module that gives the logits of the experts, by its path in the block.
        output: Which of its outputs they are.
        experts: The number of experts.
    """

    module: str
    output: int
    experts: int


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block.

    Attributes:
        modules: The Hugging Face module, by its path in the block, whose output is the tensor of each kind: ``ln1``
            (the norm before attention), ``attn_out`` (what attention adds to the stream), ``ln1_post`` (the norm after
            attention, whose output is ``attn_out``), and the same for the MLP: ``ln2``, ``mlp_out``, ``ln2_post``. A
            kind that the block does not have is missing. A norm that feeds both branches is ``ln1``.
        formulas: What each norm computes, see :func:`lens_steer.models.norms.norm_formula`.
        middle: The module whose first input is the stream after attention; empty if there is none, as in a parallel
            block.
        parallel: True if attention and the MLP read the same stream.
        attends: False if what mixes positions is no attention: a state space, a linear attention, a convolution.
        scaled: The kinds whose tensor is multiplied by a number before it is added to the stream.
        others: Further modules that add to the stream.
        rescaled: True if the whole stream is multiplied by a number at the end of the block.
        flat: The kinds whose tensor is ``[batch · pos, d_model]`` inside of the block.
        router: The router of a mixture of experts; None for a block without one, or with one that no module gives.
    """

    modules: tuple[tuple[str, str], ...]
    formulas: tuple[tuple[str, str], ...]
    middle: str = ""
    parallel: bool = False
    attends: bool = True
    scaled: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    rescaled: bool = False
    flat: tuple[str, ...] = ()
    router: Router | None = None

    @property
    def path(self) -> dict[str, str]:
        return dict(self.modules)

    @property
    def formula(self) -> dict[str, str]:
        return dict(self.formulas)

    @property
    def norms(self) -> tuple[str, ...]:
        """The kinds of its norms."""
        return tuple(kind for kind, _ in self.formulas)

    def norm_before(self, out: str) -> str:
        """Return the kind of the norm whose output the branch of ``attn_out`` or ``mlp_out`` reads; empty without one.

        >>> known_layout("llama", 1).blocks[0].norm_before("mlp_out")
        'ln2'
        """
        own = next(before for before, kind, _ in BRANCHES if kind == out)
        shared = "ln1" if self.parallel else ""
        return next((kind for kind in (own, shared) if kind in self.norms), "")

    @property
    def sums(self) -> bool:
        """True if its output is its input plus ``attn_out`` plus ``mlp_out``."""
        return not (self.scaled or self.others or self.rescaled)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a decoder writes and reads its residual stream.

    Attributes:
        layers: The path of the list of blocks.
        blocks: Each block. In a hybrid they differ.
        embedding, final_norm, unembedding: The paths of these modules; empty for an unembedding that is no module.
        final_formula: What the final norm computes.
    """

    layers: str
    blocks: tuple[Block, ...]
    embedding: str
    final_norm: str
    final_formula: str
    unembedding: str

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of each block."""
        return tuple(f"{self.layers}.{index}" for index in range(len(self.blocks)))

    @property
    def norms(self) -> tuple[str, ...]:
        """The kinds of norms that a block has, in network order."""
        return tuple(kind for kind in NORM_KINDS if any(kind in block.norms for block in self.blocks))

    def alike(self) -> list[tuple[Block, tuple[int, ...]]]:
        """Return the different blocks, each with the indices at which it stands.

        >>> known_layout("llama", 3).alike()[0][1]
        (0, 1, 2)
        """
        where: dict[Block, list[int]] = {}
        for index, block in enumerate(self.blocks):
            where.setdefault(block, []).append(index)
        return [(block, tuple(indices)) for block, indices in where.items()]

    def to_json(self) -> dict[str, Any]:
        """Return the layout as plain data; equal blocks stand once, with their indices.

        >>> layout = known_layout("gemma2", 2)
        >>> Layout.from_json(layout.to_json()) == layout
        True
        """
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "blocks"}
        return told | {
            "blocks": [
                {"at": list(at)} | asdict(block) | {"modules": block.path, "formulas": block.formula}
                for block, at in self.alike()
            ]
        }

    @staticmethod
    def from_json(told: Mapping[str, Any]) -> Layout:
        """Return the layout of plain data.

        Raises:
            LensSteerError: If something is missing, or of another form.
        """
        try:
            blocks: dict[int, Block] = {}
            for entry in told["blocks"]:
                parts: dict[str, Any] = {
                    k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k != "at"
                }
                parts |= {name: tuple(parts[name].items()) for name in ("modules", "formulas")}
                parts["router"] = Router(**parts["router"]) if parts.get("router") else None
                blocks |= dict.fromkeys(entry["at"], Block(**parts))
            ordered = tuple(blocks[index] for index in range(len(blocks)))
            return Layout(**{k: v for k, v in told.items() if k != "blocks"}, blocks=ordered)
        except (KeyError, TypeError, AttributeError) as error:
            raise LensSteerError(f"layout is not of the form that was saved ({error}): make the file again") from None


class WithLayout:
    """Something that belongs to a model: its description, or an artifact that was made on it.

    Attributes:
        own_layout: The layout, if it was found on the model; None for the architectures of :data:`KNOWN`.
    """

    architecture: str
    n_layers: int
    own_layout: Layout | None

    @property
    def known_by_name(self) -> bool:
        """True if the architecture is known by name; caches of other architectures can have forms of their own."""
        return self.own_layout is None

    @property
    def layout(self) -> Layout:
        """The layout of the model.

        Raises:
            LensSteerError: If the layout was not found on the model, and its architecture is not known by name.
        """
        return self.own_layout or known_layout(self.architecture, self.n_layers)


def layout_row(source: Any) -> dict[str, Any]:
    """Return what is saved of a layout with an artifact: nothing if its architecture is known by name.

    >>> from lens_steer.models.fits import ModelRef
    >>> layout_row(ModelRef(model="organism/qwen2", architecture="qwen2", n_layers=12))
    {}
    """
    return {} if source.own_layout is None else {"layout": source.own_layout.to_json()}


def read_layout_row(facts: Mapping[str, Any]) -> Layout | None:
    """Return the layout that was saved with an artifact; None if there is none.

    >>> read_layout_row({})
    """
    return Layout.from_json(facts["layout"]) if facts.get("layout") else None


_TWO = {
    "ln1": "input_layernorm",
    "attn_out": "self_attn",
    "ln2": "post_attention_layernorm",
    "mlp_out": "mlp",
}
_FOUR = {
    "ln1": "input_layernorm",
    "attn_out": "post_attention_layernorm",
    "ln1_post": "post_attention_layernorm",
    "ln2": "pre_feedforward_layernorm",
    "mlp_out": "post_feedforward_layernorm",
    "ln2_post": "post_feedforward_layernorm",
}
# The modules of each kind, and what a norm computes.
KNOWN: dict[str, tuple[dict[str, str], str]] = {
    **dict.fromkeys(("qwen2", "qwen3", "llama", "mistral"), (_TWO, "RMSNorm")),
    **dict.fromkeys(("gemma2", "gemma3_text"), (_FOUR, "RMSNorm (1 + w)")),
}


def known_layout(architecture: str | None, n_layers: int) -> Layout:
    """Return the layout of an architecture that is known by name.

    Args:
        architecture: The model type of Hugging Face, one of :data:`KNOWN`.
        n_layers: The number of blocks.

    Raises:
        LensSteerError: If it is another one.

    >>> known_layout("qwen2", 24).norms
    ('ln1', 'ln2')
    """
    if architecture not in KNOWN:
        raise LensSteerError(
            f"architecture {architecture!r} is not known by name ({', '.join(KNOWN)}): its layout is found on the "
            "model, and kept in files that were made on it"
        )
    modules, formula = KNOWN[architecture]
    block = Block(
        modules=tuple(modules.items()),
        formulas=tuple((kind, formula) for kind in modules if kind in NORM_KINDS),
        middle=modules["ln2"],
    )
    return Layout(
        layers="model.layers",
        blocks=(block,) * n_layers,
        embedding="model.embed_tokens",
        final_norm="model.norm",
        final_formula=formula,
        unembedding="lm_head",
    )
