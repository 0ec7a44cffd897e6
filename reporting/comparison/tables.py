"""The tables of a comparison: the scores and costs of the methods, and the tests between them."""

import csv
import io
import re
from itertools import combinations

import numpy as np

from reporting.comparison.differences import LEVEL_WORDS, gaps_to_best
from reporting.comparison.methods import CERTAINTY, COSTS, COVERAGE, SCORES, Method
from reporting.comparison.render import HEAD, Column, Table, column_groups, page_width, render_table
from reporting.comparison.runs import Comparison
from reporting.comparison.significance import (
    FEW_DISCORDANT,
    LEVEL,
    holm,
    mcnemar_of_runs,
    pairs_needed,
    smallest_p,
    wilcoxon,
)
from reporting.results import as_cell, mean_and_deviation
from utils import InputError

MOST_PAIRS = 15  # of methods; of more pairs only the significant ones are listed
CERTAINTY_ROWS = {
    "calibration_error": "Calibration error (%)",
    "accuracy_at_coverage": f"OA, most certain {100 * COVERAGE:g} % (%)",
}
ROWS = {"overall_accuracy": "OA (%)", "average_accuracy": "AA (%)", "kappa": "kappa x 100"}


def render_comparisons(comparisons: list[Comparison], format: str, width: int = 120) -> str:
    """Render comparisons as tables.

    Args:
        comparisons: one per scene.
        format: text, csv, markdown or latex.
        width: of the terminal in characters, for text.
    Returns:
        Text to print, without a newline at its end.
    """
    if format == "csv":
        return to_csv(comparisons)
    tables = [table for comparison in comparisons for table in tables_of(comparison, page_width(format, width))]
    return "\n\n".join(render_table(table, format, width) for table in tables)


def tables_of(comparison: Comparison, width: int) -> list[Table]:
    """Make the table of the methods, an overview before it if its columns do not fit side by side, and the tests."""
    main = methods_table(comparison)
    tables = [overview(comparison)] if len(column_groups(main, width)) > 1 else []
    tables += [main, mcnemar_table(comparison), wilcoxon_table(comparison)]
    return [table for table in tables if table is not None]


def methods_table(comparison: Comparison) -> Table:
    """Make the table of classes, OA, AA, kappa and costs (rows) by methods (columns), as in this field's papers."""
    methods, names = comparison.methods, comparison.class_names
    divisor, unit = _flops_unit(methods)
    scores = [[method.recall(name) for method in methods] for name in names]
    scores += [[method.values(name) for method in methods] for name in SCORES]
    best = [_best(methods, row) for row in scores]
    gaps = gaps_to_best(methods)
    certainty = {name: [method.values(name) for method in methods] for name in CERTAINTY}
    certainty = {name: values for name, values in certainty.items() if not np.isnan(np.concatenate(values)).all()}
    middle = (*gaps.heads, *(CERTAINTY_ROWS[name] for name in certainty))
    costs = ("Parameters", f"FLOPs per patch ({unit})", "Training (s)", "Prediction (s)", "Runs")
    below = (*ROWS.values(), *middle, *costs)
    pixels = [comparison.pixels(name) for name in names]
    empty = ("",) * len(below)
    columns = [
        Column(("No.",), (*(str(i + 1) for i in range(len(names))), *empty)),
        Column(("Class",), (*names, *below), words=True),
        Column(("Train",), (*(n_train for n_train, _ in pixels), *empty)),
        Column(("Test",), (*(n_test for _, n_test in pixels), *empty)),
    ]
    for j, method in enumerate(methods):
        cells = [_per_cent(row[j]) for row in scores] + gaps.cells[j]
        cells += [_per_cent(values[j]) for values in certainty.values()]
        cells += [*_costs(method, divisor), str(len(method.runs))]
        rows = frozenset(i for i, those in enumerate(best) if j in those)
        columns.append(Column(tuple(method.label.split(", ")), tuple(cells), best=rows, marks=_marks({HEAD: method})))
    title = f"Classification of {_subject(comparison)}: recall of each class, {_scores_in_words(comparison)}"
    rules = (len(names), len(names) + len(SCORES), len(names) + len(SCORES) + len(middle))
    notes = (*comparison.notes, *gaps.notes)
    return Table(
        title, _label(comparison), tuple(columns), 4, tuple(dict.fromkeys(rules)), _best_of("row", methods), notes
    )


