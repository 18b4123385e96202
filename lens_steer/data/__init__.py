"""Prompt sets, contrast sets and their splits, and the readers of prompt files.

A source of prompts is a file (``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.txt``, ``.parquet``), a folder written by
``datasets.save_to_disk`` (``FOLDER``, or ``FOLDER@SPLIT`` for another split than ``train``), or
``hf:NAME[:CONFIG][@SPLIT]`` for a Hugging Face data set.

A row is a text, or it holds a text in a column. The column is the named one; if none is named, it is the first column
among ``prompt``, ``instruction``, ``goal``, ``behavior``, ``forbidden_prompt``, ``question``, ``query`` and ``text``
that exists, in upper or lower case. The columns ``system``, ``messages``, ``response`` and ``scenario`` are optional.
So are ``cell`` and ``cluster``, which hold names: rates are also given by ``cell`` (such as a category of harm), and
prompts of one ``cluster`` are alike, so that they count as fewer than as many independent ones
(:func:`lens_steer.stats.rates.clustered_rate`). Without the column ``cluster`` the prompts of a ``scenario`` are one.
Rows with a non-empty ``input`` (as in Alpaca) and rows with a blank prompt are left out and counted. A ``.json`` file
is a list, or an object with exactly one list. A ``.csv`` file is separated by commas, semicolons or tabs; its first
line decides which. A ``.txt`` file has one prompt per line.
"""

from __future__ import annotations

from lens_steer.data.checks import FEW, fitted_overlap, held_out_overlap
from lens_steer.data.contrast import Contrast, ContrastSet, Split
from lens_steer.data.contrast_loading import ORGANISM_PREFIX, load_contrast, read_contrast
from lens_steer.data.loading import KNOWN, Source, load_prompts, read_prompt_set
from lens_steer.data.prompts import ROLES, Message, Prompt, PromptSet, Reading, with_system

__all__ = [
    "FEW",
    "KNOWN",
    "ORGANISM_PREFIX",
    "ROLES",
    "Contrast",
    "ContrastSet",
    "Message",
    "Prompt",
    "PromptSet",
    "Reading",
    "Source",
    "Split",
    "fitted_overlap",
    "held_out_overlap",
    "load_contrast",
    "load_prompts",
    "read_contrast",
    "read_prompt_set",
    "with_system",
]
