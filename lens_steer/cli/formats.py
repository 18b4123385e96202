"""The command that asks whether a direction depends on the chat template or the system prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from lens_steer._defaults import ENGINE
from lens_steer.cli.common import command, emit, tell
from lens_steer.cli.dryrun import DryRun
from lens_steer.cli.groups import grouped
from lens_steer.cli.loading import Load
from lens_steer.cli.options import Engine, Model, Out
from lens_steer.cli.prompting import Prompts
from lens_steer.errors import LensSteerError

if TYPE_CHECKING:
    from lens_steer.studies.formats.wording import Format


@grouped
def formats(
    prompts: Prompts,
    load: Load,
    dry: DryRun,
    out: Out,
    model: Model = "organism/qwen2",
    system: Annotated[
        list[str] | None, typer.Option("--system", help="NAME=TEXT, a system prompt (several times); it may be empty.")
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            "--template", help="NAME=TEMPLATE, a chat template (several times): plain, a Jinja template, or a file."
        ),
    ] = None,
    draws: Annotated[int, typer.Option("--draws", help="Times that the prompts are dealt into halves.")] = 100,
    engine: Engine = ENGINE,
) -> None:
    """Does a direction depend on the chat template or the system prompt? The same prompts are calibrated in each
    format, beside calibrations from other prompts; nothing is steered. An interrupted run goes on.
    """
    from lens_steer._io.atomic import check_writable
    from lens_steer.cli.precheck import precheck
    from lens_steer.evaluation.work import Work, recording
    from lens_steer.inference.engines import check_engine
    from lens_steer.models.sites import resolve
    from lens_steer.studies.formats.report import formats_and_write
    from lens_steer.studies.formats.study import check
    from lens_steer.studies.formats.wording import OWN, Format, same_ids

    check_engine(engine, answers=False)
    check_writable(out)
    if draws < 1:
        raise LensSteerError(f"--draws {draws}: give at least 1")
    others = _formats(system or [], template or [])
    contrast = prompts.read(split=None).fit
    check(contrast, others, draws)
    described = load.check(model)
    info, work = described.lens_info, Work()
    n_sites = len(resolve("norm_out", info.layout))
    for of in (Format(OWN), *others):
        written = of.prompts(contrast)
        if same_ids(info.tokenizer, contrast, of) == 1 and of.name != OWN:
            tell(f"format {of.name!r}: every prompt has the token ids of the model's own format")
        with of.applied(info.tokenizer):
            precheck(described, [(written.positive, 0), (written.negative, 0)])
            work += recording(described, written, n_sites)
    loaded = load(model)
    dry.tell(loaded, work, contrast.positive, engine=engine, max_new_tokens=1)
    _, decided = formats_and_write(
        loaded, contrast, others, out, command=command(), seed=prompts.seed, draws=draws, engine=engine
    )
    emit({"formats": str(out / "formats.md"), "verdicts": {c.id: c.verdict for c in decided}})


def _formats(system: list[str], template: list[str]) -> list[Format]:
    """Parse the values of ``--system`` and ``--template``.

    >>> [(f.name, f.system, f.template) for f in _formats(["none=", "brief=Be brief."], [])]
    [('none', '', None), ('brief', 'Be brief.', None)]

    Raises:
        LensSteerError: If there is none, if one has no name, or if a template is no template and no file.
    """
    from lens_steer.models.tokenization import template_text
    from lens_steer.studies.formats.wording import Format

    found: list[Format] = []
    for option, given in (("--system", system), ("--template", template)):
        for spec in given:
            name, mark, text = spec.partition("=")
            if not name or not mark:
                raise LensSteerError(f"{option} {spec}: give NAME={'TEXT' if option == '--system' else 'TEMPLATE'}")
            if option == "--system":
                found.append(Format(name, system=text))
                continue
            found.append(Format(name, template=template_text(text, f"{option} {name}")))
    if not found:
        raise LensSteerError("no format beside the model's own: give --system NAME=TEXT or --template NAME=TEMPLATE")
    return found


COMMANDS: tuple[Callable[..., None], ...] = (formats,)