def overview(comparison: Comparison) -> Table:
    """Make the table with methods as rows and number of runs, OA, AA, kappa and costs as columns."""
    methods = comparison.methods
    divisor, unit = _flops_unit(methods)
    columns = [
        Column(
            ("Method",),
            tuple(method.label for method in methods),
            words=True,
            marks=_marks(dict(enumerate(methods))),
        ),
        Column(("Runs",), tuple(str(len(method.runs)) for method in methods)),
    ]
    for name, head in ROWS.items():
        values = [method.values(name) for method in methods]
        columns.append(Column((head,), tuple(map(_per_cent, values)), best=_best(methods, values)))
    gaps = gaps_to_best(methods)
    if gaps.heads:
        heads = (("OA minus", "best (%)"), (LEVEL_WORDS, "interval"))
        columns += [Column(head, cells) for head, cells in zip(heads, zip(*gaps.cells, strict=True), strict=True)]
    heads = (("Param-", "eters"), ("FLOPs per", f"patch ({unit})"), ("Training", "(s)"), ("Prediction", "(s)"))
    costs = zip(*(_costs(method, divisor) for method in methods), strict=True)
    columns += [Column(head, cells) for head, cells in zip(heads, costs, strict=True)]
    title = f"Overview of {_subject(comparison)}: {_scores_in_words(comparison)}"
    return Table(title, _label(comparison, "overview"), tuple(columns), best_of=_best_of("column", methods))


def mcnemar_table(comparison: Comparison) -> Table | None:
    """Make the table of McNemar's test between two runs, or two methods seed by seed; None for other numbers."""
    methods, runs = comparison.methods, comparison.runs
    if len(runs) != 2 and len(methods) != 2:
        return None
    if len(methods) == 1 and len({pixels for _, pixels in methods[0].by_seed}) > 1:
        return None  # two seeds of a method on drawn splits
    pairs = [(runs[0], runs[1])]
    if len(runs) > 2:
        first, second = (method.by_seed for method in methods)
        mixed = methods[0].mark != methods[-1].mark  # the training pixels may differ although the test pixels agree
        pairs = [(a, b) for i, a in first.items() for j, b in second.items() if i == j or (mixed and i[0] == j[0])]
    rows, notes = [], [] if pairs else ["McNemar's test is left out: the methods have no seed in common"]
    for pair in pairs:
        try:
            test = mcnemar_of_runs(*pair)
        except InputError as error:
            notes.append(f"McNemar's test is left out: {error}")
            continue
        seeds = dict.fromkeys(str(run.protocol["seed"]) for run in pair)
        statistic = "exact" if test.statistic is None else f"{test.statistic:.2f}"
        rows.append(("/".join(seeds), f"{test.only_first:,}", f"{test.only_second:,}", statistic, _p(test.p)))
    names = (
        [method.name for method in methods] if len(methods) == 2 else [f"seed {run.protocol['seed']}" for run in runs]
    )
    title = (
        f"McNemar's test on the test pixels of {comparison.scene}: A is {names[0]}, B is {names[1]}; chi-square with "
        f"continuity correction, exact binomial below {FEW_DISCORDANT} discordant pixels. It compares two trained "
        "networks, not two methods"
    )
    heads = (("Seed",), ("right in", "A alone"), ("right in", "B alone"), ("chi-square",), ("p",))
    return _test_table(comparison, title, "McNemar", heads, rows, notes)


