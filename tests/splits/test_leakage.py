"""The audit against brute force on small maps, against the known facts of the real masks, and on faulty masks."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

import main
from datasets import Scene
from splits.leakage import brief, brief_sentence, count_duplicates, distance_to, examine, overlap_fractions
from splits.split import Split

NAMES = {"class_names": ("Corn", "Woods", "Water"), "palette": ("#111111", "#222222", "#333333")}


@st.composite
def splits(draw):
    """Train and test label maps, (1..12, 1..12), with a pixel or more each."""
    shape = draw(st.integers(1, 12)), draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    role = rng.choice(3, size=shape, p=draw(st.sampled_from([(0.2, 0.2, 0.6), (0.6, 0.1, 0.3), (0.9, 0.05, 0.05)])))
    role.flat[:2] = 1, 2
    labels = rng.integers(1, 4, shape)
    return np.where(role == 1, labels, 0), np.where(role == 2, labels, 0)


def footprint(mask, half):
    """All pixels in the windows of a mask's pixels, by painting one window after the other."""
    painted = np.zeros(mask.shape, dtype=bool)
    for row, column in np.argwhere(mask > 0):
        painted[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1] = True
    return painted


# Against brute force


@settings(max_examples=80, deadline=None)
@given(maps=splits())
def test_the_distance_is_the_larger_of_rows_and_columns_to_the_nearest_training_pixel(maps):
    train, _ = maps
    distance = distance_to(train)
    for row, column in np.ndindex(*train.shape):
        steps = [max(abs(row - r), abs(column - c)) for r, c in np.argwhere(train)]
        assert distance[row, column] == min(steps)


def test_an_empty_mask_has_no_distance():
    with pytest.raises(ValueError, match="empty mask"):
        distance_to(np.zeros((3, 3)))


@settings(max_examples=80, deadline=None)
@given(maps=splits(), patch_size=st.sampled_from([1, 3, 5, 7, 21]))
def test_the_shares_are_those_of_windows_cut_out_one_by_one(maps, patch_size):
    train, test = maps
    half, windows = patch_size // 2, footprint(train, patch_size // 2)
    holding = overlapping = 0
    for row, column in np.argwhere(test):
        window = slice(max(row - half, 0), row + half + 1), slice(max(column - half, 0), column + half + 1)
        holding += bool(train[window].any())
        overlapping += bool(windows[window].any())
    n_test = (test > 0).sum()
    shares = overlap_fractions(distance_to(train)[test > 0], patch_size)
    assert shares == pytest.approx((holding / n_test, overlapping / n_test))


@settings(max_examples=50, deadline=None)
@given(maps=splits(), seed=st.integers(0, 2**32))
def test_duplicates_are_the_test_pixels_that_equal_a_training_pixel_in_every_band(maps, seed):
    train, test = maps
    cube = np.random.default_rng(seed).integers(0, 3, (*train.shape, 2)).astype(np.float32)
    cube[cube == 1] = -0.0
    pairs = sum(
        any((cube[t] == cube[r]).all() for r in zip(*np.nonzero(train), strict=True))
        for t in zip(*np.nonzero(test), strict=True)
    )
    assert count_duplicates(cube, train, test) == pairs


def hand_made():
    """One training pixel and test pixels 1, 3, 3 and 6 away from it; the last has its spectrum."""
    train, test = np.zeros((2, 3, 7), dtype=np.int64)
    train[0, 0], test[1, 1], test[0, 3], test[2, 3], test[1, 6] = 1, 1, 1, 2, 1
    cube = np.arange(21.0).reshape(3, 7, 1)
    cube[1, 6] = cube[0, 0]
    return Split(train, test, NAMES["class_names"], NAMES["palette"], "by hand"), cube


def test_the_short_form_of_a_hand_made_split():
    split, cube = hand_made()
    facts = brief(split, cube, 5)
    expected = {"patch_size": 5, "train_pixel_in_window": 0.25, "train_window_overlap": 0.75, "duplicates": 0.25}
    expected |= {"location_accuracy": 0.75, "test_in_trained_region": 0.25}
    assert facts == expected | {"distance_median": 3.0, "distance_maximum": 6}
    told = brief_sentence(facts)
    assert told.startswith(
        "25.0 % of the test pixels have a training pixel in their 5 x 5 window; 75.0 % of the windows"
    )
    assert "3 away in the median and 6 at most" in told
    without = brief_sentence(facts, windows=False)
    assert without.startswith("the nearest training pixel is ") and told.endswith(without)
    assert "window" not in without


