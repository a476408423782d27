"""The Frechet distance of drawn to real images: torchmetrics' value, and the same formula on weighted moments.

Source: Heusel et al. 2017, Eq. 6.
"""

from __future__ import annotations

from collections.abc import Callable

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
    """
    return distances_to(counts, generated, real.mean(axis=0), np.cov(real, rowvar=False))


def distances_to(
    counts: np.ndarray,
    generated: np.ndarray,
    mean: np.ndarray,
    covariance: np.ndarray,
    *,
    device: str = "cpu",
    advance: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """Frechet distance of resampled generated features to a Gaussian.

    The trace of sqrt(A B), with B the covariance of the generated features, is the sum of square roots of the
    eigenvalues of A B. These are those of the symmetric C^T B C, where A = C C^T; and where there are fewer rows than
    features, all but zeros are those of X A X^T, with B = X^T X.

    Args:
        counts: (R, N) how often each generated row is drawn.
        generated: (N, D) float64.
        mean: (D,) float64.
        covariance: (D, D) float64.
        device: where it is reckoned.
        advance: told of each resample that is done.

    Returns:
        (R,) distances.

    Source: Heusel et al. 2017, Eq. 6.
    """
    import torch

    sigma = torch.from_numpy(covariance).to(device)
    rows = torch.from_numpy(generated - mean).to(device)
    squares, few = (rows**2).sum(dim=1), len(rows) <= rows.shape[1]
    if few:
        products = rows @ sigma @ rows.T
    else:
        values, vectors = torch.linalg.eigh(sigma)
        products = rows @ (vectors * values.clamp(min=0).sqrt())
    distances = np.empty(len(counts))
    for place, weights in enumerate(torch.from_numpy(counts)):
        weight = weights.to(device)
        total = weight.sum()
        shift = weight @ rows / total
        trace = (weight @ squares - total * shift @ shift) / (total - 1)
        if few:
            middle = products @ weight / total
            centred = products - middle[:, None] - middle + weight @ middle / total
            product = weight.sqrt()[:, None] * centred * weight.sqrt() / (total - 1)
        else:
            middle = weight @ products / total
            product = ((products.T * weight) @ products - total * middle[:, None] * middle) / (total - 1)
        cross = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
        distances[place] = float(shift @ shift + trace + sigma.trace() - 2 * cross)
        advance(1)
    return distances