def wilcoxon_table(comparison: Comparison) -> Table | None:
    """Make the table of Wilcoxon's test on OA between all methods, over their common seeds; None for one method."""
    tests = []
    pairs = list(combinations(comparison.methods, 2))
    for first, second in pairs:
        common = [key for key in first.by_seed if key in second.by_seed]
        if len(common) > 1:
            a, b = (Method("", tuple(each.by_seed[key] for key in common)) for each in (first, second))
            differences = a.values("overall_accuracy") - b.values("overall_accuracy")
            tests.append((f"{first.name} - {second.name}", len(common), differences[~np.isnan(differences)]))
    results = [wilcoxon(differences) for *_, differences in tests]
    adjusted = holm([result.p for result in results])
    notes = []
    if len(tests) < len(pairs):
        few = f"{len(pairs) - len(tests)} of {len(pairs)} pairs of methods have" if tests else "no two methods have"
        notes.append(f"Wilcoxon's test needs several seeds: {few} {'fewer than ' if tests else ''}two in common")
    most = max((n for _, n, _ in tests), default=0)
    least_p = min(1.0, len(tests) * smallest_p(most))
    listed = range(len(tests))
    if tests and least_p > LEVEL:
        holms = f", {_p(least_p)} after Holm's correction" if len(tests) > 1 else ""
        notes.append(
            f"with {most} seeds nothing can be significant: the smallest p is 2/{2**most} = {_p(smallest_p(most))}"
            f"{holms}; a p of {LEVEL} or less needs {pairs_needed(len(tests))} seeds or more"
        )
    if len(tests) > MOST_PAIRS:
        listed = [i for i in listed if adjusted[i] <= LEVEL]
        if least_p <= LEVEL:
            notes.append(
                f"of {len(tests)} pairs of methods the {len(listed)} with p of {LEVEL} or less after Holm are listed"
            )
    rows = [
        (
            name,
            str(n),
            f"{100 * differences.mean():+.2f}",
            f"{results[i].statistic:g}",
            _p(results[i].p),
            _p(adjusted[i]),
        )
        for i, (name, n, differences) in enumerate(tests)
        if i in listed
    ]
    title = (
        f"Wilcoxon's signed-rank test on the overall accuracy of {comparison.scene}: runs paired by seed, two-sided, "
        f"exact; Holm's correction over {len(tests)} {'pair' if len(tests) == 1 else 'pairs'} of methods"
    )
    heads = (("Methods",), ("Seeds",), ("difference", "in OA (%)"), ("W",), ("p",), ("p after", "Holm"))
    return _test_table(comparison, title, "Wilcoxon", heads, rows, notes)


def _test_table(comparison: Comparison, title: str, label: str, heads, rows, notes) -> Table | None:
    if not rows:
        return Table("", "", (), notes=tuple(notes)) if notes else None
    cells = zip(*rows, strict=True)
    columns = [Column(head, each, words=i == 0) for i, (head, each) in enumerate(zip(heads, cells, strict=True))]
    return Table(title, _label(comparison, label), tuple(columns), notes=tuple(notes))


