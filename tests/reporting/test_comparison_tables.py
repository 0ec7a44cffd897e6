"""The tables of --compare in every format: figures, best, marks, widths, names that need care; and the command line."""

import csv
import io
import re
import shutil
import statistics
import subprocess
import sys

import numpy as np
import pytest
from made_runs import change, make_run

import main
from reporting.comparison.render import Column, Table, column_groups, render_table
from reporting.comparison.runs import compare
from reporting.comparison.tables import methods_table, overview, render_comparisons
from reporting.run_folder import Run

PINES = (
    "Corn-notill",
    "Corn-mintill",
    "Corn",
    "Grass-pasture",
    "Grass-trees",
    "Hay-windrowed",
    "Soybean-notill",
    "Soybean-mintill",
    "Soybean-clean",
    "Wheat",
    "Woods",
    "Buildings-Grass-Trees-Drives",
    "Stone-Steel-Towers",
    "Alfalfa",
    "Grass-pasture-mowed",
    "Oats",
)
ODD = ("Roads & roofs", "grass_50%", "#3 {a} ~x^2", "\\path|bar", "<b>*bold*</b> $5 [x]")
MODELS = ("CNN", "MiM-v1", "MiM-v2")


def three_methods(folder, n_seeds=3, **options):
    for place, model in enumerate(MODELS):
        for seed in range(n_seeds):
            make_run(folder, model, seed, accuracy=0.8 + 0.05 * place, **options)
    return folder


def set_figures(run, oa, recalls, **others):
    change(run, overall_accuracy=oa, class_recall=recalls, **others)
    return run


def lines_of(text):
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def row(text, name):
    return next(cells for cells in lines_of(text) if name in cells[:2])


# Figures


def test_a_cell_is_mean_and_sample_deviation_in_per_cent_and_of_one_run_the_figure(tmp_path):
    recalls = ([0.9, 0.5, None], [0.8, 0.7, None], [0.6, None, None])
    for seed, each in enumerate(recalls):
        set_figures(make_run(tmp_path, seed=seed), 0.5 + seed / 10, each, kappa=0.1)
    set_figures(make_run(tmp_path, "MiM-v1"), 0.123456, [0.25, 0.5, None])
    text = render_comparisons(compare([tmp_path]), "text", 120)
    mean, deviation = statistics.mean([90, 80, 60]), statistics.stdev([90, 80, 60])
    assert row(text, "Corn")[-2:] == [f"{mean:.2f} +- {deviation:.2f}*", "25.00"]
    assert row(text, "Woods")[-2:] == [f"60.00 +- {statistics.stdev([50, 70]):.2f}*", "50.00"]
    assert row(text, "Water")[-2:] == ["-", "-"]
    assert row(text, "OA (%)")[-2:] == ["60.00 +- 10.00*", "12.35"]
    assert row(text, "Training (s)")[-2:] == ["11.0 +- 1.0", "10.0"]
    assert row(text, "FLOPs per patch (M)")[-2:] == ["7.00", "7.00"]
    assert row(text, "Runs")[-2:] == ["3", "1"]
    assert row(text, "Parameters")[-2:] == ["3,007", "6,007"]
    assert row(text, "Corn")[:4] == ["1", "Corn", "7", "127"]


def test_the_best_are_those_with_the_highest_mean_as_it_is_shown_costs_are_not_ranked(tmp_path):
    for model, oa, recalls in zip(
        MODELS, (0.90001, 0.90004, 0.89), ([1, 0.5, 0.7], [1, 0.4, None], [1, 0.3, 0.8]), strict=True
    ):
        set_figures(make_run(tmp_path, model), oa, recalls)
    columns = methods_table(compare([tmp_path])[0]).columns[4:]
    assert [sorted(row for row in column.best if row != 4 and row != 5) for column in columns] == [
        [1, 3],  # of the first class all recalls are equal, so that none is the best
        [3],
        [2],
    ]
    assert all(max(column.best) < 6 for column in columns)
    across = overview(compare([tmp_path])[0]).columns
    assert across[2].head == ("OA (%)",)
    assert across[2].best == {0, 1}
    assert not across[1].best
    assert not across[5].best


