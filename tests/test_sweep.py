"""Other people's networks, from end to end: pan, apply, train, compact.

Small variants of torchvision's and timm's networks, on inputs so large that every tap of a kernel
meets the image somewhere: on fewer pixels some taps see padding alone, and are not effective.
"""

import ast
import copy
import math
import re

import pytest
import timm
import torch
import torchvision
from timm import models as zoo
from timm.layers import GatedMlp, ScaledStdConv2d, StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn import functional

import lib
from lib.networks.inspection import prunable

SPARSITY = 0.7
TARGETS = torch.tensor([0, 1, 2, 0])
vision = torchvision.models


def at(size: int, build, *args, **settings):
    """How to build a network of three classes, and the size of its inputs."""
    return size, lambda: build(*args, num_classes=3, **settings)


def named(size: int, name: str, **settings):
    return at(size, timm.create_model, name, **settings)


def convnext(**settings) -> nn.Module:
    blocks = [vision.convnext.CNBlockConfig(*c, 1) for c in ((16, 32), (32, None))]
    return vision.ConvNeXt(blocks, **settings)


def efficientnet(**settings) -> nn.Module:
    blocks, _ = vision.efficientnet._efficientnet_conf(
        "efficientnet_b0", width_mult=0.3, depth_mult=0.5
    )
    return vision.EfficientNet(blocks, 0.2, last_channel=64, **settings)


