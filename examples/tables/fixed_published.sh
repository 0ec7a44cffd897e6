#!/usr/bin/env bash
# Table (b): all methods on the fixed masks of Indian Pines, each with the recipe of its authors.
# Results go to benchmarks/results/science/fixed_published.json and docs/results.md.
TABLE=fixed_published
source "$(dirname "$0")/common.sh"

train --model $QUICK --recipe published --runs 3
train --model $SLOW --recipe published --runs 1
collect