def test_a_single_method_has_no_best_and_the_caption_says_nothing_of_it(tmp_path):
    make_run(tmp_path)
    for format in ("text", "markdown", "latex"):
        shown = render_comparisons(compare([tmp_path]), format)
        assert "best" not in shown
        assert "*" not in shown.replace("table*", "")
        assert "textbf" not in shown


def test_the_best_are_sought_within_a_protocol(tmp_path):
    make_run(tmp_path, "CNN", accuracy=0.99)
    make_run(tmp_path, "CNN", accuracy=0.6, protocol={"weights": "best"})
    make_run(tmp_path, "MiM-v1", accuracy=0.8, protocol={"weights": "best"})
    columns = methods_table(compare([tmp_path], mixed_protocols=True)[0]).columns[4:]
    assert not columns[0].best
    assert 3 in columns[2].best
    assert 3 not in columns[1].best


def test_pixels_that_vary_are_a_range(tmp_path):
    for seed, n_train in enumerate((620, 688)):
        change(make_run(tmp_path, seed=seed), n_train=n_train, class_train=[7 + seed, 5, 5])
    text = render_comparisons(compare([tmp_path]), "text")
    assert "620-688 training and 380 test pixels" in text
    assert row(text, "Corn")[2] == "7-8"
    assert r"7--8" in render_comparisons(compare([tmp_path]), "latex")


# Text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_every_method_is_there(tmp_path, width):
    three_methods(tmp_path, 2, names=PINES)
    text = render_comparisons(compare([tmp_path]), "text", width)
    if width >= 50:
        assert max(map(len, text.splitlines())) <= width
    assert ("Overview" in text) == (width < 100)
    assert all(model in text for model in MODELS)
    assert text.count("Wheat") >= 1
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_columns_stand_under_their_heads(tmp_path):
    three_methods(tmp_path, names=PINES)
    lines = render_comparisons(compare([tmp_path]), "text", 120).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("No."))
    rows = [line for line in lines[head + 2 : head + 22] if "+-" in line]
    assert len(rows) == 16 + 3
    for place, model in enumerate(MODELS):
        end = lines[head].rindex(model) + len(model)
        for line in rows:
            assert re.fullmatch(r"\d+\.\d\d \+- +\d+\.\d\d", line[end - 15 : end].strip(" *")), (place, line)
            assert line[end - 3] == "." or line[end - 4] == "."
    assert len({line.rstrip("* ").rindex(".") for line in rows}) == 1


def test_columns_are_dealt_out_evenly_and_the_fixed_ones_repeated():
    fixed = Column(("Class",), ("a",), words=True)
    others = [Column((f"{i}",), ("1234567890",)) for i in range(7)]
    dealt = column_groups(Table("", "", (fixed, *others)), 5 + 12 * 4)
    assert [[column.head[0] for column in part] for part in dealt] == [["Class", *"0123"], ["Class", *"456"]]
    dealt = column_groups(Table("", "", (fixed, *others)), 5 + 12 * 6)
    assert [len(part) for part in dealt] == [5, 4]
    assert [len(part) for part in column_groups(Table("", "", (fixed, *others)), 3)] == [2] * 7


def test_a_sweep_begins_with_an_overview_of_all_methods(tmp_path):
    for model in ("CNN", "MiM-v1"):
        for patch in (3, 5, 7, 9, 11):
            for seed in range(2):
                make_run(tmp_path, model, seed, patch=patch, maps=False)
    text = render_comparisons(compare([tmp_path]), "text", 100)
    cells = lines_of(text)
    first = next(i for i, line in enumerate(cells) if line[:2] == ["CNN, patch 3", "2"])
    assert [line[0] for line in cells[first : first + 10]] == [
        f"{model}, patch {patch}" for model in ("CNN", "MiM-v1") for patch in (3, 5, 7, 9, 11)
    ]


# Markdown and LaTeX


