"""Square tiles of images, each of which is coded as an image of its own."""

from __future__ import annotations

from torch import Tensor


def grid_of(images: Tensor, size: int) -> tuple[int, int]:
    """Rows and columns of tiles of `size` pixels a side in images (B, C, H, W); 0 leaves the images whole.

    Raises:
        ValueError: the tiles do not fill the image.
    """
    height, width = images.shape[2:]
    if not size:
        return 1, 1
    if height % size or width % size:
        raise ValueError(f"tiles of {size} pixels do not fill an image of {height} x {width}; change tile_size.")
    return height // size, width // size


def cut(images: Tensor, size: int) -> Tensor:
    """Square tiles (B * tiles, C, size, size), row by row, of (B, C, H, W); size 0 leaves the images whole."""
    if not size:
        return images
    batch, channels, height, width = images.shape
    tiles = images.reshape(batch, channels, height // size, size, width // size, size)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, size, size)


def join(tiles: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `cut`; (B * rows * columns, C, h, w) to (B, C, rows * h, columns * w)."""
    if grid == (1, 1):
        return tiles
    (rows, columns), (_, channels, height, width) = grid, tiles.shape
    images = tiles.reshape(-1, rows, columns, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return images.reshape(-1, channels, rows * height, columns * width)
