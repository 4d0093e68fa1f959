"""ResNets of basic blocks with any number of blocks and any width; torchvision has three of them."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

# Name -> number of blocks in each of the four stages.
BLOCKS = {
    "resnet10": (1, 1, 1, 1),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
}
# Number of channels of the first stage in torchvision's models; it doubles with each stage.
WIDTH = 64


class BasicResNet(ResNet):
    """ResNet of basic blocks, with torchvision's names of the layers, and its initial weights.

    Parameters
    ----------
    blocks : tuple of four ints
        Number of blocks in each stage.
    width : int
        Number of channels of the stem and the first stage; those of the last one, the features, are eight
        times as many.
    """

    def __init__(self, blocks: tuple[int, int, int, int], width: int):
        nn.Module.__init__(self)  # ResNet's own creates the layers, at the width of 64
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = width, 1, 1, 64
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for stage, n_blocks in enumerate(blocks):
            layer = self._make_layer(BasicBlock, width * 2**stage, n_blocks, stride=1 if stage == 0 else 2)
            setattr(self, f"layer{stage + 1}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
