# Read by the scripts of the tables: settings by environment variables, and what all have in common.
# SPECTRAL=none trains with another spectral pre-treatment than the default, and adds rows.
# A command that is given again trains only what is not finished, so each table can be made in several sittings.
set -euo pipefail
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-.venv/bin/python}
OUTPUT=${OUTPUT:-runs/tables/$TABLE}
QUICK="CNN MiM MiM-v1 MiM-v2 MiM-v3 Location SVM RF kNN LR SGD NN Hu Boulch Lee Li He Liu Hamida SSFTT S2Mamba"
SLOW="MambaHSI GAHT VMamba Mou Vim SSRN HybridSN SpectralFormer DBDA A2S2K morphFormer 3DSS-Mamba"  # more than five minutes a run on two cores
# Chen, Luo and Sharma take hours or gigabytes a run; they are left out.

train() {
    "$PYTHON" main.py --dataset IndianPines --cuda -1 --visdom off --output "$OUTPUT" \
        ${SPECTRAL:+--spectral "$SPECTRAL"} "$@"
}

# Train all on folds of a kind, on the same pixels; the models of the first line look at one pixel.
train_on_folds() {
    local folds="--sampling_mode $1 --training_sample 50 --buffer 7"
    train --model Location SVM RF kNN LR SGD NN Hu Boulch $folds --runs 15
    train --model CNN MiM --context gaussian --patch_size 7 $folds --runs 15
    train --model CNN MiM MiM-v1 MiM-v2 MiM-v3 Lee Li He Liu Hamida SSFTT S2Mamba --patch_size 7 $folds --runs 15
    train --model Mou MambaHSI $folds --runs 5
    train --model GAHT VMamba Vim SSRN SpectralFormer DBDA A2S2K morphFormer 3DSS-Mamba --patch_size 7 $folds --runs 5
}

collect() {
    "$PYTHON" -m benchmarks.science "$TABLE" "$OUTPUT"
}