def test_markdown_has_the_same_cells_in_every_row_and_the_best_in_bold(tmp_path):
    three_methods(tmp_path)
    blocks = render_comparisons(compare([tmp_path]), "markdown").split("\n\n")
    table = [line.strip("|").split(" | ") for line in blocks[1].splitlines()]
    assert {len(line) for line in table} == {7}
    assert table[1][1].strip() == "---"
    assert table[1][2].strip() == "---:"
    assert [cell.strip() for cell in table[0]] == ["No.", "Class", "Train", "Test", *MODELS]
    oa = next(line for line in table if "OA (%)" in line[1])
    assert re.fullmatch(r"\*\*\d\d\.\d\d ± \d\.\d\d\*\*", oa[-1].strip())
    assert "*" not in oa[-2]


def test_marks_of_protocols_stand_at_the_methods_in_every_format(tmp_path):
    make_run(tmp_path, "CNN")
    make_run(tmp_path, "MiM-v1", protocol={"weights": "best"})
    found = compare([tmp_path], mixed_protocols=True)
    text, markdown, latex = (render_comparisons(found, format) for format in ("text", "markdown", "latex"))
    assert "CNN (a)" in text
    assert "MiM-v1 (b)" in text
    assert "- (b) weights: best; 20 training" in text
    assert "| CNN<sup>a</sup> | MiM-v1<sup>b</sup> |" in markdown
    assert "- (a) weights: last; " in markdown
    assert r"CNN\textsuperscript{a} & MiM-v1\textsuperscript{b}" in latex
    assert r"\textsuperscript{b} weights: best" in latex
    rows = list(csv.DictReader(io.StringIO(render_comparisons(found, "csv"))))
    assert {(row["method"], row["protocol"]) for row in rows} == {("CNN", "a"), ("MiM-v1", "b")}


def test_names_are_escaped(tmp_path):
    make_run(tmp_path, names=ODD, scene="My_scene")
    make_run(tmp_path, "MiM-v1", names=ODD, scene="My_scene")
    latex, markdown = (render_comparisons(compare([tmp_path]), format) for format in ("latex", "markdown"))
    assert r"Roads \& roofs &" in latex
    assert r"grass\_50\% &" in latex
    assert r"Classification of My\_scene" in latex
    assert r"\#3 \{a\} \textasciitilde{}x\textasciicircum{}2" in latex
    assert r"\textbackslash{}path\textbar{}bar" in latex
    assert r"\$5" in latex
    assert r"\label{tab:My-scene-fixed-masks-p7-n1}" in latex
    assert r"\\path\|bar" in markdown
    assert r"\<b\>\*bold\*\</b\>" in markdown
    assert r"grass\_50%" in markdown


def test_the_caption_names_scene_split_patch_and_number_of_runs(tmp_path):
    three_methods(tmp_path, n_seeds=4)
    latex = render_comparisons(compare([tmp_path]), "latex")
    caption = next(line for line in latex.splitlines() if line.startswith(r"\caption"))
    for words in ("Tiny (fixed masks; 20 training and 380 test pixels; patch size 7)", "over 4 runs", "is in bold"):
        assert words in caption
    assert r"\label{tab:Tiny-fixed-masks-p7-n4}" in latex
    assert r"\toprule" in latex
    assert r"$\kappa \times 100$" in latex
    assert r"\textbf{" in latex


PAGES = {  # a page of one column as article makes it, and one of a journal's two columns
    "one column": r"\documentclass{article}",
    "two columns": r"\documentclass[10pt,twocolumn]{article}\setlength{\textwidth}{516pt}\setlength{\columnsep}{12pt}"
    r"\setlength{\oddsidemargin}{-24pt}\setlength{\columnwidth}{252pt}",
}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("what", ["16 classes", "odd names", "five", "seven", "mixed"])
def test_the_latex_compiles_without_error_or_overfull_box(tmp_path, what):
    runs, page = tmp_path / "runs", PAGES["two columns" if what in ("five", "seven") else "one column"]
    if what == "16 classes":
        three_methods(runs, names=PINES)
    elif what == "odd names":
        three_methods(runs, names=(*ODD, 'quoted "name"'), scene="My_scene #1 & co")
    elif what in ("five", "seven"):
        for patch in range(3, 13 if what == "five" else 17, 2):
            for seed, recall in enumerate((1.0, 0.7)):  # the widest cells, all of them bold
                run = make_run(runs, "MiM-v1", seed, patch=patch, names=PINES, maps=False)
                change(run, class_recall=[recall] * 16, n_parameters=12_345_678)
    else:
        make_run(runs, "CNN", names=PINES)
        make_run(runs, "MiM-v1", names=PINES, protocol={"split": "random, 10 % of each class train", "border": "skip"})
    table = render_comparisons(compare([runs], mixed_protocols=what == "mixed"), "latex")
    assert ("Part 1 of 2" in table) == (what == "seven")
    lines = (page, r"\usepackage{booktabs}", r"\begin{document}", table, r"\end{document}")
    (tmp_path / "page.tex").write_text("\n".join(lines))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout[-2000:]
    log = (tmp_path / "page.log").read_text(errors="replace")
    for fault in ("Overfull", "Missing character", "undefined"):
        assert fault not in log, log


