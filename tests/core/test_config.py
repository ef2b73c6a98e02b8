"""Config files: what loads, what is refused, and how a mistake is named."""

import copy
import functools
import operator

import pytest
from conftest import ROOT

from SSLRemoteSensing import build_pretext, build_segmentation
from SSLRemoteSensing.core.config import (
    Part,
    check,
    differences,
    drop_idle_keys,
    load_config,
    override,
)
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.workflows.pretraining import PretextConfig, check_pretext
from SSLRemoteSensing.workflows.segmentation import check_segmentation

CONFIGS = sorted((ROOT / "configs").glob("*.py"))
# A config as the published repository writes it: every key of its files, and its last trimmings.
PUBLISHED = """
img_size = 256
mode = 'train'
config = dict(
    name='VRNets',
    backbone_cfg=dict(name='vgg16_bn', num_classes=None, in_channels=3, pretrained=False,
                      out_keys=('block2', 'block3', 'block4', 'block5', 'block6')),
    inpainting_head_cfg=dict(name='InpaintingHead', in_channels=512, out_channels=3,
                             img_size=img_size, feat_channels=(512, 256, 128, 64, 32)),
    agr_head_cfg=dict(name='AGPHead', in_channels=512, num_classes=6),
    examplar_head_cfg=dict(name='ExamplarHead', in_channels=512, out_channels=512),
    train_cfg=dict(
        batch_size=4, device='cuda:0', num_epoch=13, num_workers=4,
        train_data=dict(
            data_path=r'../dataset/train_data', data_format='*.jpg', img_size=img_size,
            inpainting_transforms_cfg=dict(min_cover_ratio=0.2, max_cover_ratio=1./3,
                brightness=0.3, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.3, 0.3)),
            pre_transforms_cfg=dict(
                RandomHorizontalFlip=dict(name='RandomHorizontalFlip'),
                RandomVerticalFlip=dict(name='RandomVerticalFlip'),
                Rotate=dict(name='Rotate')),
            agr_transforms_cfg=dict(
                transforms_cfg=dict(
                    RandomHorizontalFlip=dict(name='RandomHorizontalFlip', p=1.),
                    RandomVerticalFlip=dict(name='RandomVerticalFlip', p=1.),
                    Rotate_0=dict(name='Rotate', angle=0, p=1),
                    Rotate_90=dict(name='Rotate', angle=90, p=1),
                    Rotate_180=dict(name='Rotate', angle=180, p=1),
                    Rotate_270=dict(name='Rotate', angle=270, p=1)),
                shortcut_cfg=dict(
                    RandomCrop=dict(name='RandomCrop', crop_ratio_min=0.7, crop_ratio_max=0.95),
                    ColorJitter=dict(name='ColorJitter', brightness=0.3, contrast=(0.5, 1.5),
                                     saturation=(0.5, 1.5), hue=(-0.3, 0.3)),
                    RandomGrayscale=dict(name='RandomGrayscale', p=0.5),
                    Normal=dict(name='Normal'))),
            post_transforms_cfg=dict(Resize=dict(name='Resize', size=(img_size, img_size)),
                                     ToTensor=dict(name='ToTensor'))),
        losses=dict(InpaintingLoss=dict(name='InpaintingLoss'),
                    AGRLoss=dict(name='CrossEntropyLoss'),
                    ExamplarLoss=dict(name='ExamplarLoss'), factors=[20, 1, 1]),
        optimizer=dict(name='Adam', lr=0.0005),
        checkpoints=dict(checkpoints_path=r'checkpoints/x', save_step=1),
        lr_schedule=dict(name='stepLR', step_size=2, gamma=0.95),
        log=dict(log_path=r'log/x', log_step=50, with_vis=False, vis_path=r'')),
    test_cfg=dict(batch_size=1, log=dict(with_vis=True, vis_path=r'')))
"""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_builds(path):
    config = load_config(path)
    if "classes" in config:
        check_segmentation(config)
        build_segmentation(config)
    else:
        check_pretext(config)
        net = build_pretext(config)
        heads = [net.inpainting_head, net.agr_head, net.exemplar_head]
        keys = ("inpainting_head_cfg", "agr_head_cfg", "examplar_head_cfg")
        assert [head is None for head in heads] == [config[key] is None for key in keys]


