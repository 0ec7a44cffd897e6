"""Several runs at a time: whose turn it is, what ends one of them, and pictures drawn meanwhile."""

import shutil

import pytest
import torch
from finished_run import COMMAND, write_run

import stops
from training import side_by_side
from training.config import RunConfig
from training.side_by_side import WAITING, drawing, in_turn, most_at_a_time
from utils import InputError

CPU = torch.device("cpu")


@pytest.fixture
def seen(monkeypatch):
    """The steps that were taken, as (number, step); the tests need no streams and no memory of a GPU."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: None)
    monkeypatch.setattr(side_by_side, "_has_memory", lambda *_: True)
    return []


def work(number, n_steps, seen, error=None):
    try:
        for step in range(n_steps):
            seen.append((number, step))
            yield
        if error:
            raise error
        return f"result {number}"
    finally:
        seen.append((number, "closed"))


def test_one_at_a_time_is_one_after_another(seen):
    found = list(in_turn([(number, work(number, 2, seen)) for number in range(2)], CPU, 1))
    assert found == [(0, "result 0"), (1, "result 1")]
    assert seen == [(0, 0), (0, 1), (0, "closed"), (1, 0), (1, 1), (1, "closed")]


def test_several_take_turns_and_the_next_starts_when_one_has_ended(seen):
    works = [(number, work(number, n, seen)) for number, n in enumerate([1, 3, 2])]
    found = list(in_turn(works, CPU, 2))
    assert sorted(found) == [(number, f"result {number}") for number in range(3)]
    assert seen.index((1, 0)) < seen.index((0, "closed")) < seen.index((2, 0)) < seen.index((1, 2))


def test_no_further_run_starts_without_memory_for_it(seen, monkeypatch):
    monkeypatch.setattr(side_by_side, "_has_memory", lambda _, n: n < 2)
    list(in_turn([(number, work(number, 3, seen)) for number in range(4)], CPU, 4))
    assert seen.index((0, "closed")) < seen.index((2, 0))


@pytest.mark.parametrize("error", [InputError("no"), FloatingPointError("not finite")])
def test_a_run_that_fails_does_not_stop_the_others(seen, error):
    works = [(0, work(0, 1, seen, error)), (1, work(1, 3, seen))]
    assert sorted(in_turn(works, CPU, 2), key=lambda pair: pair[0]) == [(0, error), (1, "result 1")]


def test_an_interrupt_ends_all_of_them(seen):
    works = [(0, work(0, 5, seen)), (1, work(1, 1, seen, KeyboardInterrupt()))]
    with pytest.raises(KeyboardInterrupt):
        list(in_turn(works, CPU, 2))
    assert (0, "closed") in seen


def test_a_stop_lets_each_of_several_come_to_a_safe_point_and_starts_no_other(seen, monkeypatch):
    asked = []
    monkeypatch.setattr(stops, "requested", lambda: bool(asked))

    def until_asked(number):
        for step in range(9):
            if asked:
                seen.append((number, "saved"))
                raise KeyboardInterrupt
            if (number, step) == (0, 2):
                asked.append(True)
            seen.append((number, step))
            yield

    ended = []
    with pytest.raises(KeyboardInterrupt):
        ended.extend(in_turn([(number, until_asked(number)) for number in range(4)], CPU, 3))
    assert {number for number, step in seen if step == "saved"} == {0, 1, 2} == {number for number, _ in seen}


def test_pictures_that_are_waited_for_do_not_hold_up_a_stop(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run")
    with drawing(2) as draw:
        work = draw(run, COMMAND)
        assert next(work) == WAITING
        monkeypatch.setattr(stops, "requested", lambda: True)
        with pytest.raises(KeyboardInterrupt):
            next(work)


def test_only_runs_that_are_independent_on_one_gpu_are_trained_at_a_time():
    gpu, runs = torch.device("cuda"), [RunConfig(dataset="Tiny") for _ in range(3)]
    assert most_at_a_time(runs, gpu, shared=False) == 3
    assert most_at_a_time(runs * 100, gpu, shared=False) == side_by_side.MOST
    assert most_at_a_time(runs, CPU, shared=False) == 1
    assert most_at_a_time(runs, gpu, shared=True) == 1
    assert most_at_a_time([*runs, RunConfig(dataset="Tiny", radiation_augmentation=True)], gpu, shared=False) == 1


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_pictures_are_drawn_here_or_by_another_process(tmp_path, at_a_time):
    run = write_run(tmp_path / "run")
    with drawing(at_a_time) as draw:
        assert set(draw(run, COMMAND)) == {WAITING}
    assert (run.folder / "report.html").is_file()
    assert (run.folder / "map.png").is_file()


def test_what_goes_wrong_in_another_process_is_raised_here(tmp_path):
    run = write_run(tmp_path / "run")
    shutil.rmtree(run.folder)
    with pytest.raises(InputError, match="is missing or damaged"), drawing(2) as draw:
        list(draw(run, COMMAND))
