"""The Frechet distance of drawn to real images: torchmetrics' value, and the same formula on weighted moments.

Source: Heusel et al. 2017, Eq. 6.
"""

from __future__ import annotations

import numpy as np


def frechet_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """Frechet distance of generated to real features, (N, D) and (M, D) float64, by torchmetrics.

    Source: Heusel et al. 2017, Eq. 6.
    """
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    network = torch.nn.Identity()  # stands where torchmetrics has its network: what it is given are features already
    network.num_features = real.shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=network).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(generated), real=False)
    return float(metric.compute())


def frechet_distances(counts: np.ndarray, generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Frechet distance of resampled generated features to fixed real ones.

    Args:
        counts: (R, N) how often each generated row is drawn.
        generated: (N, D) float64.
        real: (M, D) float64.

    Returns:
        (R,) distances; a row of ones gives torchmetrics' value.

    Source: Heusel et al. 2017, Eq. 6. The trace of sqrt(A B) is that of the symmetric sqrt(A) B sqrt(A).
    """
    covariance = np.cov(real, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    distances = np.empty(len(counts))
    for row, weights in enumerate(counts):
        total = weights.sum()
        mean = weights @ generated / total
        centred = generated - mean
        own = (centred.T * weights) @ centred / (total - 1)
        cross = np.sqrt(np.linalg.eigvalsh(root @ own @ root).clip(min=0)).sum()
        shift = mean - real.mean(axis=0)
        distances[row] = shift @ shift + np.trace(own) + np.trace(covariance) - 2 * cross
    return distances