# CSV


def test_csv_is_a_line_per_figure_in_fractions(tmp_path):
    three_methods(tmp_path, n_seeds=2)
    rows = list(csv.DictReader(io.StringIO(render_comparisons(compare([tmp_path]), "csv"))))
    assert len(rows) == 3 * (3 + 3 + 2 + 4) + 2  # recalls, scores, certainty, costs; two gaps to the best
    assert {row["n_runs"] for row in rows} == {"2"}
    assert rows[0]["seeds"] == "0-1"
    kappas = [run.metrics["kappa"] for run in compare([tmp_path / "CNN"])[0].runs]
    found = next(row for row in rows if row["method"] == "CNN" and row["figure"] == "kappa")
    assert float(found["mean"]) == pytest.approx(statistics.mean(kappas), abs=1e-12)
    assert float(found["std"]) == pytest.approx(statistics.stdev(kappas), abs=1e-12)
    assert (found["n_train"], found["n_test"], found["class"]) == ("20", "380", "")
    corn = next(row for row in rows if row["class_name"] == "Corn")
    assert (corn["figure"], corn["class"], corn["n_train"], corn["n_test"]) == ("recall", "1", "7", "127")


def test_csv_leaves_empty_what_is_not_known_and_holds_all_scenes_under_one_head(tmp_path):
    change(make_run(tmp_path, scene="Here"), class_recall=[0.5, None, 0.1])
    make_run(tmp_path, scene="There", names=('a "quoted", name', "B"))
    rows = list(csv.DictReader(io.StringIO(render_comparisons(compare([tmp_path]), "csv"))))
    woods = next(row for row in rows if row["class_name"] == "Woods")
    assert (woods["mean"], woods["std"]) == ("", "")
    assert rows[0]["std"] == ""
    assert rows[0]["mean"] == "0.5"
    assert {row["scene"] for row in rows} == {"Here", "There"}
    assert rows[12]["class_name"] == 'a "quoted", name'


# The tests between methods


def test_mcnemar_stands_below_two_runs_and_below_two_methods_seed_by_seed(tmp_path):
    runs = [
        make_run(tmp_path, model, seed, accuracy=a) for model, a in (("CNN", 0.6), ("MiM-v1", 0.9)) for seed in (0, 1)
    ]
    text = render_comparisons(compare([runs[0], runs[2]]), "text")
    assert "McNemar" in text
    assert "A is CNN, B is MiM-v1" in text
    assert "two trained networks, not two methods" in text
    a, b = (np.load(run / "prediction.npy") for run in (runs[0], runs[2]))
    test = Run.read_metrics(runs[0] / "metrics.json").maps["test"]
    only_a = ((a == test) & (b != test) & (test > 0)).sum()
    only_b = ((b == test) & (a != test) & (test > 0)).sum()
    statistic = (abs(only_a - only_b) - 1) ** 2 / (only_a + only_b)
    assert ["0", str(only_a), str(only_b), f"{statistic:.2f}"] in [cells[:4] for cells in lines_of(text)]
    seeds = [
        cells[0]
        for cells in lines_of(render_comparisons(compare([tmp_path]), "text"))
        if len(cells) == 5 and cells[3] != "W"
    ]
    assert [seed for seed in seeds if seed.isdigit()] == ["0", "1"]
    assert "A is seed 0, B is seed 1" in render_comparisons(compare([tmp_path / "CNN"]), "text")
    make_run(tmp_path, "MiM-v2")
    assert "McNemar" not in render_comparisons(compare([tmp_path]), "text")