def test_a_config_of_the_published_repository_loads_and_says_what_it_drops(tmp_path, capsys):
    file = tmp_path / "published.py"
    file.write_text(PUBLISHED)
    config = load_config(file)
    check_pretext(config)
    dropped = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in dropped] == [
        "test_cfg",
        "inpainting_head_cfg.img_size",
        "backbone_cfg.num_classes",
    ]


def test_the_size_of_a_network_of_timm_is_kept(tmp_path, capsys):
    """It stands in the file, or --set gives it; the published networks have none."""
    file = tmp_path / "config.py"
    text = "config = dict(backbone_cfg=dict(name={!r}, img_size=96), agr_head_cfg=dict(img_size=8))"
    file.write_text(text.format("timm").replace("img_size=96", "model='maxxvit', img_size=96"))
    config = load_config(file)
    assert config["backbone_cfg"] == {"name": "timm", "model": "maxxvit", "img_size": 96}
    assert config["agr_head_cfg"] == {}
    assert load_config(file, ["backbone_cfg.img_size=32"])["backbone_cfg"]["img_size"] == 32
    file.write_text(text.format("vgg16"))
    assert load_config(file)["backbone_cfg"] == {"name": "vgg16"}
    assert capsys.readouterr().err.count("backbone_cfg.img_size does nothing") == 1


def test_the_repository_s_published_configs_hold_the_published_values(tmp_path):
    file = tmp_path / "published.py"
    file.write_text(PUBLISHED)
    ours = load_config(ROOT / "configs/vr_vgg16_inapinting_agr_examplar_cfg.py")
    differing = {path for path, _, _ in differences(load_config(file), ours)}
    assert differing == {
        "name",
        "train_cfg.checkpoints.checkpoints_path",
        "train_cfg.log.log_path",
        "train_cfg.train_data.agr_transforms_cfg.shortcut_cfg.Normal",
    }


MODERN = {
    "agr_head_cfg.name",
    "agr_head_cfg.in_channels",
    "train_cfg.batch_size",
    "train_cfg.joint_pass",
    "train_cfg.losses.ExamplarLoss.temperature",
    "train_cfg.losses.ExamplarLoss.self_similarity",
    "train_cfg.losses.factors",
    "train_cfg.optimizer.lr",
    *(f"train_cfg.lr_schedule.{key}" for key in ("name", "step_size", "gamma", "warmup_steps")),
}
CROP = "train_cfg.train_data.crop_size"
# What a run learns does not depend on these, nor on keys that do nothing.
AROUND = ("device", "precision", "channels_last", "checkpoints", "log", "train_data.data_format")


@pytest.mark.parametrize(
    ("modern", "published", "more"),
    [
        ("vr_vgg16_modern", "vr_vgg16_inapinting_agr_examplar", set()),
        ("vr_resnet50_modern", "vr_resnet50_inapinting_agr_examplar", set()),
        ("oam_pretrain_resnet18_modern", "oam_pretrain_resnet18", {CROP}),
    ],
)
def test_a_modern_config_differs_from_the_published_one_in_what_it_names(modern, published, more):
    configs = [load_config(ROOT / f"configs/{name}_cfg.py") for name in (published, modern)]
    for config in configs:
        data = config["train_cfg"]["train_data"]
        data.pop("post_transforms_cfg", None)
        config["backbone_cfg"].pop("pretrained", None)
        for turn in data["agr_transforms_cfg"]["transforms_cfg"].values():
            turn.pop("p", None)  # 1 where it is absent
        for key in AROUND:
            *parents, last = key.split(".")
            functools.reduce(dict.get, parents, config["train_cfg"]).pop(last, None)
    assert {path for path, _, _ in differences(*configs)} - {"name"} == MODERN | more


