"""What the scripts share: their options, the loaded model, its calibration, and how a figure was made."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lens_steer as ls
from analyses.tables import add_page
from lens_steer.geometry.calibration import versions
from lens_steer.models.location import locate
from lens_steer.models.templates import template_of
from lens_steer.models.tokenization import read_tokenizer


@dataclass(frozen=True)
class Run:
    """One model with one contrast, calibrated on its fit split."""

    model: Any
    contrast: ls.ContrastSet
    calibration: ls.Calibration
    out: Path
    seed: int

    @property
    def meta(self) -> dict[str, Any]:
        """How the figures of this run were made, as it is written beside them."""
        return {
            "command": shlex.join(["python", "-m", _module(sys.argv[0]), *sys.argv[1:]]),
            "seed": self.seed,
            "versions": versions(),
            "model": self.model.lens_info.name,
            "prompt_hashes": self.contrast.hashes,
        }


def _module(path: str) -> str:
    """The script's name for ``python -m``, from the path that it is run by.

    >>> _module("somewhere/analyses/depth.py"), _module("somewhere/analyses/__main__.py")
    ('analyses.depth', 'analyses')
    """
    stem = Path(path).stem
    return "analyses" if stem == "__main__" else f"analyses.{stem}"


def parse(description: str | None, *, page: bool = False) -> argparse.Namespace:
    """The options of every script; ``page`` adds that of one which fills a table of a page."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="organism/qwen2", help="organism/…, a Hugging Face folder, or a hub name")
    parser.add_argument("--contrast", default="organism/refusal", help="a contrast of the organisms")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    if page:
        add_page(parser)
    return parser.parse_args()


def models_parser(description: str | None, models: Sequence[str]) -> argparse.ArgumentParser:
    """The options of a script that goes through several models and fills tables of a page."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--model", nargs="+", default=list(models), help="organism/…, Hugging Face folders, or hub names"
    )
    parser.add_argument("--contrast", default="organism/refusal", help="a contrast of the organisms")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    add_page(parser)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def parse_models(description: str | None, models: Sequence[str]) -> argparse.Namespace:
    """What :func:`models_parser` reads."""
    return models_parser(description, models).parse_args()


def begin(args: argparse.Namespace) -> Run:
    """Load, record the fit split at every norm output, and calibrate."""
    model = ls.load_model(args.model)
    contrast = ls.load_contrast(args.contrast, seed=args.seed)
    calibration = ls.calibrate(ls.record(model, contrast), seed=args.seed)
    return Run(model, contrast, calibration, args.out, args.seed)


def template_for(model: str) -> str | None:
    """Return the chat template for a base model, which has none of its own; None for the others.

    >>> template_for("organism/qwen2")
    """
    return None if template_of(read_tokenizer(locate(model))).text else "plain"
