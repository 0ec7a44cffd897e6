#!/usr/bin/env bash
# Table (d): all methods on whole fields, at most 50 training pixels a class; the same pixels for all.
# Results go to benchmarks/results/science/fields_ours.json and docs/results.md.
TABLE=fields_ours
source "$(dirname "$0")/common.sh"

train_on_folds fields
collect
