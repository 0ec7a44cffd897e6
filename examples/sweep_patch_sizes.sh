#!/usr/bin/env bash
# Train all three models at several patch sizes on the simulated scene; runs/results.csv gets a row for each run.
# Settings by environment variables, for example: EPOCHS=5 PATCH_SIZES="3 5" OUTPUT=/tmp/sweep examples/sweep_patch_sizes.sh
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
MODELS=${MODELS:-"MiM-v1 MiM-v2 MiM-v3"}
PATCH_SIZES=${PATCH_SIZES:-"3 5 7 9 11"}
EPOCHS=${EPOCHS:-10}
OUTPUT=${OUTPUT:-runs}

for model in $MODELS; do
    for patch_size in $PATCH_SIZES; do
        "$PYTHON" main.py --dataset Simulated --model "$model" --patch_size "$patch_size" --epoch "$EPOCHS" \
            --output "$OUTPUT" "$@"
    done
done
echo "done; the rows are in $OUTPUT/results.csv"
