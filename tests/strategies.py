"""What property tests draw from."""

import math

from hypothesis import strategies as st
from torch import nn


@st.composite
def networks(draw) -> nn.Module:
    """A small network for images (2, 6, 6) in three classes: convolutional, or a perceptron."""
    width = st.integers(1, 5)
    layers: list[nn.Module] = []
    channels, side = 2, 6
    for _ in range(draw(st.integers(0, 3))):
        out = draw(width)
        groups = draw(st.sampled_from([1, math.gcd(channels, out)]))
        kind = draw(st.sampled_from([nn.Conv2d, nn.Conv2d, nn.ConvTranspose2d]))
        layers.append(kind(channels, out, 3, padding=1, groups=groups, bias=draw(st.booleans())))
        layers += [nn.BatchNorm2d(out)] * draw(st.integers(0, 1))
        layers.append(draw(st.sampled_from([nn.ReLU(inplace=True), nn.Tanh(), nn.Identity()])))
        if side > 1 and draw(st.booleans()):
            layers.append(draw(st.sampled_from([nn.MaxPool2d(2), nn.AvgPool2d(2)])))
            side //= 2
        channels = out
    layers.append(nn.Flatten())
    features = channels * side**2
    for _ in range(draw(st.integers(0, 2))):
        out = draw(width)
        layers += [nn.Linear(features, out, bias=draw(st.booleans())), nn.ELU()]
        features = out
    return nn.Sequential(*layers, nn.Linear(features, 3))