def test_two_seeds_of_a_method_on_drawn_splits_have_no_test(tmp_path):
    for seed in (0, 1):
        test = np.roll(np.diag([1, 2, 3, 1, 2] * 4), seed + 1, axis=0)
        make_run(tmp_path, seed=seed, test=test, protocol={"split": "random, 10 % of each class train"})
    assert "McNemar" not in render_comparisons(compare([tmp_path]), "text")


def test_mcnemar_is_left_out_in_a_sentence_where_maps_are_missing_or_differ(tmp_path):
    make_run(tmp_path, "CNN", maps=False)
    run = make_run(tmp_path, "MiM-v1")
    text = render_comparisons(compare([tmp_path]), "text", 500)
    assert "McNemar's test is left out: " in text
    assert "maps.npz is missing or damaged" in text
    (run / "maps.npz").write_bytes(b"PK\x03\x04")
    make_run(tmp_path, "CNN", 0)
    assert "McNemar's test is left out: " in render_comparisons(compare([tmp_path]), "text", 500)


def test_mcnemar_bears_another_training_mask_where_the_test_pixels_agree(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, "CNN", seed, accuracy=0.5)
        prints = {"cube": "c0be" * 16, "ground_truth": "97" * 32, "masks": "1", "split": f"{seed}"}
        make_run(tmp_path, "MiM-v1", seed, protocol={"n_validation": 2, "val_fraction": 0.1, "fingerprints": prints})
    text = render_comparisons(compare([tmp_path], mixed_protocols=True), "text")
    assert "A is CNN (a), B is MiM-v1 (b)" in text


def test_wilcoxon_says_when_the_seeds_are_too_few_and_prints_no_star(tmp_path):
    three_methods(tmp_path, n_seeds=3)
    text = render_comparisons(compare([tmp_path]), "text", 300)
    assert (
        "with 3 seeds nothing can be significant: the smallest p is 2/8 = 0.250, 0.750 after"
        in text.lower().replace("holm", "Holm")
    )
    assert "a p of 0.05 or less needs 7 seeds or more" in text
    below = text[text.index("Wilcoxon") :]
    assert "*" not in below
    assert row(below, "CNN - MiM-v1")[1] == "3"
    assert row(below, "CNN - MiM-v1")[-2:] == ["0.250", "0.750"]


def test_wilcoxon_over_enough_seeds_gives_p_after_holm_and_no_such_sentence(tmp_path):
    three_methods(tmp_path, n_seeds=8, maps=False)
    for place, model in enumerate(MODELS):
        for seed, run in enumerate(compare([tmp_path / model])[0].runs):
            change(run.folder, overall_accuracy=0.8 + 0.05 * place + 0.001 * seed * (1 + place))
    text = render_comparisons(compare([tmp_path]), "text", 200)
    assert "nothing can be" not in text
    found = row(text, "MiM-v1 - MiM-v2")
    assert found[1:] == ["8", "-5.35", "0", "0.008", "0.023"]  # 2/2^8, times three


def test_of_many_pairs_only_the_significant_ones_are_listed(tmp_path):
    for patch in (3, 5, 7, 9, 11, 13, 15):
        for seed in range(12):
            change(
                make_run(tmp_path, seed=seed, patch=patch, maps=False),
                overall_accuracy=(0.8 if patch == 15 else 0.5) + 0.0001 * seed,
            )
    text = render_comparisons(compare([tmp_path]), "text", 200)
    assert "Of 21 pairs of methods the 6 with p of 0.05 or less after Holm are listed" in text
    assert text.count("- CNN, patch 15 ") == 6


def test_methods_without_common_seeds_have_no_test_which_is_reported(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, "CNN", seed)
        make_run(tmp_path, "MiM-v1", seed + 5)
    text = render_comparisons(compare([tmp_path]), "text")
    assert "no two methods have two in common" in text
    assert "the methods have no seed in common" in text


