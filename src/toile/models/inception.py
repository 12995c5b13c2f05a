"""InceptionV3 as the Frechet Inception distance uses it: weights that TensorFlow published in 2015, ported to torch.

Names of parameters are those of the file that mseitzer/pytorch-fid publishes (and of torchvision's `inception_v3`), so
it loads as it is. In three places this network differs from the one of the paper (Szegedy et al. 2016, "Rethinking the
Inception architecture", sec. 6): averages over 3x3 positions leave the padding out; the last block takes a maximum in
place of its average; there are 1,008 classes.

Checked here are the architecture (names, shapes, number of parameters, each kind of block against a second
formulation); that published weights give published distances can only be checked where that file is.
Shapes: B pictures, C channels, H x W positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.errors import ToileError

_EPS = 1e-3


@dataclass(frozen=True)
class InceptionConfig:
    """What is the same in every file: 1,008 classes, pictures of 299x299.

    Attributes:
        num_classes: of the last layer, which no distance uses.
        image_size: side of the pictures; at least 75.
    """

    num_classes: int = 1008
    image_size: int = 299

    def __post_init__(self) -> None:
        if self.num_classes < 1 or self.image_size < 75:
            raise ToileError(f"num_classes {self.num_classes} at least 1, image_size {self.image_size} at least 75")


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch normalisation by the statistics in the file, ReLU: (B, C, H, W) -> the same."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, out_dim, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_dim, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _row(in_dim: int, out_dim: int) -> ConvNormReLU:
    return ConvNormReLU(in_dim, out_dim, (1, 7), padding=(0, 3))


def _column(in_dim: int, out_dim: int) -> ConvNormReLU:
    return ConvNormReLU(in_dim, out_dim, (7, 1), padding=(3, 0))


def mean_pool(x: Tensor) -> Tensor:
    """Mean over 3x3 positions, of those that are inside the picture: (B, C, H, W) -> the same."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def max_pool(x: Tensor) -> Tensor:
    """Maximum over 3x3 positions: (B, C, H, W) -> the same."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


class InceptionA(nn.Module):
    """Four branches at 35x35: 1x1, 5x5, twice 3x3, and a mean: C -> 224 + `pool_dim`."""

    def __init__(self, dim: int, pool_dim: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNormReLU(dim, 64)
        self.branch5x5_1 = ConvNormReLU(dim, 48)
        self.branch5x5_2 = ConvNormReLU(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNormReLU(dim, 64)
        self.branch3x3dbl_2 = ConvNormReLU(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNormReLU(96, 96, 3, padding=1)
        self.branch_pool = ConvNormReLU(dim, pool_dim)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), wide, double, self.branch_pool(mean_pool(x))], dim=1)


class InceptionB(nn.Module):
    """From 35x35 to 17x17: C -> C + 480."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNormReLU(dim, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNormReLU(dim, 64)
        self.branch3x3dbl_2 = ConvNormReLU(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNormReLU(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], dim=1)


class InceptionC(nn.Module):
    """Four branches at 17x17, 7x7 in rows and columns: 768 -> 768.

    Args:
        dim: C.
        inner_dim: channels between the layers of a branch.
    """

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNormReLU(dim, 192)
        self.branch7x7_1 = ConvNormReLU(dim, inner_dim)
        self.branch7x7_2 = _row(inner_dim, inner_dim)
        self.branch7x7_3 = _column(inner_dim, 192)
        self.branch7x7dbl_1 = ConvNormReLU(dim, inner_dim)
        self.branch7x7dbl_2 = _column(inner_dim, inner_dim)
        self.branch7x7dbl_3 = _row(inner_dim, inner_dim)
        self.branch7x7dbl_4 = _column(inner_dim, inner_dim)
        self.branch7x7dbl_5 = _row(inner_dim, 192)
        self.branch_pool = ConvNormReLU(dim, 192)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(mean_pool(x))], dim=1)


class InceptionD(nn.Module):
    """From 17x17 to 8x8: C -> C + 512."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvNormReLU(dim, 192)
        self.branch3x3_2 = ConvNormReLU(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvNormReLU(dim, 192)
        self.branch7x7x3_2 = _row(192, 192)
        self.branch7x7x3_3 = _column(192, 192)
        self.branch7x7x3_4 = ConvNormReLU(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        branches = [self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(wide), F.max_pool2d(x, 3, stride=2)]
        return torch.cat(branches, dim=1)


class InceptionE(nn.Module):
    """Branches that end in a row beside a column, at 8x8: C -> 2,048.

    Args:
        dim: C.
        takes_maximum: the pooling branch; else the mean.
    """

    def __init__(self, dim: int, takes_maximum: bool) -> None:
        super().__init__()
        self.pool = max_pool if takes_maximum else mean_pool
        self.branch1x1 = ConvNormReLU(dim, 320)
        self.branch3x3_1 = ConvNormReLU(dim, 384)
        self.branch3x3_2a = ConvNormReLU(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvNormReLU(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvNormReLU(dim, 448)
        self.branch3x3dbl_2 = ConvNormReLU(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvNormReLU(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvNormReLU(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = ConvNormReLU(dim, 192)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(x)),
        ]
        return torch.cat(branches, dim=1)


class InceptionV3(nn.Module):
    """Pictures to the 2,048 features before the last layer (Heusel et al. 2017 take these)."""

    def __init__(self, config: InceptionConfig) -> None:
        super().__init__()
        self.config, self.feature_dim = config, 2048
        self.Conv2d_1a_3x3 = ConvNormReLU(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNormReLU(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNormReLU(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNormReLU(64, 80)
        self.Conv2d_4a_3x3 = ConvNormReLU(80, 192, 3)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280, takes_maximum=False)
        self.Mixed_7c = InceptionE(2048, takes_maximum=True)
        self.fc = nn.Linear(self.feature_dim, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], published scores: 299x299 -> (B, 2048), not negative."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean(dim=(2, 3))
