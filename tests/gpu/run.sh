#!/usr/bin/env bash
# Checks and timings on a GPU in under ten minutes, from the tree alone: half precision against float32 on both engines, norm claims,
# several devices, recording and generation against plain Hugging Face at one billion parameters, a bank of adapters in vLLM.
#   tests/gpu/run.sh            an environment with everything in it (PYTHON=…, default: python3)
#   WHEELS=DIR tests/gpu/run.sh installs what is missing from a folder of wheels, without a network
# OUT names the folder of the table (gpu.md) and its numbers (gpu.json); build/gpu by default.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3} OUT=${OUT:-build/gpu}
export HF_HUB_OFFLINE=1 MPLBACKEND=Agg TOKENIZERS_PARALLELISM=false
if [ -n "${WHEELS:-}" ]; then
  "$PYTHON" -m venv --system-site-packages build/gpu-venv
  PYTHON=build/gpu-venv/bin/python
  "$PYTHON" -m pip install --quiet --no-index --find-links "$WHEELS" --editable '.[export]'
fi
"$PYTHON" -m tests.gpu --out "$OUT" "$@"
