"""Count of the work that the study needs, made before the model runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lens_steer.data import Contrast, ContrastSet, PromptSet
from lens_steer.evaluation.work import Work, answering, bare, forcing_values, recording
from lens_steer.models.loading import info_of


def transferring_angles(
    model: Any, sources: Mapping[str, ContrastSet], n_values: int, draws: int, max_new_tokens: int
) -> Work:
    """Count the work of :func:`lens_steer.studies.angle_transfer.study.angle_transfer`.

    The count is an upper bound: every block is taken for steered, and each pair of sources for having two angles.

    Args:
        model, sources, draws, max_new_tokens: The arguments of the study.
        n_values: The number of angles.

    >>> import lens_steer as ls
    >>> model, of = (
    ...     ls.load_model("organism/qwen2"),
    ...     ls.load_contrast("organism/refusal").first(fit=4, select=2, report=2),
    ... )
    >>> work = transferring_angles(model, {"a": of, "b": of}, 2, 1, 4)
    >>> work.answers, work.forwards > 0
    (4, True)
    """
    n_sites, total = 2 * info_of(model).n_layers, Work()

    def different(sides: list[PromptSet]) -> list[PromptSet]:
        return list({side.hash: side for side in sides}.values())

    recorded = different([side for of in sources.values() for side in (of.fit.positive, of.fit.negative)])
    for side in recorded:
        total += recording(model, Contrast(side, PromptSet(())), n_sites)
    for of in sources.values():
        total += forcing_values(model, bare(of.report.negative), max_new_tokens, 1)
        total += forcing_values(model, bare(of.report.positive), 0, 1) * draws
        for other in sources.values():
            total += forcing_values(model, bare(other.select.positive), 0, n_values)
            total += forcing_values(model, bare(other.report.positive), 0, 2)
    for side in different([of.select.negative for of in sources.values()]):
        total += forcing_values(model, bare(side), max_new_tokens, n_values) * len(sources)
        total += answering(model, bare(side), max_new_tokens)
    for side in different([of.report.negative for of in sources.values()]):
        total += answering(model, bare(side), max_new_tokens)
    return total