def test_a_table_without_columns_is_its_notes():
    table = Table("", "", (), notes=("nothing to show",))
    assert [render_table(table, format, 80) for format in ("text", "markdown", "latex")] == [
        "- Nothing to show.",
        "- Nothing to show.",
        "% Nothing to show.",
    ]


# The command line


@pytest.fixture
def call(capsys):
    def run(*arguments):
        code = main.main([*map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_compare_prints_the_table_alone_on_standard_output(call, tmp_path):
    three_methods(tmp_path, n_seeds=1)
    (make_run(tmp_path, seed=4) / "metrics.json").unlink()
    for format, start in (
        ("text", "Classification"),
        ("csv", "scene,"),
        ("markdown", "Classification"),
        ("latex", "%"),
    ):
        code, out, err = call("--compare", tmp_path, "--format", format)
        assert code == 0
        assert out.startswith(start)
        assert err.startswith("left out, not complete: ")
    assert call("--compare", tmp_path)[1].startswith("Classification")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "csv"], "--table_format goes with --compare; leave it out"),
        (["--mixed_protocols"], "--mixed_protocols goes with --compare; leave it out"),
        (["--dataset", "tiny", "--key", "x"], "--cube_key goes with --predict; leave it out"),
        (["--compare", "x", "--dataset", "tiny"], "--compare does not use --dataset"),
        (["--compare", "x", "--seed", "1"], "--compare does not use --seed"),
        (["--audit", "--dataset", "tiny", "--format", "csv"], "--audit does not use --table_format"),
        (["--compare", "x", "--format", "html"], "invalid choice: 'html'"),
        (["--compare"], "expected at least one argument"),
        (["--compare", "nowhere"], "nowhere does not exist; give the folder of a run"),
    ],
)
def test_flags_that_do_not_go_together_and_wrong_paths_are_one_sentence(
    call, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    arguments = arguments if "--compare" in arguments or "--dataset" in arguments else ["--dataset", "tiny", *arguments]
    code, out, err = call(*arguments)
    assert code == 2
    assert message in err
    assert not out
    assert len(err.splitlines()) == 1


def test_protocols_that_differ_are_refused_with_code_2(call, tmp_path):
    make_run(tmp_path)
    make_run(tmp_path, "MiM-v1", protocol={"weights": "best"})
    code, out, err = call("--compare", tmp_path)
    assert code == 2
    assert not out
    assert "mixed_protocols" in err
    assert call("--compare", tmp_path, "--mixed_protocols")[0] == 0


def test_a_closed_pipe_ends_it_quietly(tmp_path):
    three_methods(tmp_path / "runs", names=[f"Class {i}" for i in range(200)], maps=False)
    command = f"{sys.executable} main.py --compare {tmp_path / 'runs'} --format csv | head -1"
    result = subprocess.run(
        ["bash", "-c", command], cwd=main.__file__.rsplit("/", 1)[0], capture_output=True, text=True
    )
    assert result.stdout.startswith("scene,")
    assert not result.stderr


def test_runs_as_training_leaves_them_compare(call, tiny_scene, tmp_path):
    common = ["--dataset", "tiny", "--folder", tiny_scene.folder, "--output", tmp_path / "runs", "--visdom", "off"]
    common += ["--cuda", -1, "--model", "cnn", "--patch_size", 3]
    for arguments in (["--epoch", 1, "--runs", 2], ["--epoch", 2]):
        assert call(*common, *arguments)[0] == 0
    code, out, _ = call("--compare", tmp_path / "runs" / "results.csv")
    assert code == 0
    assert "over 1 to 2 runs" in out
    counts = [str(np.count_nonzero(mask == 1)) for mask in (tiny_scene.train, tiny_scene.test)]
    assert row(out, "Land")[:4] == ["1", "Land", *counts]
    assert row(out, "Runs")[-2:] == ["2", "1"]
    assert "CNN" in out
    assert "1 epochs" in out
    assert "2 epochs" in out
    assert "McNemar" in out
    assert call(*common, "--epoch", 1, "--val_fraction", 0.3, "--weights", "best")[0] == 0
    code, _, err = call("--compare", tmp_path / "runs")
    assert code == 2
    assert "held out for validation (nothing / 30 % of the training pixels)" in err
    assert "weights (last / best)" in err
