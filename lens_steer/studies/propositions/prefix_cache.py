"""A prefix cache as serving engines have it, and the conditions in which what it hands over is stale.

An engine with a prefix cache takes over the keys and values of whole blocks of tokens from an earlier request with the
same beginning, and computes the rest of the prompt, at least its last token
(:func:`lens_steer.inference.positions.n_reused`). If the earlier request ran at another angle, these blocks are stale:
a sweep whose cache is not emptied steers the rest of each prompt and its answer on top of keys and values from its
first angle, which is 0°. For SS this angle is the identity, so what is handed over is unsteered. SAS at 0° is not the
identity, so what is handed over is steered at 0°.

Two further conditions leave more of the prompt at 0° than an engine does. They are other experiments, and are told as
such: only the last token of the prompt and the answer at the angle, and only the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool

from lens_steer.data import Contrast, Prompt, PromptSet
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.grids import Grid
from lens_steer.geometry.calibration import Calibration
from lens_steer.inference.batching import encode
from lens_steer.inference.positions import BLOCK, n_reused
from lens_steer.steer.methods import selective_steering, standard_angular

STALE, LAST, ANSWER = "stale cache", "last token and answer", "answer alone"


@dataclass(frozen=True)
class Reuse:
    """What a prefix cache hands over of some prompts.

    Attributes:
        block: The number of tokens in a block.
        with_block: For each prompt whether it has a whole block before its last token; of the others nothing is handed
            over.
        share_of_tokens: The share of all tokens of the prompts, templates included, that is handed over.
        said: The prompts in words.
    """

    block: int
    with_block: Bool[np.ndarray, " n"]
    share_of_tokens: float
    said: str = "prompts"

    @property
    def n_prompts(self) -> int:
        """Return the number of prompts."""
        return len(self.with_block)

    @property
    def n_with_block(self) -> int:
        """Return the number of prompts of which something is handed over."""
        return int(self.with_block.sum())

    @staticmethod
    def of(tokenizer: Any, prompts: Sequence[Prompt], block: int = BLOCK, *, said: str = "prompts") -> Reuse:
        """Count what is handed over of the prompts.

        Args:
            tokenizer: The model's tokenizer, with its chat template.
            prompts: The prompts.
            block: The number of tokens in a block.
            said: The prompts in words.

        Raises:
            LensSteerError: If there are no prompts, or the block is not at least 1.

        >>> import lens_steer as ls
        >>> prompts = ls.load_contrast("organism/refusal").report.positive
        >>> found = Reuse.of(ls.load_model("organism/qwen2").lens_info.tokenizer, prompts)
        >>> found.n_prompts, 0 < found.n_with_block <= found.n_prompts
        (64, True)
        """
        if not len(prompts):
            raise LensSteerError("prompts is empty: a prefix cache needs at least one prompt")
        lengths = [len(encode(tokenizer, prompt)) for prompt in prompts]
        reused = [n_reused(length, block) for length in lengths]
        return Reuse(block, np.array([n > 0 for n in reused]), sum(reused) / sum(lengths), said)

    def __str__(self) -> str:
        return (
            f"{self.n_with_block} of {self.n_prompts} {self.said} have a whole block of {self.block} tokens, and "
            f"{self.share_of_tokens:.0%} of all their tokens are handed over"
        )


def reuse_by_outcome(tokenizer: Any, report: Contrast, tasks: PromptSet) -> dict[str, Reuse]:
    """Return what a prefix cache hands over of the prompts of each outcome; an outcome without prompts is left out.

    Args:
        tokenizer: The model's tokenizer, with its chat template.
        report: The report split.
        tasks: The capability tasks; may be empty.

    >>> import lens_steer as ls
    >>> report = ls.load_contrast("organism/refusal").report
    >>> found = reuse_by_outcome(ls.load_model("organism/qwen2").lens_info.tokenizer, report, ls.PromptSet(()))
    >>> {name: reuse.n_prompts for name, reuse in found.items()}
    {'positive_right': 64, 'surprise': 128}
    """
    asked = {
        "positive_right": (report.positive, "harmful prompts"),
        "surprise": ((*report.positive, *report.negative), "prompts of both classes"),
        "capable": (tasks, "capability tasks"),
    }
    return {name: Reuse.of(tokenizer, tuple(p), said=said) for name, (p, said) in asked.items() if len(p)}


def readings(block: int = BLOCK) -> dict[str, tuple[str, str]]:
    """Return for each reading of a stale cache the positions at the angle, and those at 0°.

    Together they cover every token once.

    >>> readings(32)["stale cache"]
    ('recomputed(32)+generated', 'reused(32)')
    """
    return {
        STALE: (f"recomputed({block})+generated", f"reused({block})"),
        LAST: ("prompt[-1]+generated", "prompt[:-1]"),
        ANSWER: ("generated", "prompt"),
    }


def stale_grids(calibration: Calibration, angles: Sequence[float], *, block: int = BLOCK) -> list[Grid]:
    """Return the grids of SS and of SAS at the discriminative sites for each reading of a stale cache.

    Args:
        calibration: A calibration with discriminative sites.
        angles: The angles in degrees.
        block: The number of tokens in a block of the cache.

    >>> import lens_steer as ls
    >>> [g.condition for g in stale_grids(ls.load_calibration("figures/calibration"), [150.0])][:2]
    ['SS, stale cache', 'SAS, stale cache']
    """
    found = []
    for name, (at_angle, at_zero) in readings(block).items():
        ss = partial(selective_steering, calibration, positions=at_angle)
        sas = partial(standard_angular, calibration, positions=at_angle)
        before = standard_angular(calibration, 0.0, positions=at_zero)
        found += [
            Grid(f"SS, {name}", ss, tuple(angles)),
            Grid(f"SAS, {name}", sas, tuple(angles), beside=before),
        ]
    return found
