"""The proof of a model's layout, as it is kept on the model and with what is recorded on it."""

from __future__ import annotations

from math import isfinite
from typing import Any

from lens_steer.models.loading import hf_twin, info_of
from lens_steer.models.proof import ProofRow, prove

NOT_FINITE = 1e9


def proof_of(model: Any) -> tuple[ProofRow, ...]:
    """Return the checks of a model's layout: those that were made when it was loaded, or earlier, or else made now.

    An architecture that is known by name is not proved when it is loaded. Making the checks takes about thirty short
    forwards of the Hugging Face model; they are kept on the model.

    Raises:
        LensSteerError: If a check cannot be made, see :func:`lens_steer.models.proof.prove`.

    >>> import lens_steer as ls
    >>> all(row.holds for row in proof_of(ls.load_model("organism/llama")))
    True
    """
    kept = vars(model)
    if "lens_proof" not in kept:
        kept["lens_proof"] = prove(hf_twin(model), info_of(model).layout)
    return kept["lens_proof"]


def errors_of(model: Any) -> dict[str, float]:
    """Return the error of each check that was made on a model, by its name; empty if none was made.

    An error that is not finite is :data:`NOT_FINITE`, which files can hold.

    >>> import lens_steer as ls
    >>> errors_of(ls.load_model("organism/gemma2"))
    {}
    """
    return {row.check: row.error if isfinite(row.error) else NOT_FINITE for row in vars(model).get("lens_proof", ())}
