"""DistillationHead: a frozen teacher's features, predicted place by place."""

import json
import math

import pytest
import torch
from tiny_run import entries, interrupt_at, moved, step_of, train
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.evaluation.task_gradients import task_gradients
from SSLRemoteSensing.export.model_card import teacher_of
from SSLRemoteSensing.models.losses import CosineLoss
from SSLRemoteSensing.models.pretext import build_pretext, pretext_losses
from SSLRemoteSensing.models.pretrained import BACKBONES
from SSLRemoteSensing.training.resume import compare_cards, json_card
from SSLRemoteSensing.workflows import pretraining, segmentation

# timm's smallest, which it has for its own tests.
TEACHER = dict(name="timm", model="test_convnext")
STUDENT = dict(name="timm", model="test_resnet")
AGR = dict(name="AGPHead", in_channels=96, num_classes=6)
PROBE = dict(name="LinearProbe")
VIEWS = ("occluded", "anchor", "transformed")


def config_of(bands: int = 3, **head) -> dict:
    """A network that learns of a teacher alone."""
    cfg = dict(name="DistillationHead", teacher=TEACHER) | head
    backbone = STUDENT | dict(in_channels=bands)
    return dict(backbone_cfg=backbone, distillation_head_cfg=cfg)


class Copies(TorchDispatchMode):
    """Notes where numbers of Python become a tensor, as an index of a list does."""

    from_lists = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.from_lists += func in (torch.ops.aten.lift_fresh.default, torch.ops.aten.index.Tensor)
        return func(*args, **(kwargs or {}))


def batch_of(bands: int = 3, count: int = 4, side: int = 64) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    shape = (count, bands, side, side)
    images = {key: torch.randint(256, shape, generator=drawn, dtype=torch.uint8) for key in VIEWS}
    return images | dict(transform_label=torch.arange(count) % 6)


def run_config(config: dict, **head) -> dict:
    """`config` of a run, with the distillation in place of its tasks."""
    names = ("inpainting_head_cfg", "agr_head_cfg", "examplar_head_cfg")
    return config | dict.fromkeys(names) | config_of(**head)


def test_the_loss_is_one_minus_the_cosine_at_each_place():
    prediction, target = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    total = 0.0
    for n in range(2):
        for y in range(3):
            for x in range(4):
                a, b = prediction[n, :, y, x].tolist(), target[n, :, y, x].tolist()
                dot = sum(p * q for p, q in zip(a, b, strict=True))
                total += 1 - dot / math.dist(a, [0] * 5) / math.dist(b, [0] * 5)
    assert CosineLoss()(prediction, target).item() == pytest.approx(total / 24, rel=1e-5)
    assert CosineLoss()(-3 * target, target).item() == pytest.approx(2)


def test_a_student_of_five_bands_learns_from_a_teacher_of_three():
    torch.manual_seed(0)
    net, batch = build_pretext(config_of(5, teacher_bands=(3, 2, 1))), batch_of(5)
    step, curve = step_of(net, optimizer=dict(name="Adam", lr=1e-3)), []
    for _ in range(12):
        curve.append(float(step.forward_backward(batch)[0]["distillation"]))
        step.update()
    assert curve[-1] < 0.5 * curve[0]


def test_a_teacher_equal_to_the_student_leaves_nothing_to_learn(tmp_path):
    torch.manual_seed(0)
    backbone = build_pretext(config_of()).backbone
    torch.save(backbone.state_dict(), tmp_path / "own.pth")
    same = STUDENT | dict(pretrained=str(tmp_path / "own.pth"))
    net = build_pretext(config_of(teacher=same)).eval()
    net.backbone.load_state_dict(backbone.state_dict())
    before = net(batch_of())["distillation"].item()
    for project in net.distillation_head.projections.values():
        torch.nn.init.dirac_(project.weight)
        torch.nn.init.zeros_(project.bias)
    assert net(batch_of())["distillation"].item() == pytest.approx(0, abs=1e-5)
    assert before > 0.1