# Keys at every depth of the two trees.
KEYS = {
    "pretext": """
        backbone_cfg backbone_cfg.in_channels inpainting_head_cfg.feat_channels
        agr_head_cfg.num_classes examplar_head_cfg.out_channels train_cfg.batch_size
        train_cfg.optimizer.lr train_cfg.lr_schedule.gamma train_cfg.checkpoints.save_step
        train_cfg.log.log_step train_cfg.losses.factors train_cfg.losses.ExamplarLoss.temperature
        train_cfg.train_data.img_size train_cfg.train_data.inpainting_transforms_cfg.hue
        train_cfg.train_data.pre_transforms_cfg.Rotate.angle
        train_cfg.train_data.agr_transforms_cfg.shortcut_cfg
        train_cfg.train_data.agr_transforms_cfg.shortcut_cfg.ColorJitter.contrast
    """,
    "segmentation": """
        classes palette backbone_cfg.pretrained decoder_cfg.feat_channels train_cfg.val_data
        train_cfg.backbone_lr_factor train_cfg.train_data.label_path
        train_cfg.train_data.jitter.brightness train_cfg.val_data.hash_range
        train_cfg.loss.class_weights train_cfg.optimizer.weight_decay
        train_cfg.lr_schedule.warmup_steps
    """,
}


@pytest.fixture
def refusal(pretext_config, seg_config):
    """What is said of a config, of pre-training or fine-tuning, with an override, in one line."""

    def refused(tree: str, *texts: str) -> str:
        config = pretext_config if tree == "pretext" else seg_config
        for text in texts:
            override(config, text)
        with pytest.raises(UserError) as error:
            (check_pretext if tree == "pretext" else check_segmentation)(config)
        assert "\n" not in str(error.value)
        return str(error.value)

    return refused


@pytest.mark.parametrize(("tree", "path"), [(k, path) for k in KEYS for path in KEYS[k].split()])
@pytest.mark.parametrize("way", ["left out", "twice"])
def test_a_misspelt_key_is_named_with_the_nearest_at_every_depth(refusal, tree, path, way):
    """Of its letters the last but one is missing, or the last stands there twice."""
    where, _, meant = path.rpartition(".")
    key = meant + meant[-1] if way == "twice" or len(meant) < 3 else meant[:-2] + meant[-1]
    text = f"{where}: unknown key '{key}', did you mean '{meant}'?".lstrip(": ")
    assert text in refusal(tree, f"{where}.{key}=1".lstrip("."))


REQUIRED = """
    name backbone_cfg backbone_cfg.name agr_head_cfg.num_classes train_cfg.batch_size
    train_cfg.optimizer.name train_cfg.train_data.data_path train_cfg.log.log_path
    train_cfg.train_data.pre_transforms_cfg.Rotate.name
"""


@pytest.mark.parametrize("path", REQUIRED.split())
def test_a_missing_key_is_named_at_every_depth(pretext_config, path):
    *parents, key = path.split(".")
    del functools.reduce(dict.get, parents, pretext_config)[key]
    with pytest.raises(UserError, match=f"missing key '{key}'") as error:
        check_pretext(pretext_config)
    assert ".".join(parents) in str(error.value)


