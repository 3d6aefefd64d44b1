"""Networks by name: those of the paper, and those of torchvision and timm.

LeNet-300-100, LeNet-5 (the 20-50-500 one of Caffe), VGG-11 to VGG-19 with batch normalisation and
the CIFAR ResNets of twice the usual width: the shapes that the authors' program uses.
`torchvision:NAME` and `timm:NAME` are built by those packages, fresh.
"""

from collections.abc import Callable, Iterable
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn import functional

_VGG = {
    "vgg11": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512),
    "vgg13": (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512),
    "vgg16": (64, 64, "M", 128, 128, "M", *(256,) * 3, "M", *(512,) * 3, "M", *(512,) * 3),
    "vgg19": (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4),
}
_RESNET = {f"resnet{6 * n + 2}": n for n in (3, 5, 7, 9, 18)}  # blocks a stage


class LeNet300(nn.Module):
    """LeNet-300-100: two hidden layers on the flattened image."""

    def __init__(self, in_channels: int, num_classes: int, scale: Callable, image_size: int = 28):
        super().__init__()
        first, second = scale(300), scale(100)
        self.fc1 = nn.Linear(in_channels * image_size**2, first)
        self.fc2 = nn.Linear(first, second)
        self.fc3 = nn.Linear(second, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width)."""
        x = functional.relu(self.fc1(x.flatten(1)))
        return self.fc3(functional.relu(self.fc2(x)))


class LeNet5(nn.Module):
    """LeNet-5 as in Caffe, with rectified convolutions: 430,500 prunable weights on MNIST."""

    def __init__(self, in_channels: int, num_classes: int, scale: Callable, image_size: int = 28):
        super().__init__()
        first, second, hidden = scale(20), scale(50), scale(500)
        side = ((image_size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.fc1 = nn.Linear(second * side**2, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width)."""
        # ReLU after the max-pooling gives the same as before it, at a quarter of the cost.
        x = functional.relu(functional.max_pool2d(self.conv1(x), 2))
        x = functional.relu(functional.max_pool2d(self.conv2(x), 2))
        return self.fc2(functional.relu(self.fc1(x.flatten(1))))


