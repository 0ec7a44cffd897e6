#!/usr/bin/env bash
# Table (d): all methods on whole fields, at most 50 training pixels a class; the same pixels for all.
# Results go to benchmarks/results/science/fields_ours.json and docs/results.md.
TABLE=fields_ours
source "$(dirname "$0")/common.sh"

ONE="Location SVM RF kNN LR SGD NN Hu Boulch"  # these look at one pixel
train --model $ONE --sampling_mode fields --training_sample 50 --buffer 7 --runs 15
train --model CNN MiM-v1 MiM-v2 MiM-v3 Lee Li He Liu Hamida SSFTT GAHT VMamba S2Mamba --patch_size 7 --sampling_mode fields --training_sample 50 --buffer 7 --runs 15
train --model Mou --sampling_mode fields --training_sample 50 --buffer 7 --runs 5
train --model Vim SSRN SpectralFormer DBDA A2S2K morphFormer 3DSS-Mamba --patch_size 7 --sampling_mode fields --training_sample 50 --buffer 7 --runs 5
collect
