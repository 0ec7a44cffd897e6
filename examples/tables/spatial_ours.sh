#!/usr/bin/env bash
# Table (c): all methods on five spatial folds, at most 50 training pixels a class; the same pixels for all.
# Results go to benchmarks/results/science/spatial_ours.json and docs/results.md.
TABLE=spatial_ours
source "$(dirname "$0")/common.sh"

train_on_folds spatial

collect