class VGG(nn.Module):
    """VGG with global pooling and one linear layer, for small images."""

    def __init__(
        self, plan: Iterable, in_channels: int, num_classes: int, scale: Callable, normalised: bool
    ):
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for entry in plan:
            if entry == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            width = scale(entry)
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=not normalised)
            norm = [nn.BatchNorm2d(width)] if normalised else []
            layers += [conv, *norm, nn.ReLU(inplace=True)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width)."""
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(x.flatten(1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            conv = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, (batch, channels, height / stride, width / stride)."""
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """The CIFAR ResNet of 6n + 2 layers, at widths 32, 64 and 128."""

    def __init__(self, blocks: int, in_channels: int, num_classes: int, scale: Callable):
        super().__init__()
        widths = [scale(width) for width in (32, 64, 128)]
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        channels, stages = widths[0], []
        for index, width in enumerate(widths):
            strides = [1 if index == 0 else 2] + [1] * (blocks - 1)
            stage = []
            for stride in strides:
                stage.append(BasicBlock(channels, width, stride))
                channels = width
            stages.append(nn.Sequential(*stage))
        self.layers = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width)."""
        x = self.layers(functional.relu(self.bn1(self.conv1(x))))
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


NETWORKS = ("lenet300", "lenet5", *_VGG, *(f"{name}_plain" for name in _VGG), *_RESNET)
PACKAGES = ("torchvision", "timm")


def build_model(
    name: str,
    in_channels: int = 1,
    num_classes: int = 10,
    width: float = 1.0,
    image_size: int = 28,
) -> nn.Module:
    """A fresh network, initialised from torch's global generator.

    In the networks of this library convolutions are drawn by Kaiming's rule with fan-out, linear
    layers from N(0, 0.01), biases are 0 and normalisations the identity, as in the authors'
    program. Those of a package are drawn by its own rules; where torchvision's first convolution
    had to be made for other than three channels, by PyTorch's.

    Args:
        name: One of `NETWORKS` (`vgg16` has batch normalisation and may be called `vgg16_bn`, too;
            `vgg16_plain` has none), `torchvision:NAME` or `timm:NAME`.
        in_channels: Channels of the images.
        num_classes: Outputs.
        width: Factor on the width of every hidden layer; 1 for networks of a package.
        image_size: Height and width of the images; only the LeNets and some transformers depend on
            it.

    Raises:
        ValueError: The name is unknown, the width is not positive, timm is not installed, or the
            package has no such network for such images.
    """
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    package, colon, theirs = name.partition(":")
    if colon:
        if package not in PACKAGES:
            raise ValueError(
                f"name must begin with torchvision: or timm:, or be a plain name; got {name!r}"
            )
        if width != 1:
            raise ValueError(f"width: {name!r} has the width its package gives it; leave it at 1")
        build = _from_torchvision if package == "torchvision" else _from_timm
        model = build(theirs, in_channels, num_classes, image_size)
        _try_out(model, name, in_channels, image_size)
        return model

    def scale(channels: int) -> int:
        return max(1, round(channels * width))

    vgg = name.removesuffix("_bn").removesuffix("_plain")
    if name == "lenet300":
        model = LeNet300(in_channels, num_classes, scale, image_size)
    elif name == "lenet5":
        model = LeNet5(in_channels, num_classes, scale, image_size)
    elif vgg in _VGG and name in (vgg, f"{vgg}_bn", f"{vgg}_plain"):
        normalised = not name.endswith("_plain")
        model = VGG(_VGG[vgg], in_channels, num_classes, scale, normalised)
    elif name in _RESNET:
        model = ResNet(_RESNET[name], in_channels, num_classes, scale)
    else:
        raise ValueError(
            f"name must be one of {', '.join(NETWORKS)}, torchvision:NAME or timm:NAME, "
            f"got {name!r}"
        )
    model.apply(_initialise)
    return model


def _known(name: str, package: str, names: Iterable[str], how: str) -> None:
    """A ValueError that lists similar names unless a package knows this one."""
    names = list(names)
    if name not in names:
        near = get_close_matches(name, names, n=5) or names[:5]
        raise ValueError(
            f"name: {package} has no classification network {name!r}; similar ones are "
            f"{', '.join(near)}; {how} lists all"
        )


@torch.no_grad()
def _try_out(model: nn.Module, name: str, in_channels: int, image_size: int) -> None:
    """A ValueError unless the network takes an image: small ones shrink to nothing in some."""
    image = next(model.parameters()).new_zeros(1, in_channels, image_size, image_size)
    try:
        model.eval()(image)
    except Exception as error:
        raise ValueError(
            f"name: {name!r} does not take images of {image_size}x{image_size}: {error}; "
            "choose another network or data set"
        ) from error
    model.train()


def _made(builder: Callable, what: str, image_size: int, forms: Iterable[dict]) -> nn.Module:
    """A network by the first of several forms of arguments that its builder takes."""
    *others, last = forms
    try:
        for arguments in others:
            try:
                return builder(**arguments)
            except TypeError as error:
                if "unexpected keyword" not in str(error):
                    raise
        return builder(**last)
    except Exception as error:  # torch._assert, wrong shapes and unknown options raise their own
        raise ValueError(
            f"name: {what} cannot be built for images of {image_size}x{image_size}: {error}"
        ) from error


def _from_torchvision(name: str, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """One of torchvision's classification networks."""
    from torchvision import models

    how = "torchvision.models.list_models(module=torchvision.models)"
    _known(name, "torchvision", models.list_models(module=models), how)
    base = {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):  # their auxiliary outputs are for training alone
        base |= {"aux_logits": False, "init_weights": True}
    sized = ({"image_size": image_size}, {"input_size": (image_size, image_size)}, {})
    builder = models.get_model_builder(name)
    what = f"torchvision's {name}"
    model = _made(builder, what, image_size, [base | size for size in sized])
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    if first.in_channels != in_channels:
        first.in_channels = in_channels
        first.weight = nn.Parameter(
            first.weight.new_empty(first.out_channels, in_channels, *first.kernel_size)
        )
        first.reset_parameters()
    return model


def _from_timm(name: str, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """One of timm's networks."""
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"name: 'timm:{name}' needs the package timm: pip install timm") from error
    architecture = name.partition(".")[0]  # what follows names pretrained weights
    _known(architecture, "timm", timm.list_models(), "timm.list_models()")
    if architecture != name:
        raise ValueError(
            f"name: 'timm:{name}' names weights, and networks are fresh here; "
            f"write 'timm:{architecture}'"
        )
    base = {"model_name": name, "num_classes": num_classes, "in_chans": in_channels}
    forms = [base | {"img_size": image_size}, base]
    return _made(timm.create_model, f"timm's {name}", image_size, forms)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
