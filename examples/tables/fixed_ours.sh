#!/usr/bin/env bash
# Table (a): all methods on the fixed masks of Indian Pines, with the same recipe.
# Results go to benchmarks/results/science/fixed_ours.json and docs/results.md.
TABLE=fixed_ours
source "$(dirname "$0")/common.sh"

train --model CNN MiM --runs 10
train --model CNN MiM --context gaussian --runs 10
train --model $QUICK --runs 3
train --model $SLOW --runs 1
collect
