"""LeNet-5."""

from __future__ import annotations

from .. import nn


def lenet5(classes: int = 10, rng: nn.init.Rng = None) -> nn.Sequential:
    """LeNet-5 for one-channel 28x28 images, as it is taught: 61,706 parameters for 10 classes.

    Two 5x5 convolutions (6 and 16 filters), each with a 2x2 pooling, then 400 -> 120 -> 84 -> classes. It differs
    from the paper in what later work found better: ReLU for tanh, max pooling for trained subsampling, all
    channels of the second convolution connected, a plain linear output for `nn.CrossEntropyLoss`.

    Args:
        classes: number of outputs.
        rng: draws the weights (He normal, which suits ReLU): a Generator, an int seed, or None for others every time.

    Returns:
        A Sequential: x (N, 1, 28, 28) -> outputs (N, classes).

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998.
    """
    layers = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
    return layers.initialize(rng, weight=nn.init.kaiming_normal)
