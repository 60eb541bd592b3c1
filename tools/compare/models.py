"""The PyTorch twins of the engine's models, for torch 1.13, torchvision 0.14 and newer."""

from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional

IMAGE_SIZES = {
    "mnist_cnn": 28,
    "efficientnet_b0": 224,
    "efficientnet_b1": 240,
    "efficientnet_b2": 288,
    "efficientnet_b3": 300,
    "efficientnet_b4": 380,
    "efficientnet_b5": 456,
    "efficientnet_b6": 528,
    "efficientnet_b7": 600,
    "efficientnet_v2_s": 384,
    "efficientnet_v2_m": 480,
    "densenet121": 224,
    "densenet161": 224,
    "densenet169": 224,
    "densenet201": 224,
    "resnet18": 224,
    "resnet34": 224,
    "resnet50": 224,
    "resnet101": 224,
    "resnet152": 224,
    "mobilenet_v2": 224,
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The loss scaling of fp16 autocast, which older PyTorch has under torch.cuda.amp only.
GradScaler = (torch.amp if hasattr(torch.amp, "GradScaler") else torch.cuda.amp).GradScaler


class MnistCnn(nn.Module):
    """PyTorch's MNIST example without its last log_softmax: the loss is cross entropy."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.conv1(x))
        x = functional.relu(self.conv2(x))
        x = self.dropout1(functional.max_pool2d(x, 2))
        x = functional.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc2(self.dropout2(x))


def input_channels(name: str) -> int:
    return 1 if name == "mnist_cnn" else 3


HEAD_INITS = ("linear", "torchvision")  # as engine train's --head-init


def start_head(model: nn.Module) -> None:
    """Draws the last linear layer anew, as torch.nn.Linear does and as the engine does: weight and
    bias ±1/√inputs."""
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    bound = head.in_features**-0.5
    with torch.no_grad():
        head.weight.uniform_(-bound, bound)
        head.bias.uniform_(-bound, bound)


def build(
    name: str, classes: int, regularize: bool = True, head_init: str = "torchvision"
) -> nn.Module:
    """The model with random weights; without dropout and stochastic depth unless `regularize`.
    The head starts by torchvision's rule for the model, or as torch.nn.Linear ("linear")."""
    if name not in IMAGE_SIZES:
        raise SystemExit(f"model {name}: expected one of {', '.join(IMAGE_SIZES)}")
    model = (
        MnistCnn(classes)
        if name == "mnist_cnn"
        else getattr(torchvision.models, name)(weights=None, num_classes=classes)
    )
    if head_init == "linear":
        start_head(model)
    if not regularize:
        for module in model.modules():
            if isinstance(module, (nn.Dropout, torchvision.ops.StochasticDepth)):
                module.p = 0.0
    return model


def make_weights(name: str, path: Path, classes: int, pixels: np.ndarray) -> None:
    """Initial values with the statistics of these images, so that logits depend on every layer."""
    torch.manual_seed(0)
    model = build(name, classes, regularize=False).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches, of which there is one
    with torch.no_grad():
        model(torch.from_numpy(pixels))
    torch.save(model.state_dict(), path)


def load_weights(model: nn.Module, path: str) -> None:
    """Loads a .pth state dictionary whose names and shapes all match."""
    model.load_state_dict(torch.load(path, map_location="cpu"))


def head_classes(path: str) -> int:
    """The number of classes of a checkpoint: the rows of its last matrix."""
    state = torch.load(path, map_location="cpu")
    return [tensor for tensor in state.values() if tensor.dim() == 2][-1].shape[0]