SWIN = [[2, 2], 24, [1, 1], [2, 2], [4, 4]]
SWIN_V2 = {
    "block": vision.swin_transformer.SwinTransformerBlockV2,
    "downsample_layer": vision.swin_transformer.PatchMergingV2,
}
SMALL = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}  # of most transformers
MIXER = {"img_size": 32, "patch_size": 8, "num_blocks": 2, "embed_dim": 24}
NETWORKS = {
    "resnet": at(64, vision.ResNet, vision.resnet.BasicBlock, [1, 1, 1, 1]),
    "resnext": at(
        64, vision.ResNet, vision.resnet.Bottleneck, [1] * 4, groups=32, width_per_group=2
    ),
    "densenet": at(64, vision.DenseNet, 8, (2, 2, 2), 16),
    "mobilenet_v2": at(64, vision.mobilenet_v2, width_mult=0.35),
    "mobilenet_v3": at(96, vision.mobilenet_v3_small, width_mult=0.5),
    "mnasnet": at(96, vision.MNASNet, 0.35),
    "efficientnet": at(96, efficientnet),
    "shufflenet_v2": at(64, vision.shufflenet_v2_x0_5),
    "squeezenet": at(64, vision.squeezenet1_1),
    "regnet_y": at(64, vision.regnet_y_400mf),
    "googlenet": at(64, vision.googlenet, aux_logits=False, init_weights=False),
    "convnext": at(64, convnext),
    "swin": at(32, vision.SwinTransformer, *SWIN),
    "swin_v2": at(32, vision.SwinTransformer, *SWIN, **SWIN_V2),
    "vit": at(32, vision.VisionTransformer, 32, 8, 2, 2, 24, 48),
    "maxvit": at(64, vision.MaxVit, (64, 64), 16, 4, [16, 32], [1, 1], 8, 0.1),
    "mixer": at(32, zoo.MlpMixer, **MIXER),
    "resmlp": at(
        *(32, zoo.MlpMixer),
        **(MIXER | {"mlp_ratio": 4, "block_layer": zoo.mlp_mixer.ResBlock}),
        norm_layer=zoo.mlp_mixer.Affine,
    ),
    "gmlp": at(
        *(32, zoo.MlpMixer),
        **(MIXER | {"mlp_ratio": 6, "block_layer": zoo.mlp_mixer.SpatialGatingBlock}),
        mlp_layer=GatedMlp,
    ),
    "ghostnet": named(96, "ghostnet_050"),
    "repvgg": named(64, "repvgg_a0"),
    "res2net": named(64, "res2net50_14w_8s", layers=[1, 1, 1, 1]),
    "seresnet": named(64, "seresnet18", layers=[1, 1, 1, 1]),
    "sknet": named(64, "skresnet18", layers=[1, 1, 1, 1]),
    "lambda": named(160, "lambda_resnet26t"),
    "tinynet": named(96, "tinynet_e"),
    "starnet": named(128, "starnet_s1"),
    "hrnet": named(64, "hrnet_w18_small"),
    "cait": named(32, "cait_xxs24_224", patch_size=8, **SMALL),
    "xcit": named(32, "xcit_nano_12_p16_224", **SMALL),
    "coat": named(
        128, "coat_lite_tiny", img_size=128, embed_dims=[16, 16, 32, 32], serial_depths=[1, 1, 1, 2]
    ),
    "pit": named(64, "pit_ti_224", img_size=64, base_dims=[8] * 3, depth=[1] * 3, heads=[2] * 3),
    "levit": named(
        128,
        "levit_128s",
        img_size=128,
        embed_dim=(32, 48, 64),
        num_heads=(2, 3, 4),
        depth=(1, 1, 1),
        key_dim=8,
    ),
    "convit": named(32, "convit_tiny", patch_size=8, local_up_to_layer=1, **SMALL),
    "beit": named(32, "beit_base_patch16_224", **SMALL),
    "eva02": named(32, "eva02_tiny_patch14_224", patch_size=8, **SMALL),
    "poolformer": at(64, zoo.MetaFormer, depths=(1, 1), dims=(16, 32)),
    "mobilevit": named(96, "mobilevit_xxs"),
    "edgenext": named(96, "edgenext_xx_small", depths=(1, 1, 1, 1)),
    "efficientformer": at(224, zoo.EfficientFormer, (1, 1, 1, 2), (16, 16, 32, 32), num_vit=1),
    "nfnet": at(32, zoo.NormFreeNet, zoo.nfnet._nfres_cfg((1, 1))),
    "bit": at(32, zoo.ResNetV2, [1, 1], [128, 128]),
}
# The layers whose weights are read without a call of them, by the ends of their names.
STRAY = {"swin": "qkv proj", "swin_v2": "qkv proj", "beit": "qkv", "eva02": "qkv"}
SLOW = {"lambda", "hrnet"}
STANDARDISED = (StdConv2d, StdConv2dSame, ScaledStdConv2d)  # they compute their weights


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    size, make = NETWORKS[name]
    model = make()
    for weight in prunable(model, [n for n, m in model.named_modules() if unfit(m)]).values():
        if not weight.any():  # a head that is 0 makes a network that is dead already
            nn.init.trunc_normal_(weight, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.1  # three steps are to be seen in the running statistics
    return model, torch.randn(4, 3, size, size)


def unfit(module: nn.Module) -> bool:
    return isinstance(module, STANDARDISED)


def left_out(name: str, model: nn.Module, batches: list) -> list[str]:
    """The layers that the library names as such that cannot be pruned; it names the right ones."""
    computed = [n for n, module in model.named_modules() if unfit(module)]
    if computed:
        with pytest.raises(ValueError, match="computes another weight") as refusal:
            lib.pan(model, batches, SPARSITY, 1)
        names = ast.literal_eval(re.search(r"leave_out=(\[.*?\])", str(refusal.value))[1])
        assert names == computed
        return names
    if name in STRAY:
        with pytest.warns(UserWarning, match="without a call of the layer") as told:
            lib.pan(model, batches, SPARSITY, 1, method="magnitude")
        names = re.search("the weights of (.*) are read", str(told[0].message))[1].split(", ")
        ends = tuple(STRAY[name].split())
        expected = {n.rpartition(".")[0] for n in prunable(model) if n.split(".")[-2] in ends}
        assert set(names) <= expected
        assert {n.rpartition(".")[2] for n in names} == set(ends)
        return names
    return []


def train(model: nn.Module, inputs: Tensor) -> None:
    """Three steps of PyTorch's own loop."""
    optimiser = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    for _ in range(3):
        optimiser.zero_grad()
        loss = functional.cross_entropy(model.train()(inputs), TARGETS)
        assert loss.isfinite()
        loss.backward()
        optimiser.step()
    model.eval()


def close(found: Tensor, expected: Tensor) -> None:
    """Within float32: 1e-5 of the largest output."""
    assert expected.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NETWORKS],
)
def test_from_end_to_end(name: str, recwarn) -> None:
    model, inputs = build(name)
    batches, before = [(inputs, TARGETS)], copy.deepcopy(model.state_dict())
    leave_out = left_out(name, model, batches)

    whole = lib.pan(model, batches, 0.0, 1, method="magnitude", leave_out=leave_out)
    assert {n: int((~m).sum()) for n, m in whole.effective.items() if not m.all()} == {}
    recwarn.clear()
    result = lib.pan(model, batches, SPARSITY, 2, leave_out=leave_out)
    assert not [w for w in recwarn if "the weights of" in str(w.message)]  # said once, not again
    total = result.masks.flat.numel()
    assert result.masks.count == math.floor(total * (1 - SPARSITY) + 1e-6)
    assert not (result.effective.flat & ~result.masks.flat).any()
    assert result.effective.count > 0.5 * result.masks.count
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    # Besides, nothing reads every third channel, so that there is something to remove.
    unread = {key: mask.clone() for key, mask in result.effective.items()}
    for mask in unread.values():
        if mask.shape[1] > 3:
            mask[:, ::3] = False
    for masks in (result.effective, unread):
        pruned = lib.apply_masks(copy.deepcopy(model), masks)
        train(pruned, inputs)
        small = lib.compact(pruned, inputs)
        with torch.no_grad():
            close(small(inputs), pruned(inputs))
        for key, mask in masks.items():
            layer = pruned.get_submodule(key.rpartition(".")[0])
            assert not layer.weight[~mask].any()
            assert layer.weight_orig.grad is None or not layer.weight_orig.grad[~mask].any()
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        assert size(small) < size(pruned)  # others keep what stands in the last axis of tokens
