#!/usr/bin/env bash
# On a machine with an NVIDIA GPU, without Ray and MLflow: GPU tests, benchmarks, then further training
# of the released model's successor, for so many minutes.
#
#   scripts/gpu_run.sh --output results --store released.zarr --minutes 4
#   scripts/gpu_run.sh --output results --store released.zarr --minutes 9 --only-train
#   scripts/gpu_run.sh --output results --wheels wheels     # of scripts/gpu_wheels, where no index is
#   scripts/gpu_run.sh --output results --benchmarks "train complete" --rounds 3
#
# Needs Python with torch, NumPy, SciPy, scikit-image, typer, rich, safetensors and pytest, and the
# packages that scripts/gpu_wheels lists. The store is that of stem_complete.experiments.release.store,
# 30 MB; without one nothing is trained. Leaves in the output folder, some 30 MB:
#
#   machine.txt  tests.txt  benchmarks.md  and the JSON of each benchmark
#   training.txt  any-scan/    # the run and its model
#
# Another slice with the same output folder resumes it; `python -m
# stem_complete.experiments.release.training --keep results` keeps its model for the next slice.
set -euo pipefail
cd "$(dirname "$0")/.."
output=results wheels="" rounds=5 store="" minutes=5 only_train=""
benchmarks="train complete scan alrc loader checkpoint"
while [ $# -gt 0 ]; do
  case "$1" in
    --only-train) only_train=1; shift; continue ;;
    --output) output="$2" ;;
    --wheels) wheels="$2" ;;
    --benchmarks) benchmarks="$2" ;;
    --rounds) rounds="$2" ;;
    --store) store="$2" ;;
    --minutes) minutes="$2" ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
  esac
  shift 2
done
python="${PYTHON:-python3}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -n "$wheels" ]; then
  site="$(mktemp -d)"
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
    --target "$site" "$wheels"/*.whl
  export PYTHONPATH="$PYTHONPATH:$site"
fi
mkdir -p "$output"

"$python" - <<'CHECK' || exit 1
import sys, torch
if not torch.cuda.is_available():
    sys.exit(f"expected a CUDA device, found none by torch {torch.__version__}; run it where one is")
CHECK
{ nvidia-smi || true; "$python" -c "import torch; print('torch', torch.__version__)"; } \
  >"$output/machine.txt" 2>&1

# A test that fails must not cost the benchmarks, nor these the training; the exit code tells of it.
failed=0
if [ -z "$only_train" ]; then
  mapfile -t tests < <(grep -rl --include='*.py' 'pytest.mark.gpu' tests)
  "$python" -m pytest -m gpu -p no:cacheprovider -o timeout=600 -rA "${tests[@]}" 2>&1 \
    | tee "$output/tests.txt" || failed=1

  # One by one, so that what is measured is kept whatever comes next.
  for name in $benchmarks; do
    "$python" -m tests.benchmarks "$name" --gpu --rounds "$rounds" \
      --output "$output/$name.json" | tee -a "$output/benchmarks.md" || failed=1
  done
fi

if [ -n "$store" ]; then
  "$python" -m stem_complete.experiments.release.training --store "$store" --minutes "$minutes" \
    --output "$output" scaling.use_gpu=true training.keep_checkpoints=1 \
    2>&1 | tee "$output/training.txt" || failed=1
fi
exit "$failed"