WRONG = {
    "pretext": [
        ("backbone_cfg.name=resnet19", "did you mean 'resnet18'"),
        ("train_cfg.optimizer.name=adam", "did you mean 'Adam'"),
        ("train_cfg.batch_size='4'", "train_cfg.batch_size: expected int, not '4'"),
        ("train_cfg.num_workers=True", "train_cfg.num_workers: expected int, not True"),
        ("train_cfg.precision=fp16", "expected one of 'fp32', 'bf16', 'auto'"),
        ("train_cfg.train_data=5", "train_cfg.train_data: expected a dict, not 5"),
        ("agr_head_cfg.num_classes=5", "there are 6 transforms"),
        ("train_cfg.batch_size=1", "the contrastive loss compares images"),
        ("train_cfg.model=1", "train_cfg: unknown key 'model'"),
        ("train_cfg.optimizer.lr=fast", "train_cfg.optimizer.lr: expected"),
        ("train_cfg.optimizer.betas=(0.9,)", "train_cfg.optimizer.betas: expected"),
        ("train_cfg.losses.factors=('a', 1, 1)", "train_cfg.losses.factors: expected"),
        ("train_cfg.losses.AGRLoss.name=ExamplarLoss", "unknown name 'ExamplarLoss'"),
        ("train_cfg.train_data.bands=['a']", "train_cfg.train_data.bands: expected"),
        ("train_cfg.train_data.data_format=[1]", "train_cfg.train_data.data_format: expected"),
        ("backbone_cfg.mean=('a', 'b', 'c')", "backbone_cfg.mean: expected"),
    ],
    "segmentation": [
        ("classes=('a', 'a')", "a name stands there twice"),
        ("classes=(None, 1)", "classes: expected"),
        ("palette=('red', 'blue')", "palette: expected"),
        ("palette=((1, 2, 3),)", "1 colours for 2 classes"),
        ("train_cfg.train_data.hash_range=(0.5,)", "hash_range: expected"),
        ("train_cfg.backbone_lr_factor=-1", "must not be negative"),
        ("train_cfg.loss.class_weights=('a', 'b')", "class_weights: expected"),
        ("train_cfg.val_data.flips=True", "unknown key"),  # scored tiles are not augmented
        ("train_cfg.test_data.crop_size=32", "unknown key"),
    ],
}


@pytest.mark.parametrize(
    ("tree", "text", "said"), [(tree, *case) for tree in WRONG for case in WRONG[tree]]
)
def test_a_wrong_value_is_named_with_what_to_do(refusal, tree, text, said):
    assert said in refusal(tree, text)


def test_all_mistakes_are_reported_at_once(refusal):
    said = refusal("pretext", "backbone_cfg.pretraind=True", "train_cfg.optimizer.lrr=1")
    assert said.index("pretraind") < said.index("lrr")


HEADS = ("inpainting_head_cfg", "agr_head_cfg", "examplar_head_cfg")


@pytest.mark.parametrize("chosen", range(8))
@pytest.mark.parametrize("absent", ["none", "deleted"])
def test_any_subset_of_the_heads_trains_but_none(pretext_config, chosen, absent):
    for bit, head in enumerate(HEADS):
        if not chosen >> bit & 1:
            pretext_config[head] = None
            if absent == "deleted":
                del pretext_config[head]
    if not chosen:
        with pytest.raises(UserError, match="at least one of inpainting_head_cfg"):
            build_pretext(pretext_config)
        return
    check_pretext(pretext_config)
    net = build_pretext(pretext_config)
    present = [net.inpainting_head, net.agr_head, net.exemplar_head]
    assert [head is not None for head in present] == [bool(chosen >> bit & 1) for bit in range(3)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("inpainting_head_cfg.in_channels=256", "set in_channels=512"),
        ("inpainting_head_cfg.feat_channels=(512,128,64,64,32)", "block5 of the backbone"),
        ("inpainting_head_cfg.feat_channels=(256,128)", "expected 5 numbers"),
        ("inpainting_head_cfg.out_channels=4", "the images have 3 bands"),
        ("agr_head_cfg.in_channels=2048", "agr_head_cfg: in_channels=2048"),
        ("backbone_cfg.out_keys=('block7',)", "unknown 'block7'"),
        ("backbone_cfg.mean=(0.5,)", "give both or neither"),
        ("train_cfg.losses.factors=[1,1]", "expected 3 weights"),
    ],
)
def test_heads_that_do_not_fit_are_refused_by_name(pretext_config, text, said):
    override(pretext_config, text)
    check_pretext(pretext_config)
    with pytest.raises(UserError) as error:
        build_pretext(pretext_config)
    assert said in str(error.value)


