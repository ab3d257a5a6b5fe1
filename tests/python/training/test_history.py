"""Losses in short."""

import json

from sysvi.training.history import summarise_losses


def test_long_trainings_keep_first_and_last_epoch():
    found = summarise_losses({"total_train": list(range(1_001)), "kl_train": [0.123456] * 1_001})
    assert len(found["epoch"]) == len(found["total_train"]) == 200
    assert (found["epoch"][0], found["epoch"][-1], found["total_train"][-1]) == (1, 1_001, 1_000)
    assert [epoch - 1 for epoch in found["epoch"]] == found["total_train"]
    assert set(found["kl_train"]) == {0.12346}


def test_values_that_are_not_finite_are_null_in_json():
    found = summarise_losses({"total_train": [1.0, float("nan"), None, float("inf")]})
    assert json.loads(json.dumps(found, allow_nan=False))["total_train"] == [1.0, None, None, None]


def test_no_history():
    assert summarise_losses({}) == {"epoch": []}
