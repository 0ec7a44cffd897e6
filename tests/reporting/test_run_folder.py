"""A run read from its folder, and the names that pictures, page and live view share."""

import json

import numpy as np
import pytest
from finished_run import COMMAND, write_run

from reporting.live import panes
from reporting.page.html_tables import epoch_table
from reporting.page.report import page
from reporting.run_folder import Run


@pytest.mark.parametrize(
    ("options", "n_rows", "names"),
    [
        ({"scales": [5, 3, 1]}, 3, ("scale 5 x 5", "scale 3 x 3", "scale 1 x 1")),
        ({"scales": [7, 5, 3, 1]}, 5, ("scale 7 x 7", "scale 5 x 5", "scale 3 x 3", "scale 1 x 1", "all scales")),
        ({"scales": [5, 3, 1]}, 1, ("scale 1 x 1",)),
        ({"dim": 64}, 1, ("all scales",)),
    ],
    ids=["v1", "v2", "the last alone", "CNN"],
)
def test_the_losses_have_the_names_of_their_heads(tmp_path, options, n_rows, names):
    record = {"epoch": 1, "lr": 1.0, "loss": 1.0, "scale_losses": [0.5] * n_rows, "seconds": 1.0}
    (tmp_path / "log.jsonl").write_text(json.dumps(record | {"train_accuracy": 1.0, "val_accuracy": None}))
    assert Run(tmp_path, {"protocol": {"model": {"options": options}}}).scale_names == names


def test_the_page_and_the_live_view_call_the_scales_what_the_curves_call_them(tmp_path):
    run = write_run(tmp_path / "run", n_scales=3)
    assert run.scale_names == ("scale 5 x 5", "scale 3 x 3", "scale 1 x 1")
    pane = panes.loss(run.records, run.protocol["model"]["options"]["scales"])
    assert [line["name"] for line in pane["data"]] == ["total", *run.scale_names]
    np.testing.assert_allclose(pane["data"][1]["y"], [record["scale_losses"][0] for record in run.records])
    table = epoch_table(run.records, run.scale_names)
    assert all(f'<th scope="col">Loss, {name}</th>' in table for name in run.scale_names)
    assert '"scale_names":["scale 5 x 5","scale 3 x 3","scale 1 x 1"]' in page(run, COMMAND).decode()
    assert "scale 1<" not in table


def test_before_the_first_epoch_the_live_view_has_an_empty_loss():
    assert [line["name"] for line in panes.loss([], (5, 3, 1))["data"]] == ["total"]
