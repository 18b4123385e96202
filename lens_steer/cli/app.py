"""The entry point of the command line, which parses the options, calls the library and prints the result.

Errors that a user can make end with exit code 2 and one line on the error stream.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_steer._defaults import ENGINE
from lens_steer._io.shards import ShardDone
from lens_steer.cli import agreement as cli_agreement
from lens_steer.cli import calibrating as cli_calibrating
from lens_steer.cli import comparing as cli_comparing
from lens_steer.cli import conversation as cli_conversation
from lens_steer.cli import direction as cli_direction
from lens_steer.cli import divergence as cli_divergence
from lens_steer.cli import export as cli_export
from lens_steer.cli import externalities as cli_externalities
from lens_steer.cli import formats as cli_formats
from lens_steer.cli import importing as cli_import
from lens_steer.cli import joining as cli_joining
from lens_steer.cli import probes as cli_probes
from lens_steer.cli import resources as cli_resources
from lens_steer.cli import site_choice as cli_site_choice
from lens_steer.cli import steering as cli_steering
from lens_steer.cli import structure as cli_structure
from lens_steer.cli import sweeping as cli_sweeping
from lens_steer.cli import tokens as cli_tokens
from lens_steer.cli import transfer as cli_transfer
from lens_steer.cli import verifying as cli_verifying
from lens_steer.cli.common import command, emit
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.generations import metrics
from lens_steer.cli.groups import grouped
from lens_steer.cli.interrupts import ending_cleanly, exit_code, seldom_told
from lens_steer.cli.joining import tell_done
from lens_steer.cli.loading import Load
from lens_steer.cli.options import METHOD_HELP, Controls, Engine, MaxNewTokens, Model, Out, Rule, ShowAnswers, Sites
from lens_steer.cli.prompting import Prompts, asked_of
from lens_steer.cli.quiet import quiet
from lens_steer.cli.serving import Serving
from lens_steer.cli.wording import as_options
from lens_steer.errors import LensSteerError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Mechanistic study of activation steering."
)
import_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Published calibrations into the project's format."
)
figures_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Work on saved figures.")
app.add_typer(import_app, name="import")
app.add_typer(figures_app, name="figures")
app.add_typer(cli_export.app, name="export")
app.command(epilog=METHOD_HELP)(cli_steering.steer)
for further_command in (
    *cli_calibrating.COMMANDS,
    *cli_direction.COMMANDS,
    metrics,
    *cli_sweeping.COMMANDS,
    *cli_comparing.COMMANDS,
    *cli_joining.COMMANDS,
    *cli_probes.COMMANDS,
    *cli_divergence.COMMANDS,
    *cli_externalities.COMMANDS,
    *cli_site_choice.COMMANDS,
    *cli_agreement.COMMANDS,
    *cli_transfer.COMMANDS,
    *cli_formats.COMMANDS,
    *cli_conversation.COMMANDS,
    *cli_resources.COMMANDS,
    *cli_tokens.COMMANDS,
    *cli_structure.COMMANDS,
):
    app.command()(further_command)
for import_name, import_command in cli_import.COMMANDS.items():
    import_app.command(import_name)(import_command)

INTERRUPTED = 130  # the exit code that typer returns after Ctrl-C


def _version(asked: bool) -> bool:
    if asked:
        from importlib.metadata import version

        typer.echo(f"lens-steer {version('lens-steer')}")
        raise typer.Exit
    return asked


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Mechanistic study of activation steering."""


