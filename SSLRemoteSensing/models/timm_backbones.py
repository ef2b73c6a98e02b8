"""Networks of timm as backbones: the maps of hierarchical ones, of plain ViTs a simple pyramid.

timm is imported when one of them is built. The weights keep timm's names.
"""

import sys
from collections.abc import Collection, Sequence

from torch import Tensor, nn

from SSLRemoteSensing.core.errors import MissingWeights, UserError
from SSLRemoteSensing.models.backbones import BLOCKS, Backbone
from SSLRemoteSensing.models.tiny_maps import quicken

NAME = "timm"  # of all of them in a config and a card
STRIDES = dict(zip((2, 4, 8, 16, 32), BLOCKS, strict=True))
PATCH = 16  # side of a plain ViT's patches; others' are resampled to it


class TimmBackbone(Backbone):
    """A network of timm as a pyramid; of maps of one stride the last counts.

    A plain ViT has one stride, and gets the simple feature pyramid of ViTDet (Li et al., ECCV 2022,
    section 3), of the maps after each quarter of its depth as in BEiT's and MAE's segmentation:
    block3 and block4 enlarged by transposed convolutions to 1/4 and 1/8, block5 as it is, block6
    halved by a max-pool. Its patches are of 16 pixels, and position embeddings are resampled to
    the image's size where timm can.

    `forward(images)` as of `Backbone`; most networks have no `block2`, the map of 1/2.

    Args:
        model: a name of `timm.list_models()`.
        img_size: side of all images, in pixels, for a network that takes one size alone; None: any
            size, or timm's.
        weights: load those of timm, from its cache or the network.

    Attributes:
        options: what `timm.create_model` was given besides name, bands and weights.
    """

    def __init__(
        self,
        model: str,
        in_channels: int = 3,
        out_keys: Sequence[str] = BLOCKS,
        img_size: int | None = None,
        weights: bool = False,
    ):
        super().__init__(f"{model} of timm", in_channels, BLOCKS)
        self.model = model
        net, self.fixed_size, self.options = create(model, in_channels, img_size, weights)
        config = net.pretrained_cfg
        self.first_convolution = f"{config.get('first_conv')}.weight"
        self.own_normalization = [list(config[key]) for key in ("mean", "std")]
        self.licence = config.get("license")  # of timm's weights
        strides = [info["reduction"] for info in net.feature_info]
        self.pyramid = nn.ModuleDict()
        if len(set(strides)) == 1:
            depth = len(strides)
            self.indices = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
            dim = net.feature_info[-1]["num_chs"]
            self.pyramid = simple_pyramid(dim)
            channels = dict(zip(BLOCKS[1:], (dim // 4, dim // 2, dim, dim), strict=True))
        else:
            places = {STRIDES[n]: index for index, n in enumerate(strides) if n in STRIDES}
            if list(places)[-1:] != ["block6"]:
                raise UserError(
                    f"model={model!r}: its maps have strides {', '.join(map(str, strides))}, and "
                    f"none of 32 that comes last; take another"
                )
            self.indices = list(places.values())
            numbers = [net.feature_info[index]["num_chs"] for index in self.indices]
            channels = dict(zip(places, numbers, strict=True))
        self.channels = channels
        # What only a classifier needs would never have a gradient.
        self.indices = net.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        quicken(net)
        self.net = net
        unknown = [key for key in out_keys if key not in channels]
        if unknown and tuple(out_keys) != BLOCKS:  # the default asks for what there is
            raise UserError(
                f"out_keys: {unknown[0]!r} is no map of {model}, which has {', '.join(channels)}"
            )
        self.out_keys = tuple(key for key in out_keys if key in channels)
        # The names in a file are timm's.
        self.register_state_dict_post_hook(drop_net)
        self.register_load_state_dict_pre_hook(add_net)

    def converted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """`state` in another layout or for another size of image or patch, as timm converts it."""
        convert = getattr(sys.modules[type(self.net).__module__], "checkpoint_filter_fn", None)
        if convert is None:
            return state
        try:
            return convert(dict(state), self.net)
        except (KeyError, RuntimeError, ValueError, AttributeError, TypeError, IndexError):
            return state  # of quite another network, which is told by what is missing

    def card(self) -> dict:
        size = self.options.get("img_size")  # not of one that takes any
        return super().card() | {"name": NAME, "model": self.model, "img_size": size}

    def dilate(self, output_stride: int) -> None:
        if output_stride != self.output_stride:
            raise UserError(
                f"backbone_cfg.model={self.model!r}: its maps are no finer than 1/32, and this "
                f"decoder wants 1/{output_stride}; take Decoder, Unet, FPN or UPerNet"
            )

    def learn(self, maps: Collection[str]) -> list[str]:
        super().learn(maps)
        unread = [key for key in self.pyramid if key not in maps]
        for key in unread:
            self.pyramid[key].requires_grad_(False)
        return unread

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        side = self.fixed_size
        if side and (height, width) != (side, side):
            raise UserError(
                f"images of {width} x {height} pixels: {self.model} takes {side} x {side} alone; "
                f"give it those, or set backbone_cfg.img_size to the side of all images before it "
                f"is trained"
            )
        maps = self.net.forward_intermediates(
            self.normalize(images), indices=self.indices, intermediates_only=True
        )
        maps = self.keep(dict(zip(self.channels, maps, strict=True)))
        return {key: self.pyramid[key](x) for key, x in maps.items()} if self.pyramid else maps


def create(
    model: str, in_channels: int, img_size: int | None, weights: bool
) -> tuple[nn.Module, int | None, dict]:
    """timm's network without a classifier, the side of the images where that is fixed, and the
    options that it was built with."""
    try:
        import timm
    except ImportError as error:
        raise UserError("backbone_cfg.name='timm': needs timm; run: pip install timm") from error
    if not timm.is_model(model):
        near = timm.list_models(f"*{model.split('_')[0]}*")[:5] or timm.list_models()[:5]
        raise UserError(f"model={model!r}: timm {timm.__version__} has {', '.join(near)}, ...")

    def build(**options) -> nn.Module:
        return timm.create_model(
            model, num_classes=0, in_chans=in_channels, pretrained=weights, **options
        )

    config = timm.get_pretrained_cfg(model)
    options, fixed_size = {}, None
    try:
        if not config.fixed_input_size:
            net = build()
        else:
            try:  # position embeddings resampled as they are needed
                options = {"dynamic_img_size": True}
                net = build(**options)
            except TypeError:  # it has no such argument
                fixed_size = img_size or config.input_size[1]
                options = {} if img_size is None else {"img_size": img_size}
                net = build(**options)
        patches = {info["reduction"] for info in net.feature_info}
        if len(patches) == 1 and patches != {PATCH}:
            options["patch_size"] = PATCH
            net = build(**options)
    except (OSError, RuntimeError) as error:
        if not weights:
            raise
        raise MissingWeights(
            f"pretrained=True: timm's weights of {model} cannot be had ({error}); pass a file, or "
            f"pretrained=False for random weights"
        ) from error
    if not hasattr(net, "forward_intermediates"):
        raise UserError(f"model={model!r}: timm gives no maps of it; take another")
    return net, fixed_size, options


def simple_pyramid(dim: int) -> nn.ModuleDict:
    """Of four maps (N, dim, H/16, W/16) those of 1/4, 1/8, 1/16 and 1/32."""

    def double(before: int) -> nn.ConvTranspose2d:
        return nn.ConvTranspose2d(before, before // 2, kernel_size=2, stride=2)

    quarter = [double(dim), ChannelNorm(dim // 2), nn.GELU(), double(dim // 2)]
    pyramid = {
        "block3": [*quarter, ChannelNorm(dim // 4)],
        "block4": [double(dim), ChannelNorm(dim // 2)],
        "block5": [ChannelNorm(dim)],
        "block6": [nn.MaxPool2d(2), ChannelNorm(dim)],
    }
    return nn.ModuleDict({key: nn.Sequential(*layers) for key, layers in pyramid.items()})


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def drop_net(module: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}net.")]:
        state[prefix + key.removeprefix(f"{prefix}net.")] = state.pop(key)


def add_net(module: nn.Module, state: dict, prefix: str, *others) -> None:
    for name in module.net.state_dict():
        if f"{prefix}{name}" in state:
            state[f"{prefix}net.{name}"] = state.pop(f"{prefix}{name}")