def test_overrides_take_literals_or_else_strings():
    config = {"a": {"b": 1}}
    for text in ("a.b=0.5", "a.c=[1, 2]", "a.d=*.jpg", "e.f=None", "g='x=y'"):
        override(config, text)
    assert config == {"a": {"b": 0.5, "c": [1, 2], "d": "*.jpg"}, "e": {"f": None}, "g": "x=y"}


@pytest.mark.parametrize("text", ["a.b", "=3", "a..b=1", "n.b.c=1"])
def test_a_malformed_override_is_named(text):
    with pytest.raises(UserError, match="--set"):
        override({"n": {"b": 5}}, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [("x = 1", "no dict named 'config'"), ("config = dict(", "SyntaxError"), ("1/0", "ZeroDiv")],
)
def test_a_broken_config_file_is_one_line(tmp_path, text, said):
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        load_config(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="not found"):
        load_config(tmp_path / "absent.py")


def test_a_number_of_classes_that_is_set_is_not_dropped(pretext_config):
    config = copy.deepcopy(pretext_config)
    assert drop_idle_keys(config) == []
    assert config == pretext_config


def test_check_reports_paths_from_where_it_starts():
    assert check(int, "x", "a.b") == ["a.b: expected int, not 'x'"]
    assert check(int | None, None, "a.b") == []


DATE = "train_cfg.train_data.data_path"
TEXTS = {
    f"{DATE}=2024_05_01": "2024_05_01",
    f"{DATE}=007": "007",
    f"{DATE}=1_000": "1_000",
    f"{DATE}=1e5": "1e5",
    f"{DATE}=0x10": "0x10",
    f"{DATE}=True": "True",
    f"{DATE}=[2024]": "[2024]",
    f"{DATE}='None'": "None",
    "train_cfg.train_data.data_format=2024": "2024",
    "train_cfg.train_data.data_format=['*.a', '*.b']": ["*.a", "*.b"],
    "train_cfg.train_data.exclude=12": "12",
    "train_cfg.train_data.exclude=None": None,
    "train_cfg.checkpoints.checkpoints_path=3.10": "3.10",
    "train_cfg.log.log_path=5": "5",
    "train_cfg.device=0": "0",
    "train_cfg.batch_size=2_0": 20,
    "backbone_cfg.pretrained=2024": "2024",
    "backbone_cfg.pretrained=False": False,
    "inpainting_head_cfg.feat_channels=(64, 32)": (64, 32),
    "name=2024": "2024",
    "name={[1]: 2}": "{[1]: 2}",
}


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_text_where_a_key_takes_text_alone(pretext_config, text):
    override(pretext_config, text, [Part(PretextConfig)])
    value = functools.reduce(operator.getitem, text.partition("=")[0].split("."), pretext_config)
    assert (type(value), value) == (type(TEXTS[text]), TEXTS[text])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{DATE}=None", "data_path: expected str, not None"),  # by mistake, more often than a name
        (
            "train_cfg.train_data.data_format=(1, '*.b')",
            "data_format: expected .*not \\(1, '\\*.b'",
        ),
        ("train_cfg.batch_size=many", "batch_size: expected int, not 'many'"),
        ("train_cfg.train_data=5", "train_data: expected a dict, not 5"),
        ("train_cfg.nothing.of_this=5", "unknown key 'nothing'"),
    ],
)
def test_what_is_no_text_there_is_still_refused(pretext_config, text, said):
    override(pretext_config, text, [Part(PretextConfig)])
    with pytest.raises(UserError, match=said):
        check_pretext(pretext_config)


def test_a_name_that_is_set_after_a_key_says_what_the_key_takes(tmp_path):
    (tmp_path / "config.py").write_text("config = dict(backbone_cfg=dict())")
    texts = ["backbone_cfg.pretrained=007", "backbone_cfg.name=resnet18"]
    config = load_config(tmp_path / "config.py", texts, [Part(PretextConfig)])
    assert config == {"backbone_cfg": {"name": "resnet18", "pretrained": "007"}}
