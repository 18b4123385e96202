"""The translation of the library's messages, which name arguments, into messages that name command-line options."""

from __future__ import annotations

import re

from lens_steer.steer.method_table import METHODS

SWEPT = tuple(dict.fromkeys(m.swept.name for m in METHODS.values() if m.swept))
# arguments that have the same name as their option
SAME = (
    *SWEPT, "adapter", "angles", "bound", "budget", "candidate_norm", "chat_template",
    "column", "component", "constraint", "counts", "device", "device_map", "dialogues",
    "direction", "dtype", "engine", "judge", "keep", "limit", "max_depth", "max_kl", "max_new_tokens",
    "max_thought_tokens", "method", "min_induce", "n_devices", "n_fit", "n_random", "n_select", "negative", "objective",
    "openings", "pooling", "positions", "positive", "probes", "quantization", "report_negative", "report_positive",
    "revision", "rule", "rules", "shard", "seed", "select_negative", "select_positive", "sites", "split",
    "standardize", "system", "template_args", "template_date", "trait", "turns",
)  # fmt: skip
OPTIONS = {name: f"--{name.replace('_', '-')}" for name in SAME} | {"C": "--C", "draws": "--controls"}
# names with an underscore are no English words, so they mean the argument also where no value follows
UNMISTAKABLE = tuple(name for name in SAME if "_" in name)
# Four patterns find arguments in a message: a name with "=" and perhaps a value, where a tuple counts as one value; an
# unmistakable name alone; a name in brackets or after "needs"; and the two sides of a contrast, which are common words
# and count only in the few phrases that name the arguments.
_VALUED = re.compile(rf"(?<![\w.])({'|'.join(OPTIONS)})=(?!=)(\([^)]*\)|(?=\S))?")
_NAMED = re.compile(rf"(?<![\w.'\"/=])({'|'.join(UNMISTAKABLE)})(?![\w.='\"/(])")
_BRACKETED = re.compile(rf"\(({'|'.join(OPTIONS)})\)|(?<=\bneeds )({'|'.join(SWEPT)})(?=: give it)")
_SIDES = re.compile(
    r"^(positive|negative)(?= is missing| holds no prompts)|(?<=\bgive )(positive) and (negative)(?= too\b)"
)


def as_options(message: str) -> str:
    """Replace the arguments that a message names by the command line's options.

    A name is replaced where a value follows it, and where it can mean nothing but the argument.

    >>> as_options("no select prompts: give a split, such as split=(0.5, 0.25, 0.25)")
    'no select prompts: give a split, such as --split 0.5,0.25,0.25'
    >>> as_options("template_date='tomorrow' is no date: template_args and the split stay")
    "--template-date 'tomorrow' is no date: --template-args and the split stay"
    """
    message = _VALUED.sub(_with_value, message)
    message = _NAMED.sub(lambda found: OPTIONS[found[1]], message)
    message = _BRACKETED.sub(lambda found: f"({OPTIONS[found[1]]})" if found[1] else OPTIONS[found[2]], message)
    return _SIDES.sub(lambda found: f"--{found[1]}" if found[1] else f"--{found[2]} and --{found[3]}", message)


def _with_value(found: re.Match[str]) -> str:
    """Return the option that replaces ``name=``; a tuple after it becomes numbers with commas."""
    option, value = OPTIONS[found[1]], found[2]
    return option if value is None else f"{option} {re.sub('[() ]', '', value)}"