def test_the_findings_of_a_hand_made_split(tiny_scene):
    split, cube = hand_made()
    gt = np.array([[1, 0, 0, 2, 0, 0, 0], [0, 1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 3, 3, 0]])
    tiny_scene.change(class_names=NAMES["class_names"])
    findings = examine(split, Scene(tiny_scene.spec, cube, gt), 5)
    assert findings["distance_histogram"] == {"1": 1, "3": 2, "6": 1}
    assert [findings[f"distance_{which}"] for which in ("minimum", "median", "maximum")] == [1, 3.0, 6]
    assert (findings["n_train"], findings["n_test"], findings["overlap"], findings["duplicates"]) == (1, 4, 0, 1)
    assert (findings["n_labelled"], findings["n_ground_truth"]) == (5, 6)
    assert (findings["masks_only"], findings["ground_truth_only"], findings["disagreeing"]) == (1, 2, 1)
    assert findings["class_test"].tolist() == [3, 1, 0]
    assert list(findings["train_pixel_in_window"]) == [str(size) for size in range(3, 22, 2)]
    assert findings["train_pixel_in_window"]["7"] == 0.75
    assert "27" in examine(split, Scene(tiny_scene.spec, None, None), 27)["train_pixel_in_window"]


# The command line


@pytest.fixture
def call(capsys):
    """Run the command line; exit code and what it said on standard output and standard error."""

    def run(*arguments):
        code = main.main(["--audit", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def audit(call, tmp_path):
    """Audit with --output; gives the findings and the sentences."""

    def run(*arguments):
        code, out, err = call(*arguments, "--output", tmp_path / "out")
        assert code == 0, err
        findings = json.loads((tmp_path / "out" / "audit.json").read_text())
        assert out.splitlines() == findings["sentences"]
        assert min(imread(tmp_path / "out" / "audit.png").shape[:2]) > 100
        return findings, out

    return run


REAL = {  # per cent at patch 7, training and test pixels
    "IndianPines": (78.9, 695, 9671),
    "PaviaU": (10.1, 3921, 40_002),
    "Houston2013": (6.7, 2832, 12_197),
}
LOCATION = {  # right by location alone and in trained regions, per cent; regions, and those trained on
    "IndianPines": (91.62, 100.0, 42, 42),
    "PaviaU": (70.46, 88.0, 248, 47),
    "Houston2013": (62.74, 8.5, 360, 11),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_masks_have_the_known_shares(real_data, audit, name):
    for file in ("TRAIN_GT.mat", "TEST_GT.mat"):
        if not (real_data / name / file).is_file():
            pytest.skip(f"{real_data / name / file} is absent")
    share, n_train, n_test = REAL[name]
    findings, said = audit("--dataset", name, "--folder", real_data)
    assert round(100 * findings["train_pixel_in_window"]["7"], 1) == share
    assert (findings["n_train"], findings["n_test"], findings["overlap"], findings["faults"]) == (
        n_train,
        n_test,
        0,
        [],
    )
    assert f"with windows of 7 x 7, {share} %" in said.splitlines()[-1]
    right, in_region, n_regions, n_trained = LOCATION[name]
    assert round(100 * findings["location_accuracy"], 2) == right
    assert round(100 * findings["test_in_trained_region"], 1) == in_region
    assert (findings["regions"], findings["regions_trained"]) == (n_regions, n_trained)
    assert f"is right for {right:.2f} % of the test pixels." in said
    assert f"lie in {n_regions}, of which {n_trained} also hold a training pixel; {in_region} % of" in said
    if name == "IndianPines":
        assert findings["distance_maximum"] <= 10
        if (real_data / name / "Indian_pines_gt.mat").is_file():
            assert (findings["n_labelled"], findings["n_ground_truth"]) == (10_366, 10_249)
            assert (findings["masks_only"], findings["ground_truth_only"], findings["disagreeing"]) == (256, 139, 0)
            assert "number the classes of IndianPines differently" in said


def test_masks_alone_are_enough(tiny_scene, audit):
    for file in ("Tiny.mat", "Tiny_gt.mat"):
        (tiny_scene.folder / "Tiny" / file).unlink()
    findings, said = audit("--dataset", "tiny", "--folder", tiny_scene.folder, "--patch_size", 5)
    assert findings["duplicates"] is None and findings["n_ground_truth"] is None
    assert "The cube is not here" in said and "There is no ground truth here" in said
    assert findings["class_train"] == [9, 9, 9] and findings["class_test"] == [18, 18, 18]
    assert findings["train_pixel_in_window"]["5"] == pytest.approx(2 / 6)
    assert findings["train_window_overlap"]["5"] == pytest.approx(4 / 6)


def test_without_output_nothing_is_written(tiny_scene, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = call("--dataset", "tiny", "--folder", tiny_scene.folder)
    assert code == 0 and out.splitlines()[-1].startswith("Verdict: with windows of 7 x 7, ")
    assert sorted(tmp_path.rglob("*")) == before


def test_faults_are_told_not_raised(tiny_scene, audit):
    tiny_scene.write("TEST_GT.mat", TE=tiny_scene.gt)
    findings, said = audit("--dataset", "tiny", "--folder", tiny_scene.folder)
    assert findings["overlap"] == 27 and len(findings["faults"]) == 1 and "overlap: 27 pixels" in findings["faults"][0]
    assert "FAULT: " in said and "No pixel both trains and tests" not in said
    assert said.splitlines()[-1] == "Verdict: the split is faulty; a run refuses it."
    table = np.array([0, 3, 2, 1], dtype=np.uint8)
    tiny_scene.write("TRAIN_GT.mat", TR=table[np.where(tiny_scene.train == 2, 0, tiny_scene.train)].T)
    tiny_scene.write("TEST_GT.mat", TE=table[tiny_scene.test])
    findings, _ = audit("--dataset", "tiny", "--folder", tiny_scene.folder)
    transposed, numbering, untrained = findings["faults"]
    assert "only transposed" in transposed and "neither Tiny's nor a known" in numbering
    assert "no training pixel" in untrained
    assert findings["disagreeing"] == 54 and findings["n_train"] == 18  # classes 1 and 3 are exchanged


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--train_set", "nowhere.mat", "--test_set", "TEST_GT.mat"], "nowhere.mat"),
        (["--train_set", "Tiny.mat", "--test_set", "TEST_GT.mat"], "holds no array that can be TR"),
        (["--model", "cnn"], "--audit does not use --model"),
        (["--patch_size", "4"], "odd"),
        (["--test_set", "TEST_GT.mat"], "--test_set needs --train_set"),
        (["--fold", "1"], "--fold is used with --sampling_mode spatial or fields"),
        (["--output", "{file}"], "is a file"),
    ],
)
def test_what_cannot_be_examined_is_one_sentence_and_exit_code_2(tiny_scene, call, tmp_path, flags, words):
    (tmp_path / "file").write_text("")
    flags = [flag.format(file=tmp_path / "file") for flag in flags]
    code, out, err = call("--dataset", "tiny", "--folder", tiny_scene.folder, *flags)
    assert code == 2 and words in err and not out
    assert len(err.splitlines()) == 1
    code, _, err = call("--folder", tiny_scene.folder)
    assert code == 2 and "--dataset is missing" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "Fitted on all pixels of the scene, including the test pixels' spectra"),
        (
            ["--pca", 2, "--fit_on", "train"],
            "Fitted on the 27 training pixels alone: normalisation (zscore) and PCA (2 components).",
        ),
        (["--normalize", "none"], "Nothing is fitted"),
    ],
)
def test_the_pixels_that_fit_the_normalisation_are_told(tiny_scene, audit, flags, words):
    _, said = audit("--dataset", "tiny", "--folder", tiny_scene.folder, *flags)
    assert words in said