def to_csv(comparisons: list[Comparison]) -> str:
    """Write a line per score or cost of a method, over its runs; scores are fractions, as in metrics.json.

    The columns n_train and n_test hold the pixels of the class, or of all; the mean if the runs differ. The figure
    overall_accuracy_minus_best has its interval in low and high.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = "scene method protocol seeds n_runs figure class class_name n_train n_test mean std low high"
    writer.writerow(columns.split())
    for comparison in comparisons:
        classes = comparison.class_names
        gaps = gaps_to_best(comparison.methods).differences
        for i, method in enumerate(comparison.methods):
            entries = (*map(as_cell, (comparison.scene, method.label, method.mark, method.seeds)), len(method.runs))
            values_of = [("recall", k + 1, name, method.recall(name)) for k, name in enumerate(classes)]
            values_of += [(name, "", "", method.values(name)) for name in (*SCORES, *CERTAINTY, *COSTS)]
            for key, number, name, values in values_of:
                numbers = (*(mean_and_deviation(n)[0] for n in method.pixels(name)), *mean_and_deviation(values))
                writer.writerow([*entries, key, number, as_cell(name), *_texts(*numbers), "", ""])
            if gap := gaps.get(i):
                numbers = (*(mean_and_deviation(n)[0] for n in method.pixels()), gap.mean, np.nan, gap.low, gap.high)
                writer.writerow([*entries, "overall_accuracy_minus_best", "", "", *_texts(*numbers)])
    return text.getvalue().rstrip("\n")


def _texts(*numbers: float) -> list[str]:
    return ["" if np.isnan(each) else f"{each:.15g}" for each in numbers]


def _subject(comparison: Comparison) -> str:
    n_train, n_test = comparison.pixels()
    return (
        f"{comparison.scene} ({comparison.split or 'different splits'}; {n_train} training and "
        f"{n_test} test pixels; patch size {', '.join(map(str, _patch_sizes(comparison)))})"
    )


def _scores_in_words(comparison: Comparison) -> str:
    text = "overall accuracy (OA), average accuracy (AA) and kappa, in per cent"
    n_runs = sorted({len(method.runs) for method in comparison.methods})
    if n_runs == [1]:
        return f"{text}, of one run"
    several = " to ".join(map(str, dict.fromkeys((n_runs[0], n_runs[-1]))))
    return f"{text}, mean +- standard deviation (n-1) over {several} runs"


def _label(comparison: Comparison, *more: str) -> str:
    """Scene, split, patch sizes and number of runs, for example tab:IndianPines-fixed-masks-p7-n3."""
    n_runs = "-".join(str(n) for n in sorted({len(method.runs) for method in comparison.methods}))
    words = f"{comparison.scene} {comparison.split} p{'-'.join(map(str, _patch_sizes(comparison)))} n{n_runs}"
    return "tab:" + "-".join([*re.findall(r"[A-Za-z0-9]+", words), *more])


def _patch_sizes(comparison: Comparison) -> list[int]:
    return sorted({run.protocol["model"]["patch_size"] for run in comparison.runs})


def _marks(methods: dict[int, Method]) -> dict[int, str]:
    return {row: method.mark for row, method in methods.items() if method.mark}


def _flops_unit(methods: tuple[Method, ...]) -> tuple[float, str]:
    most = max(np.nan_to_num(method.values("flops_per_patch")).max() for method in methods)  # NaN without weights
    return (1e9, "G") if most >= 1e10 else (1e6, "M")


def _costs(method: Method, divisor: float) -> list[str]:
    """The cells of COSTS."""
    values = [method.values(name) for name in COSTS]
    means = ((values[0].mean(), ",.0f"), (values[1].mean() / divisor, ",.2f"))
    fixed = ("-" if np.isnan(mean) else f"{mean:{digits}}" for mean, digits in means)
    return [*fixed, *(_spread(seconds, ",.1f") for seconds in values[2:])]


def _per_cent(values: np.ndarray) -> str:
    return _spread(100 * values, ".2f")


def _spread(values: np.ndarray, digits: str) -> str:
    """Mean and standard deviation; of one run only the value."""
    mean, deviation = mean_and_deviation(values)
    if np.isnan(mean):
        return "-"
    return f"{mean:{digits}}" if np.isnan(deviation) else f"{mean:{digits}} +- {deviation:{digits}}"


def _best(methods: tuple[Method, ...], row: list[np.ndarray]) -> frozenset[int]:
    """The methods with the highest mean, rounded as shown, among the methods of their protocol, if it has others."""
    means = np.array([round(100 * mean_and_deviation(values)[0], 2) for values in row])
    best = set()
    for mark in {method.mark for method in methods}:
        peers = [j for j, method in enumerate(methods) if method.mark == mark and not np.isnan(means[j])]
        if len({means[j] for j in peers}) > 1:  # if all are equal, none is the best
            best |= {j for j in peers if means[j] == means[peers].max()}
    return frozenset(best)


def _best_of(line: str, methods: tuple[Method, ...]) -> str:
    return f"{line} within a protocol" if methods[0].mark else line


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"
