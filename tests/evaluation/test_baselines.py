"""What a backbone can be pre-trained by: each of the seven sets of tasks, ready to fine-tune."""

from itertools import chain, combinations

import pytest
import torch

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.models.pretext import build_pretext
from SSLRemoteSensing.models.segmentation import build_segmentation
from SSLRemoteSensing.workflows.pretraining import check_pretext

HEADS = {
    "inpainting": "inpainting_head_cfg",
    "agr": "agr_head_cfg",
    "exemplar": "examplar_head_cfg",
}
SUBSETS = list(chain.from_iterable(combinations(HEADS, count) for count in (1, 2, 3)))


@pytest.mark.parametrize("tasks", SUBSETS, ids="+".join)
def test_each_set_of_tasks_trains_a_backbone_that_fine_tunes(
    pretext_config, seg_config, tmp_path, tasks
):
    """A head that is None is not trained: the published ablation, a config key a task."""
    for task, key in HEADS.items():
        if task not in tasks:
            pretext_config[key] = None
    check_pretext(pretext_config)
    torch.manual_seed(0)
    net = build_pretext(pretext_config)
    before = {key: value.clone() for key, value in net.backbone.state_dict().items()}
    images = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8)
    batch = dict(zip(("occluded", "anchor", "transformed"), images, strict=True))
    losses = net(batch | {"transform_label": torch.tensor([0, 1, 2, 3])})
    assert set(losses) == set(tasks)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sum(losses.values()).backward()
    optimizer.step()
    after = net.backbone.state_dict()
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])
    checkpoints.export_backbone(tmp_path, after, net.backbone.card())
    seg_config["backbone_cfg"]["pretrained"] = str(tmp_path / "backbone.pth")
    loaded = build_segmentation(seg_config).backbone.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in after.items())
