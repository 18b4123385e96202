"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_steer.steer.method_table import DEFAULT, DEFAULT_OF_A_PROBE, METHODS, boundary_methods, direction_methods

Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="organism/qwen2, organism/llama, organism/gemma2, a Hugging Face folder, a .gguf file, or a hub name.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
Sites = Annotated[
    str,
    typer.Option(
        "--sites",
        help="norm_out, norm_in, resid, one kind (resid_post, ln1, …; router_logits to record), or names separated by "
        "commas.",
    ),
]
Rule = Annotated[
    str,
    typer.Option(
        "--rule",
        help=(
            "Discriminative sites: paper (raw means, by site), official (unit samples, whole blocks), centred (about "
            "the classes' midpoint), effect (Cohen's d), auroc."
        ),
    ),
]
Rules = Annotated[
    str | None,
    typer.Option(
        "--rules",
        help=(
            "Also steer at other rules' sites, each a condition: paper,centred,effect,auroc. Bounds are chosen on "
            "select."
        ),
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="I/N: compute every N-th part from the I-th on, and stop; then 'lens-steer join' the shards' folders.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn.")]
MaxNewTokens = Annotated[int, typer.Option(help="Length of every answer at most.")]
MaxThoughtTokens = Annotated[
    int | None,
    typer.Option(
        help="Length of the thoughts of every answer at most, within --max-new-tokens: a longer one is closed with the "
        "model's own mark (reasoning models)."
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, … (default: the first accelerator, else the CPU).")
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help=(
            "hf (the Hugging Face twin), tl (TransformerLens: the same, slower) or, where answers are generated, vllm "
            "(needs lens-steer[vllm])."
        ),
    ),
]
Positive = Annotated[
    str | None,
    typer.Option(
        "--positive",
        help=(
            "Prompts with the feature: a file (.jsonl .json .csv .tsv .txt .parquet), a saved data set "
            "FOLDER[@SPLIT], or hf:NAME[:CONFIG][@SPLIT]."
        ),
    ),
]
Negative = Annotated[str | None, typer.Option("--negative", help="Prompts without it.")]
Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        help="Column of the prompts (default: prompt, instruction, goal, behavior, … in any case; which is told).",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help=(
            "Column of the prompts; given twice, of the positive and of the negative files (default: prompt, "
            "instruction, goal, behavior, … in any case; which is told)."
        ),
    ),
]
Limit = Annotated[
    str | None,
    typer.Option(
        "--limit", help="At most N prompts of a file, drawn with the seed before the split; N,first: the first N."
    ),
]
ContrastLimit = Annotated[
    str | None,
    typer.Option(
        "--limit",
        help=(
            "At most N prompts of a file, drawn with the seed before the split; N,first: the first N; N/N/N: of the "
            "files of fit, select and report."
        ),
    ),
]
Probe = Annotated[
    Path | None,
    typer.Option(
        "--probe", help=f"Folder of one site's probe, in place of a calibration (for {', '.join(boundary_methods())})."
    ),
]
JudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help=(
            "Of the answers, in place of ground truth or phrases: world, refusal_12, …, or a .json file (see "
            "lens_steer.metrics.judges.spec)."
        ),
    ),
]
ShowAnswers = Annotated[
    bool,
    typer.Option("--show-answers", help="Show answers to positive prompts, too, where no ground truth grades them."),
]
Method = Annotated[
    str | None,
    typer.Option("--method", help=f"One of the methods listed below ({DEFAULT}; with a probe, {DEFAULT_OF_A_PROBE})."),
]
CalibrationFolder = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        help=(
            "Folder of a calibration made on this model; to steer or export by "
            f"{' or '.join(direction_methods())}, also of a selected direction ('lens-steer direction')."
        ),
    ),
]
METHOD_HELP = "Methods (--method):\n\n" + "\n\n".join(f"{m.name}: {m.help}" for m in METHODS.values())
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Shares of fit, select and report, such as 0.5,0.25,0.25; 0,0.5,0.5 where a calibration is given.",
    ),
]
Controls = Annotated[
    int,
    typer.Option(
        "--controls",
        help="Draws of each control (random planes or directions, random sites, shuffled labels); 0: none.",
    ),
]
