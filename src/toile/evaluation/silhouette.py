"""Where the article is on a plain background: its silhouette, the pieces it falls into, the edges it touches.

Shapes: N pictures, H x W their size.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from toile.errors import ToileError

# In 8-bit steps: what still counts as the backdrop. Studio grey is shaded, white is not.
WHITE_TOLERANCE = 8
GREY_TOLERANCE = 45
MOST_COLOUR = 18
DARKEST_BACKDROP = 120
# Pictures are brought to shape with white at their sides, which is no part of their frame.
MARGINS = (1, 3)
_LEAST_SPREAD = 0.02  # of areas, in shares of the picture, from the tenth to the ninetieth of a hundred pictures
_BATCH = 256  # what is looked at together; it changes no result


def silhouettes(pixels: Tensor) -> Tensor:
    """The pixels that are not backdrop: those that no path of white or backdrop colour joins to the picture's edge.

    White parts of an article count as long as something darker goes round them.

    Args:
        pixels: (N, H, W, 3) uint8.

    Returns:
        (N, H, W) bool.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ToileError(f"pixels must be uint8 (N, H, W, 3); got {pixels.dtype} {tuple(pixels.shape)}")
    if not len(pixels):
        return torch.zeros(pixels.shape[:3], dtype=torch.bool)
    return torch.cat([_silhouettes(part) for part in pixels.split(_BATCH)])


