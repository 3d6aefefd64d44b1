"""The networks of the paper, by name.

LeNet-300-100, LeNet-5 (the 20-50-500 one of Caffe), VGG-11 to VGG-19 with batch normalisation and
the CIFAR ResNets of twice the usual width: the shapes that the authors' program uses.
"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.nn import functional

_VGG = {
    "vgg11": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512),
    "vgg13": (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512),
    "vgg16": (64, 64, "M", 128, 128, "M", *(256,) * 3, "M", *(512,) * 3, "M", *(512,) * 3),
    "vgg19": (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4),
}
_RESNET = {"resnet20": 3, "resnet32": 5}  # blocks a stage


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
    """VGG with batch normalisation, global pooling and one linear layer, for small images."""

    def __init__(self, plan: Iterable, in_channels: int, num_classes: int, scale: Callable):
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for entry in plan:
            if entry == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            width = scale(entry)
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
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


NETWORKS = ("lenet300", "lenet5", *_VGG, *_RESNET)


def build_model(
    name: str,
    in_channels: int = 1,
    num_classes: int = 10,
    width: float = 1.0,
    image_size: int = 28,
) -> nn.Module:
    """A fresh network, initialised from torch's global generator.

    Convolutions are drawn by Kaiming's rule with fan-out, linear layers from N(0, 0.01), biases
    are 0 and normalisations the identity, as in the authors' program.

    Args:
        name: One of `NETWORKS`.
        in_channels: Channels of the images.
        num_classes: Outputs.
        width: Factor on the width of every hidden layer.
        image_size: Height and width of the images; only the LeNets depend on it.

    Raises:
        ValueError: The name is unknown, or the width is not positive.
    """
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")

    def scale(channels: int) -> int:
        return max(1, round(channels * width))

    if name == "lenet300":
        model = LeNet300(in_channels, num_classes, scale, image_size)
    elif name == "lenet5":
        model = LeNet5(in_channels, num_classes, scale, image_size)
    elif name in _VGG:
        model = VGG(_VGG[name], in_channels, num_classes, scale)
    elif name in _RESNET:
        model = ResNet(_RESNET[name], in_channels, num_classes, scale)
    else:
        raise ValueError(f"name must be one of {', '.join(NETWORKS)}, got {name!r}")
    model.apply(_initialise)
    return model


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