def test_the_teacher_is_frozen_and_no_part_of_the_network():
    net = build_pretext(config_of()).train()
    teacher = net.distillation_head.teacher
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    names = [f"projections.{key}." for key in ("block5", "block6")]
    own = [f"{name}{part}" for name in names for part in ("weight", "bias")]
    assert list(net.distillation_head.state_dict()) == own
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in net.parameters()}
    assert not {id(m) for m in teacher.modules()} & {id(m) for m in net.modules()}
    step = step_of(net, optimizer=dict(name="SGD", lr=0.1))
    step.forward_backward(batch_of())
    assert all(p.grad is not None for p in net.parameters())
    assert net.backbone.net.conv1[0].weight.grad.any()
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    step.update()
    task_gradients(net, batch_of())  # which puts batch normalization into the mode of training
    assert not any(module.training for module in teacher.modules())
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_teacher_goes_where_the_network_goes():
    net = build_pretext(config_of()).to(torch.float64, memory_format=torch.channels_last)
    kernel = net.distillation_head.teacher.net.stem[0].weight
    assert kernel.dtype == torch.float64
    assert kernel.is_contiguous(memory_format=torch.channels_last)


def test_the_teacher_sees_its_bands_of_the_anchor_with_its_own_mean_and_std_taken_out():
    values = dict(mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    config = config_of(5, teacher=TEACHER | values, teacher_bands=(5, 1, 2))
    config["backbone_cfg"] |= dict(mean=[0.4] * 5, std=[0.2] * 5)
    net, anchor = build_pretext(config).eval(), batch_of(5)["anchor"].float() / 255
    seen, teacher = [], net.distillation_head.teacher
    forward = teacher.net.forward_intermediates
    teacher.net.forward_intermediates = lambda x, **options: seen.append(x) or forward(x, **options)
    (_, fine), (_, coarse) = net.distillation_head(net.features(anchor), anchor)
    mean, std = (torch.tensor(values[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(seen[0], (anchor[:, [4, 0, 1]] - mean) / std)
    assert (fine.shape[1:], coarse.shape[1:]) == ((48, 4, 4), (64, 2, 2))


@pytest.mark.parametrize(("bands", "chosen"), [(3, None), (3, (1, 2, 3)), (5, (2, 5, 1))])
def test_a_teacher_s_bands_are_chosen_without_a_copy_from_the_cpu(bands, chosen):
    """All of them in order are the images themselves; the numbers of others lie on the device."""
    net = build_pretext(config_of(bands, teacher_bands=chosen))
    head, images = net.distillation_head, torch.rand(2, bands, 64, 64)
    seen = []
    head.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    maps = net.features(images)
    with Copies() as copies:
        head(maps, images)
    assert not copies.from_lists
    if bands == 3:
        assert seen[0] is images
    else:
        assert torch.equal(seen[0], images[:, [1, 4, 0]])
    assert head.channels is None or head.to("meta").channels.device.type == "meta"
    assert not [key for key in net.state_dict() if "channels" in key]


def test_a_random_teacher_is_always_the_same_and_draws_nothing_of_the_student_s(capsys):
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(build_pretext(config_of()))
    first, second = (net.distillation_head.teacher.state_dict() for net in nets)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert "teacher: has random weights; set pretrained" in capsys.readouterr().err
    torch.manual_seed(1)
    alone = build_pretext(config_of() | dict(distillation_head_cfg=None, agr_head_cfg=AGR))
    assert torch.equal(alone.backbone.net.conv1[0].weight, nets[1].backbone.net.conv1[0].weight)


@pytest.mark.parametrize("joint_pass", [False, True])
def test_beside_the_three_tasks_theirs_are_as_without_it(pretext_config, joint_pass):
    pretext_config["train_cfg"]["joint_pass"] = joint_pass
    losses = []
    for head in (None, config_of()["distillation_head_cfg"]):
        torch.manual_seed(0)
        net = build_pretext(pretext_config | dict(distillation_head_cfg=head))
        torch.manual_seed(0)
        losses.append(net(batch_of()))
    *three, fourth = losses[1]
    assert fourth == "distillation"
    assert list(losses[0]) == three == ["inpainting", "agr", "exemplar"]
    assert all(torch.equal(losses[0][task], losses[1][task]) for task in three)


def test_a_fourth_factor_weights_it():
    assert [weight for _, weight, _ in pretext_losses()] == [20, 1, 1, 1]
    assert [weight for _, weight, _ in pretext_losses(factors=(1, 2, 3, 0.5))] == [1, 2, 3, 0.5]
    with pytest.raises(UserError, match="expected 4 weights, none negative"):
        pretext_losses(factors=(1, 2, 3, -1))
    with pytest.raises(UserError, match="expected 3 weights"):
        pretext_losses(factors=(1, 2))


def test_weights_of_another_network_are_said_to_be_wrong_in_the_teacher_s_keys(tmp_path):
    large = build(BACKBONES, dict(name="resnet50", in_channels=3), "backbone_cfg")
    torch.save(large.state_dict(), tmp_path / "large.pth")
    cfg = dict(name="resnet18", in_channels=3, pretrained=str(tmp_path / "large.pth"))
    with pytest.raises(UserError, match=r"distillation_head_cfg\.teacher\.name='resnet50'"):
        build_pretext(config_of(teacher=cfg))


def test_in_bf16_the_teacher_computes_as_the_student_does_and_the_loss_in_fp32():
    teacher = dict(name="timm", model="test_efficientnet")
    step = step_of(build_pretext(config_of(teacher=teacher)), precision="bf16")
    head, images = step.model.distillation_head, batch_of()["anchor"].float() / 255
    with step.autocast():
        pairs = head(step.model.features(images), images)
        loss = step.model(batch_of())["distillation"]
    assert {x.dtype for pair in pairs for x in pair} == {torch.bfloat16}
    assert loss.dtype == torch.float32


def test_a_compiled_head_is_one_graph_and_gives_the_same():
    torch.manual_seed(0)
    net, images = build_pretext(config_of()), batch_of()["anchor"].float() / 255
    maps = {key: x.detach() for key, x in net.features(images).items()}
    # Inductor takes half a minute for its first graph: all of torch.compile but that.
    compiled = torch.compile(net.distillation_head, backend="aot_eager", fullgraph=True)
    for pair, expected in zip(
        compiled(maps, images), net.distillation_head(maps, images), strict=True
    ):
        torch.testing.assert_close(pair, expected)
        assert [x.requires_grad for x in pair] == [True, False]


def test_a_run_that_goes_on_equals_a_straight_one(pretext_config, tmp_path):
    config = run_config(pretext_config) | dict(agr_head_cfg=AGR)
    changes = dict(build=build_pretext, num_epoch=1, batch_size=8)
    straight = train(config, **changes).state_dict()
    halted = moved(config, tmp_path / "halted")
    with pytest.raises(SystemExit, match="130"):
        train(halted, interrupt_at(2), **changes)
    resumed = train(halted, **changes).state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())
    entry = entries(config)[-1]
    assert entry["loss"] == pytest.approx(entry["agr"] + entry["distillation"], rel=1e-5)
    saved = checkpoints.read(tmp_path / "halted/latest.pth")
    assert not [key for key in saved["model"] if "teacher" in key or "stem" in key]
    assert len(saved["optimizer"]["state"]) == len(list(build_pretext(config).parameters()))


def test_the_card_names_the_teacher_its_file_and_its_licence(pretext_config, seg_config, tmp_path):
    """And so does that of a network that is fine-tuned from the student."""
    file = tmp_path / "teacher.pth"
    torch.save(build_pretext(config_of()).backbone.state_dict(), file)
    file.with_suffix(".json").write_text(json.dumps(dict(license="cc-by-4.0")))
    teacher = STUDENT | dict(pretrained=str(file))
    config = run_config(pretext_config, teacher=teacher)
    card = pretraining.open_pretraining(config)[0].card
    assert card["teacher"]["sha256"] == checkpoints.sha256(file)
    assert str(tmp_path) not in json.dumps(card["teacher"])
    assert teacher_of(card) == "test_resnet, weights teacher.pth, licence cc-by-4.0"
    assert teacher_of({"teacher": card["teacher"] | dict(license=None)}).endswith("unknown")
    student = tmp_path / "student.pth"
    torch.save(build_pretext(config).backbone.state_dict(), student)
    student.with_suffix(".json").write_text(json.dumps(card))
    seg_config |= dict(backbone_cfg=STUDENT | dict(pretrained=str(student)), decoder_cfg=PROBE)
    assert segmentation.open_finetuning(seg_config)[0].card["teacher"] == card["teacher"]
    elsewhere = (tmp_path / "elsewhere.pth", tmp_path / "elsewhere.json")
    for copy, part in zip(elsewhere, (file, file.with_suffix(".json")), strict=True):
        copy.write_bytes(part.read_bytes())
    config["distillation_head_cfg"]["teacher"] = teacher | dict(pretrained=str(elsewhere[0]))
    moved = pretraining.open_pretraining(config)[0].card
    compare_cards(card, moved, tmp_path / "latest.pth")
    config["distillation_head_cfg"]["teacher"] = teacher
    file.with_suffix(".json").unlink()
    torch.save({"model": checkpoints.read(file)}, file)
    changed = pretraining.open_pretraining(config)[0].card
    with pytest.raises(UserError, match=r"latest\.pth: .*teacher\.pretrained is another file"):
        compare_cards(card, changed, tmp_path / "latest.pth")
    random = changed["teacher"] | dict(sha256=None)
    other = changed | dict(config=run_config(pretext_config), teacher=random)
    with pytest.raises(UserError, match=r"teacher\.pretrained was .* and is now None"):
        compare_cards(changed, other, tmp_path / "latest.pth")


def test_first_weights_may_lie_elsewhere_where_a_run_goes_on(seg_config, tmp_path, monkeypatch):
    """Also under a relative path; another file is another run."""
    torch.manual_seed(0)
    latest, cards = tmp_path / "latest.pth", []
    (tmp_path / "moved").mkdir()
    for name in ("start.pth", "moved/start.pth", "other.pth"):
        if name != "moved/start.pth":
            torch.save(build_pretext(config_of()).backbone.state_dict(), tmp_path / name)
        else:
            (tmp_path / "start.pth").rename(tmp_path / name)
        seg_config |= dict(backbone_cfg=STUDENT | dict(pretrained=str(tmp_path / name)))
        opened = segmentation.open_finetuning(seg_config | dict(decoder_cfg=PROBE))
        cards.append(opened[0].card)
    monkeypatch.chdir(tmp_path)
    seg_config["backbone_cfg"]["pretrained"] = "moved/start.pth"
    cards.append(segmentation.open_finetuning(seg_config | dict(decoder_cfg=PROBE))[0].card)
    first, moved, other, relative = map(json_card, cards)
    compare_cards(first, moved, latest)
    compare_cards(first, relative, latest)
    with pytest.raises(UserError, match=r"backbone_cfg\.pretrained is another file than it was"):
        compare_cards(first, other, latest)
    random = first | dict(config=seg_config | dict(backbone_cfg=STUDENT), start_sha256=None)
    with pytest.raises(UserError, match=r"backbone_cfg\.pretrained was .* and is now None"):
        compare_cards(first, random, latest)


@pytest.mark.parametrize(
    ("bands", "head", "said"),
    [
        (5, {}, "teacher_bands: the images have 5 channels, and the teacher takes 3; give 3"),
        (3, dict(teacher_bands=(1, 2)), r"teacher_bands: \(1, 2\) of 3 channels"),
        (3, dict(teacher_bands=(0, 1, 2)), r"give 3 numbers from 1 to 3$"),
        (3, dict(teacher=TEACHER | dict(out_keys=("block4",))), "teacher: returns no block5"),
        (3, dict(teacher=dict(name="resnet81")), r"teacher\.name: unknown name 'resnet81'"),
        (3, dict(teacher=TEACHER | dict(pretrained="no.pth")), r"weights no\.pth: no such file"),
    ],
)
def test_a_teacher_that_cannot_be_is_one_line(bands, head, said):
    with pytest.raises(UserError, match=rf"distillation_head_cfg.*{said}"):
        build_pretext(config_of(bands, **head))


def test_a_student_without_the_maps_and_a_teacher_of_another_size_are_refused(pretext_config):
    config = config_of()
    config["backbone_cfg"]["out_keys"] = ("block2",)
    with pytest.raises(UserError, match=r"backbone_cfg: returns no block5.*name it in out_keys"):
        build_pretext(config)
    teacher = dict(name="timm", model="maxvit_pico_rw_256", img_size=64)
    with pytest.raises(UserError, match=r"teacher\.img_size=64: .* train_data\.img_size is 32"):
        pretraining.open_network(run_config(pretext_config, teacher=teacher))
