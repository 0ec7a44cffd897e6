"""How far each method is behind the best, with intervals by a block bootstrap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metrics import LEVEL, block_bootstrap, block_counts, interval
from reporting.comparison.methods import SCORES, Method
from reporting.comparison.significance import common_test_pixels
from reporting.results import mean_and_deviation
from reporting.run_folder import Run
from utils import InputError

LEVEL_WORDS = f"{100 * LEVEL:g} %"


@dataclass(frozen=True)
class Difference:
    """The difference between two methods in one of SCORES, fractions.

    Attributes:
        mean: over the pairs of runs.
        low, high: ends of its confidence interval, NaN if there are too few blocks.
    """

    mean: float
    low: float
    high: float


def differences_of_methods(first: Method, second: Method) -> dict[str, Difference]:
    """Estimate first minus second in each of SCORES, with the interval of a paired block bootstrap.

    Runs are paired by seed and pixels; the mean over the pairs is taken in every draw, and both methods share the
    blocks of a draw. If the runs have blocks of different sizes, the larger ones are drawn.

    Raises:
        InputError: no pair of runs, or maps that are missing, damaged, of an earlier version, or do not fit together.
    """
    pairs = [(first.by_seed[key], second.by_seed[key]) for key in first.by_seed if key in second.by_seed]
    if not pairs:
        raise InputError(f"{first.name} and {second.name} have no seed in common")
    maps = [(*pair, common_test_pixels(*pair), _larger_blocks(*pair)) for pair in pairs]
    n_blocks = 1 + max(int(blocks.max()) for *_, blocks in maps)
    counts = [[_counts(pair[side], test, blocks, n_blocks) for *pair, test, blocks in maps] for side in (0, 1)]
    stacked = np.array(counts)  # (2, n_pairs, n_blocks, 3, K)
    drawn = block_bootstrap(stacked)
    n_drawn = int(stacked.any((0, 1, 3, 4)).sum())
    found = {}
    for name in SCORES:
        values = [np.array([run.metrics[name] for run in runs], dtype=float) for runs in zip(*pairs, strict=True)]
        of_draws = drawn[name][:, 0] - drawn[name][:, 1]
        defined = ~np.isnan(of_draws)
        means = np.where(defined, of_draws, 0).sum(1) / np.where(defined.any(1), defined.sum(1), np.nan)
        found[name] = Difference(float(np.nanmean(values[0] - values[1])), *interval(means, n_drawn))
    return found


def _counts(run: Run, test: np.ndarray, blocks: np.ndarray, n_blocks: int) -> np.ndarray:
    tested = test > 0
    target, prediction = (labels[tested].astype(np.int64) - 1 for labels in (test, run.prediction))
    return block_counts(target, prediction, blocks[tested], n_blocks, len(run.class_names))


def _larger_blocks(first: Run, second: Run) -> np.ndarray:
    """Give the blocks of the run with fewer of them; InputError if one lacks them."""
    blocks = []
    for run in (first, second):
        if "blocks" not in run.maps:
            raise InputError(f"{run.folder} was written by an earlier version, without the blocks of its intervals")
        blocks.append(run.maps["blocks"])
    return min(blocks, key=lambda each: len(np.unique(each)))


@dataclass(frozen=True)
class Gaps:
    """What a table says of the differences to the best method.

    Attributes:
        heads: of two rows or columns, OA minus that of the best method and its interval; none for a single method.
        cells: of each method, as many as there are heads.
        differences: in OA, by the number of the method; those that could be computed.
        notes: below the table, one sentence each.
    """

    heads: tuple[str, ...]
    cells: list[list[str]]
    differences: dict[int, Difference]
    notes: tuple[str, ...]


def gaps_to_best(methods: Sequence[Method]) -> Gaps:
    """Compare each method with the one of its protocol that has the highest mean OA."""
    if len(methods) == 1:
        return Gaps((), [[]], {}, ())
    means = [mean_and_deviation(method.values("overall_accuracy"))[0] for method in methods]
    cells, differences, missing, of = [], {}, [], set()
    for i, method in enumerate(methods):
        peers = [j for j, each in enumerate(methods) if each.mark == method.mark and not np.isnan(means[j])]
        best = methods[max(peers, key=lambda j: means[j])] if peers else method
        if best is method:
            cells.append(["best" if len(peers) > 1 else "-", "-"])
            continue
        try:
            gap = differences[i] = differences_of_methods(method, best)["overall_accuracy"]
        except InputError as error:
            missing.append(str(error))
            cells.append(["-", "-"])
            continue
        of |= {str(run.metrics.get("intervals", {}).get("of", "blocks")) for run in (*method.runs, *best.runs)}
        ends = "-" if np.isnan(gap.low) else f"[{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]"
        cells.append([f"{100 * gap.mean:+.2f}", ends])
    notes = []
    if of:
        notes.append(
            f"the {LEVEL_WORDS} interval of a difference to the best method is that of a paired bootstrap over "
            f"{' or '.join(sorted(of))} of the scene: if it holds 0, the difference could be chance. It does not "
            "contain the chance of other training runs or other scenes"
        )
    if missing:
        notes.append(f"a difference to the best method is left out: {missing[0]}")
    return Gaps(("OA minus best (%)", f"{LEVEL_WORDS} interval"), cells, differences, tuple(notes))
