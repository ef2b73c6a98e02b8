"""What docs/getting_started.md shows of three commands on real images is what they say."""

import csv
import re

import numpy as np
import pytest
from conftest import DATA, ROOT

from SSLRemoteSensing.workflows.own_requests import PretrainingRequest
from SSLRemoteSensing.workflows.own_runs import requested_config

PAGE = (ROOT / "docs/getting_started.md").read_text()
MUMBAI = DATA / "mumbai"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder in which the set lies as on the page."""
    if not MUMBAI.is_dir():
        pytest.skip(f"the real images are not at {MUMBAI}")
    (tmp_path / "mumbai").symlink_to(MUMBAI)
    monkeypatch.chdir(tmp_path)


def test_the_images_are_said_to_be_what_they_are(here, capsys):
    asked = PretrainingRequest(("mumbai/images",), "runs/pretrain", "small", epochs=1)
    with requested_config(asked, writes=False):
        pass
    lines = capsys.readouterr().out.splitlines()
    said = [line for line in lines if not line.startswith("length")]
    assert len(said) == 4
    assert [line for line in said if f"    {line}\n" not in PAGE] == []


def test_the_tiles_are_those_of_the_listed_splits(here):
    """Five by five of 128 pixels cover an image of 598."""
    with open("mumbai/scenes.csv") as file:
        splits = [row["split"] for row in csv.DictReader(file)]
    counts = [25 * splits.count(split) for split in ("train", "val", "test")]
    assert "tiles of 128 x 128: train {}, val {}, test {};".format(*counts) in PAGE


def test_the_scores_agree_with_each_other():
    """F1 and mIoU follow from the IoU of each class, to what rounding leaves."""
    rows = re.findall(r"^    (\D+?) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d,]+)$", PAGE, re.M)
    *classes, every = rows
    assert [row[0] for row in classes][::5] == ["informal settlement", "water"]
    iou, f1 = (np.array([float(row[i]) for row in classes]) for i in (1, 2))
    np.testing.assert_allclose(f1, 200 * iou / (100 + iou), atol=0.011)
    assert every[0] == "all"
    assert float(every[1]) == pytest.approx(iou.mean(), abs=0.011)
    pixels = [int(row[5].replace(",", "")) for row in rows]
    assert sum(pixels[:-1]) == pixels[-1]
    assert f"have a mean IoU of {iou[:-1].mean():.1f}" in PAGE