def test_a_split_that_is_drawn_can_be_audited_too(tiny_scene, audit):
    common = ["--dataset", "tiny", "--folder", tiny_scene.folder, "--patch_size", 3]
    random, _ = audit(*common, "--sampling_mode", "random", "--training_sample", 0.5, "--seed", 4)
    assert random["split"].startswith("random") and random["train_pixel_in_window"]["3"] > 0.9
    buffered, said = audit(*common, "--sampling_mode", "buffered", "--folds", 2, "--fold", 1, "--block_size", 4)
    assert buffered["train_window_overlap"]["3"] == 0 < buffered["guard_pixels_dropped"]
    assert "no test window shares a pixel with a training window" in said.splitlines()[-1]
    # the regions are those of the ground truth, in which the buffer connects training and test pixels
    assert buffered["test_in_trained_region"] > 0 and "lie in a region that was trained on" in said.splitlines()[-1]


def test_whole_fields_can_be_audited(audit, tmp_path):
    findings, said = audit("--dataset", "Simulated", "--sampling_mode", "fields", "--folds", 3)
    assert findings["test_in_trained_region"] == 0 == findings["regions_trained"] < findings["regions"]
    assert said.splitlines()[-1].endswith("the score is that of unseen fields in this scene.")


def test_a_missing_ground_truth_is_told_where_it_is_needed(tiny_scene, call):
    (tiny_scene.folder / "Tiny" / "Tiny_gt.mat").unlink()
    code, _, err = call("--dataset", "tiny", "--folder", tiny_scene.folder, "--sampling_mode", "random")
    assert code == 2 and "Tiny_gt.mat is missing" in err
