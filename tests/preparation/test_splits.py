"""Which scenes are of which split: patterns, lists, and the scenes that are in none."""

import pytest

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.preparation.splits import assign_folders, assign_splits, listed_splits

SCENES = [f"area{area}_{part:03}" for area in (1, 2, 3) for part in (1, 2)]


def split_of(requests) -> dict[str, str]:
    return assign_folders([f"{scene}.png" for scene in SCENES], requests, [])


@pytest.fixture
def listed(tmp_path):
    """The requests of a list with these lines."""

    def write(*lines: str, name: str = "scenes.csv", encoding: str = "utf-8") -> list[str]:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding=encoding)
        return listed_splits([str(path)])

    return write


@pytest.mark.parametrize(
    ("requests", "val", "test"),
    [
        (["val=area1_*"], SCENES[:2], []),
        (["test=area3*", "val=area?_002"], ["area1_002", "area2_002"], SCENES[4:]),
        (["val=area1_001,area[23]_001"], SCENES[::2], []),
    ],
)
def test_a_pattern_names_all_scenes_that_it_matches(requests, val, test):
    splits = split_of(requests)
    for split, expected in (("val", val), ("test", test)):
        assert [image[:-4] for image, found in splits.items() if found == split] == expected
    assert len(splits) == len(SCENES)


def test_a_name_with_the_signs_of_a_pattern_is_a_name():
    splits = assign_splits({"train": ["a[1]", "a1"], "val": []}, ["val=a[1]"], ("val",))
    assert splits["a[1]"] == "val"


def test_where_train_is_named_the_others_are_in_no_split():
    splits = split_of(["train=area1_*", "val=area2_*"])
    assert splits == {f"{scene}.png": f"{split}" for scene, split in
                      zip(SCENES, ("train", "train", "val", "val"), strict=False)}  # fmt: skip
    with pytest.raises(UserError, match="area2_001 is no scene of train"):
        split_of(["train=area1_*,area2_001", "val=area2_*"])


@pytest.mark.parametrize("pattern", ["area9*", "*.png"])
def test_a_pattern_that_matches_nothing_is_refused(pattern):
    with pytest.raises(UserError, match="is no scene of train; write a share"):
        split_of([f"val={pattern}"])


@pytest.mark.parametrize(
    "lines",
    [
        ["scene,split", "area1_001,train", "area1_002,val", "area2_001,test"],
        ["Split, Image", "training, images/area1_001.tif", "valid, area1_002.png",
         "TEST, x/area2_001.jpg"],
        ["id,file,split", "7,area1_001,train", "8,area1_002,dev", "9,area2_001,testing"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_list_says_the_split_of_each_scene(listed, lines, encoding):
    requests = listed(*lines, encoding=encoding)
    assert requests == ["train=area1_001", "val=area1_002", "test=area2_001"]
    assert split_of(requests) == {
        "area1_001.png": "train", "area1_002.png": "val", "area2_001.png": "test"
    }  # fmt: skip


def test_a_number_behind_a_dot_is_no_ending(listed):
    assert listed("scene,split", "tile_1.80,train", "tile_1.8,val") == [
        "train=tile_1.80",
        "val=tile_1.8",
    ]


def test_other_requests_stay_as_they_are():
    assert listed_splits(["train", "val=a.csv"]) == ["train", "val=a.csv"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["scene,part", "a,train"], "columns scene and split, found scene, part"),
        (["scene,split"], "columns scene and split, found scene, split"),
        ([""], "found none"),
        (["scene,split", "a,train", "b,holdout"], "line 3: 'holdout' is not train, val or test"),
        (["scene,split", "a,train", "a.png,val"], "line 3: a stands there twice"),
        (["scene,split", "a"], "line 2: 'None' is not train, val or test"),
    ],
)
def test_a_list_of_another_kind_is_refused(listed, lines, message):
    with pytest.raises(UserError, match=message):
        listed(*lines)


def test_a_list_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: cannot be read \(No such file"):
        listed_splits([str(tmp_path / "none.csv")])


def test_a_list_of_scenes_that_are_not_there_is_told(listed):
    with pytest.raises(UserError, match="area9_001 is no scene of train"):
        split_of(listed("scene,split", "area1_001,train", "area9_001,test"))
