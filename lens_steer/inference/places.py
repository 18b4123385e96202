"""Where the tokens of a batch are: padding, prompts and answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from lens_steer.inference.batching import Batch


@dataclass(frozen=True)
class Places:
    """The places of the tokens of a left-padded batch.

    Attributes:
        rows: The rows of the batch in the whole list of prompts.
        begins: The column of the first token of each row.
        ends: The column after the prompt of each row.
        width: The number of columns with which the batch began.
        ids: The token ids of these columns.
        offset: The offsets of these columns, if a row holds several turns; see
            :class:`lens_steer.inference.batching.Batch`. None: one prompt and one answer per row.
        call: The same object for all batches of one call.
    """

    rows: Int[Tensor, " batch"]
    begins: Int[Tensor, " batch"]
    ends: Int[Tensor, " batch"]
    width: int
    ids: Int[Tensor, "batch pos"]
    offset: Int[Tensor, "batch pos"] | None = None
    call: object = field(default_factory=object)

    @staticmethod
    def of(batch: Batch) -> Places:
        """Return the layout of a batch; its fixed responses, if any, stand at the right end."""
        mask = batch.mask
        width = mask.shape[1]
        responses = torch.tensor(batch.response_lengths, device=mask.device)
        rows, call = torch.tensor(batch.rows, device=mask.device), object() if batch.call is None else batch.call
        return Places(rows, width - mask.sum(dim=1), width - responses, width, batch.ids, batch.offset, call)

    def counts(self, begin: int, end: int) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        """Return two counts of each of the columns ``begin … end``, row by row.

        The first is the position counted from the first token of the row; it is negative for padding. The second is the
        offset from the start of the answer: 0, 1, … for the tokens of the answer and −1, −2, … for the tokens before
        it, counted backwards.
        """
        column = torch.arange(begin, end, device=self.begins.device)[None]
        offset = column - self.ends[:, None]
        if self.offset is not None and begin < self.width:
            known = self.offset[:, begin : min(end, self.width)]
            offset = torch.cat([known, offset[:, known.shape[1] :]], dim=1)
        return column - self.begins[:, None], offset