@app.command()
@grouped
def report(
    prompts: Prompts,
    load: Load,
    dry: DryRun,
    serving: Serving,
    out: Out,
    model: Model = "organism/qwen2",
    sites: Sites = "norm_out",
    rule: Rule = "paper",
    engine: Engine = ENGINE,
    max_new_tokens: MaxNewTokens = 48,
    controls: Controls = 10,
    show_answers: ShowAnswers = False,
) -> None:
    """Everything: calibrate, draw, steer at twelve angles on held-out prompts, and write figures, numbers and
    report.md.
    """
    from lens_steer._io.atomic import check_writable
    from lens_steer.evaluation.protocol import check_splits
    from lens_steer.geometry.discriminative import check_rule
    from lens_steer.reports.report import check_kept, make_report
    from lens_steer.reports.report_work import reporting

    chosen = prompts.read()
    check_rule(rule)
    serving.check(engine)
    check_writable(out)
    check_splits(chosen)
    told = load.check(model, *asked_of(chosen, max_new_tokens), site_spec=sites)
    how: dict[str, Any] = {
        "sites": sites,
        "rule": rule,
        "seed": prompts.seed,
        "draws": controls,
        "max_new_tokens": max_new_tokens,
        "engine": engine,
    }
    check_kept(told, chosen, out, **how)
    loaded = load(model)
    work = reporting(loaded, chosen, max_new_tokens, draws=controls, engine=engine)
    dry.tell(loaded, work, chosen.select.positive, engine=engine, max_new_tokens=max_new_tokens)
    serving.start(loaded, engine)
    made = make_report(
        loaded,
        chosen,
        out,
        command=command(),
        show_answers=show_answers,
        **how,
    )
    emit(
        {
            "report": str(out / "report.md"),
            "best_angle": made.numbers["best_angle"],
            "selected_site": made.calibration.selected_site,
            "discriminative_blocks": list(made.calibration.discriminative_blocks),
        }
    )


@app.command()
def geometry(out: Out, calibration: Annotated[Path, typer.Option(help="Folder of a calibration.")]) -> None:
    """Figures and geometry.json of a calibration; works without the model."""
    from lens_steer._io.atomic import whole_folder
    from lens_steer.figures import geometry as drawn
    from lens_steer.figures import saving
    from lens_steer.geometry.calibration import versions
    from lens_steer.geometry.files import load_calibration
    from lens_steer.geometry.summary import summarise

    loaded = load_calibration(calibration)
    with whole_folder(out) as work:
        summary = summarise(loaded)
        meta = {
            "command": command(),
            "seed": loaded.seed,
            "versions": versions(),
            "model": loaded.model,
            "prompt_hash": loaded.prompt_hash,
            "chat_template": loaded.template and loaded.template.row(),
        }
        drawings = drawn.drawings(summary)
        for name, drawing in drawings.items():
            saving.save(drawing, name, work, meta)
        (work / "geometry.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    note = "no class means in this calibration: projections and norms across depth are left out"
    told = None if summary["classes"] else note
    emit({"geometry": str(out / "geometry.json"), "figures": list(drawings), "note": told})


app.command()(cli_verifying.verify)


@figures_app.command("redraw")
def figures_redraw(folder: Annotated[Path, typer.Argument(help="Folder of saved figures.")]) -> None:
    """Draw every figure of a folder again from its saved numbers alone."""
    from lens_steer.figures import saving

    emit({"redrawn": saving.redraw(folder)})


def main() -> None:
    """Run the command line ``lens-steer``."""
    quiet()
    seldom_told()
    with ending_cleanly() as signals:
        _run(signals)


def _run(signals: list[int]) -> None:
    """Run the command and exit with its exit code."""
    try:
        code = typer.main.get_command(app).main(standalone_mode=False)
    except LensSteerError as error:
        code = _fail(as_options(str(error)))
    except ShardDone as stopped:
        tell_done(stopped)
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        # click's usage errors have format_message and carry a message for the user; any other exception is a defect
        # and keeps its traceback
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # the message is the help text: its line breaks must stay
            typer.echo(error.format_message(), err=True)  # type: ignore[attr-defined]
            sys.exit(2)
        code = _fail(error.format_message())  # type: ignore[attr-defined]
    if code == INTERRUPTED:
        code = _fail("interrupted: nothing was half-written", exit_code(signals))
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int = 2) -> int:
    typer.echo("lens-steer: " + " ".join(message.split()), err=True)
    return code