def _silhouettes(pixels: Tensor) -> Tensor:
    values = pixels.to(torch.int16)
    low, high = values.amin(dim=-1), values.amax(dim=-1)
    level = backdrop_levels(pixels).to(torch.int16)[:, None, None]
    # Of no colour, and about as bright as the corners: a studio's grey, with the shade that the article throws.
    grey = (level < 255 - WHITE_TOLERANCE) & (high - low <= MOST_COLOUR) & ((low - level).abs() <= GREY_TOLERANCE)
    plain = (low >= 255 - WHITE_TOLERANCE) | grey
    edge = torch.ones(plain.shape[1:], dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    return ~_spread((plain & edge).to(torch.int32), plain, diagonal=False).bool()


def backdrop_levels(pixels: Tensor) -> Tensor:
    """How bright it is behind the article, (N,) uint8: the median of the upper corners, where there is seldom anything.

    255, white, where the corners are coloured or too dark for a backdrop.

    Args:
        pixels: (N, H, W, 3) uint8.
    """
    height, width = pixels.shape[1:3]
    rows, columns = max(1, height // 8), max(1, width // 8)
    inset = min(MARGINS[1] - 1, (width - 1) // 2)
    corners = [pixels[:, :rows, inset : inset + columns], pixels[:, :rows, width - inset - columns : width - inset]]
    colours = torch.cat(corners, dim=2).flatten(1, 2).median(dim=1).values
    low, high = colours.amin(dim=1), colours.amax(dim=1)
    return torch.where((low >= DARKEST_BACKDROP) & (high - low <= MOST_COLOUR), low, 255).to(torch.uint8)


def label_components(mask: Tensor, diagonal: bool = True) -> Tensor:
    """Numbers the connected pieces of masks.

    Args:
        mask: (N, H, W) bool.
        diagonal: pixels that touch at a corner only belong together.

    Returns:
        (N, H, W) int32: 0 outside the mask, else 1 + the position in reading order of the piece's last pixel.
    """
    own = torch.arange(1, mask[:1].numel() + 1, dtype=torch.int32).view(mask[:1].shape)
    return _spread(own * mask, mask, diagonal)


def _spread(labels: Tensor, mask: Tensor, diagonal: bool) -> Tensor:
    """Each pixel of a piece takes the largest label in it: sweeps down, up, right and left until nothing changes.

    A sweep carries a label as far as it can go straight, so a few are enough where steps from neighbour to neighbour
    would be as many as the longest way through the piece.

    Args:
        labels: (N, H, W) int32, 0 or more.
        mask: (N, H, W) bool.
    """
    # Pictures last, so that one row or column of all of them lies together.
    spread, inside = (each.permute(1, 2, 0).contiguous() for each in (labels, mask.to(torch.int32)))
    height, width = inside.shape[:2]
    while True:
        before = spread.clone()
        for rows in (range(1, height), range(height - 2, -1, -1)):
            step = 1 if rows.step < 0 else -1
            for row in rows:
                source = spread[row + step]
                if diagonal:
                    wide = source.clone()
                    torch.maximum(wide[1:], source[:-1], out=wide[1:])
                    torch.maximum(wide[:-1], source[1:], out=wide[:-1])
                    source = wide
                spread[row] = torch.maximum(spread[row], source) * inside[row]
        for columns in (range(1, width), range(width - 2, -1, -1)):
            step = 1 if columns.step < 0 else -1
            for column in columns:
                spread[:, column] = torch.maximum(spread[:, column], spread[:, column + step]) * inside[:, column]
        if torch.equal(before, spread):
            return spread.permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class Shapes:
    """What silhouettes say of pictures.

    Attributes:
        area: (N,) float32, share of the picture that is not backdrop.
        pieces: (N, 3) float32, the three largest connected pieces as shares of the picture, largest first.
        beside: (N,) bool, the second largest piece stands beside the largest, as another article would, not above or
            below it, as trousers below a shirt that is as white as the backdrop.
        edges: (N, 4) float32, the share of the top, right, bottom and left edge that the silhouette touches.
    """

    area: Tensor
    pieces: Tensor
    beside: Tensor
    edges: Tensor

    @property
    def second_piece(self) -> Tensor:
        """(N,) the second largest piece as a share of the largest; 0 where there is none beside it."""
        return self.pieces[:, 1] / self.pieces[:, 0].clamp(min=torch.finfo(torch.float32).tiny) * self.beside

    @property
    def edge(self) -> Tensor:
        """(N,) the share of all four edges together that is touched, each edge counting alike."""
        return self.edges.mean(dim=1)


def shapes_of(pixels: Tensor) -> Shapes:
    """The shapes of pictures (N, H, W, 3) uint8, in memory that does not grow with N but for the result."""
    found = [measure_shapes(silhouettes(part)) for part in pixels.split(_BATCH)]
    names = [field.name for field in fields(Shapes)]
    return Shapes(*(torch.cat([getattr(shapes, name) for shapes in found]) for name in names))


def have_silhouettes(pixels: Tensor) -> bool:
    """Whether pictures (N, H, W, 3) uint8 show articles on a plain light backdrop, so that silhouettes say something.

    On any other all is silhouette, in every picture alike but for some odd ones.
    """
    low, high = shapes_of(pixels).area.quantile(torch.tensor([0.1, 0.9])).tolist()
    return high - low > _LEAST_SPREAD


def measure_shapes(masks: Tensor, margins: tuple[int, int] = MARGINS) -> Shapes:
    """Areas, pieces and touched edges of silhouettes.

    Args:
        masks: (N, H, W) bool, from `silhouettes`.
        margins: pixels from the upper and lower edge, and from the left and right one, that still count as the edge.
    """
    if not len(masks):
        return Shapes(torch.zeros(0), torch.zeros(0, 3), torch.zeros(0, dtype=torch.bool), torch.zeros(0, 4))
    pieces, beside = map(torch.cat, zip(*map(_largest_pieces, masks.split(_BATCH)), strict=True))
    down, across = margins
    edges = [
        masks[:, :down].any(dim=1),
        masks[:, :, -across:].any(dim=2),
        masks[:, -down:].any(dim=1),
        masks[:, :, :across].any(dim=2),
    ]
    touched = torch.stack([edge.float().mean(dim=1) for edge in edges], dim=1)
    return Shapes(masks.flatten(1).float().mean(dim=1), pieces, beside, touched)


def _largest_pieces(masks: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 3) shares of the picture, largest first, and (N,) whether the second stands beside the first."""
    labels = label_components(masks)
    flat = labels.flatten(1).long()
    areas = torch.zeros(len(flat), flat.shape[1] + 1).scatter_add_(1, flat, torch.ones(flat.shape))
    largest = areas[:, 1:].topk(3, dim=1)
    starts, ends = [], []
    for rank in (0, 1):
        columns = (labels == (largest.indices[:, rank] + 1)[:, None, None]).any(dim=1).int()
        starts.append(columns.argmax(dim=1))
        ends.append(columns.shape[1] - columns.flip(1).argmax(dim=1))
    shared = torch.minimum(*ends) - torch.maximum(*starts)
    narrower = torch.minimum(ends[0] - starts[0], ends[1] - starts[1])
    beside = (largest.values[:, 1] > 0) & (2 * shared < narrower)
    return largest.values / flat.shape[1], beside


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of silhouettes, pair by pair; 1 where both are empty.

    Args:
        first, second: (N, H, W) bool.

    Returns:
        (N,) float32 in [0, 1].
    """
    if first.shape != second.shape:
        raise ToileError(f"silhouettes {tuple(first.shape)} and {tuple(second.shape)} must have one shape")
    both, either = (first & second).flatten(1).sum(dim=1), (first | second).flatten(1).sum(dim=1)
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)
