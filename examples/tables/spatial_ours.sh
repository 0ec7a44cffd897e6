#!/usr/bin/env bash
# Table (c): all methods on five spatial folds, at most 50 training pixels a class; the same pixels for all.
# Results go to benchmarks/results/science/spatial_ours.json and docs/results.md.
TABLE=spatial_ours
source "$(dirname "$0")/common.sh"

train_on_folds spatial

# The same with the spectral pre-treatment, and with the context of the class probabilities.
folds="--sampling_mode spatial --training_sample 50 --buffer 7 --runs 15"
train --model SVM LR RF kNN --spectral snv $folds
pooled="--model MiM-v1 --stem full --scan whole --tokens pooled --scan_types 1"
for method in "--model CNN" "$pooled"; do
    train $method --spectral snv --patch_size 7 $folds
    train $method --spectral snv --context gaussian --patch_size 7 $folds
done
collect
