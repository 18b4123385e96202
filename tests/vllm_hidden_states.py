"""vLLM's connector that writes hidden states to files, on a machine without an accelerator.

vLLM's own copies through CUDA streams, which a CPU build lacks. This one takes the same values from the same cache and
writes the same files at once. It runs inside vLLM's worker, which imports it by its name.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from vllm.distributed.kv_transfer.kv_connector.v1 import (  # pyright: ignore[reportMissingImports]
    example_hidden_states_connector as example,
)


class CpuHiddenStates(example.ExampleHiddenStatesConnector):
    def _submit_async_write(self, pending: Any) -> None:
        blocks = torch.tensor(pending.block_ids)[:, None] * self._block_size
        slots = (blocks + torch.arange(self._block_size)).flatten()
        hidden = example.extract_from_kv_cache(self._kv_cache, slots, len(pending.token_ids))
        save_file(
            {"hidden_states": hidden.contiguous().clone(), "token_ids": pending.token_ids.clone()}, pending.filename
        )
        lock = self._lock_fds.pop(pending.req_id, None)
        if lock is not None:
            os.close(lock)
        self._req_copy_events[pending.req_id] = SimpleNamespace(query=lambda: True)
