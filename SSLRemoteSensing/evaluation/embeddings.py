"""What embeddings are like without labels: spread, effective rank, alignment, uniformity."""

import torch
import torch.nn.functional as F
from torch import Tensor


def spread(embeddings: Tensor) -> float:
    """Standard deviation of the normalized rows of (N, D) over the rows, times sqrt(D).

    1 where they point everywhere alike, 0 where all are the same. N is at least 2.
    """
    unit = F.normalize(embeddings.float(), dim=1)
    return float(unit.std(dim=0).mean()) * unit.shape[1] ** 0.5


def effective_rank(embeddings: Tensor) -> float:
    """exp(entropy of the singular values' shares of their sum) of the normalized rows of (N, D).

    1 where all rows are one direction, at most min(N, D). Roy and Vetterli, "The effective rank: a
    measure of effective dimensionality", EUSIPCO 2007. The rows' mean is not taken out.
    """
    values = torch.linalg.svdvals(F.normalize(embeddings.cpu().double(), dim=1))
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of the two views' normalized embeddings (N, D): 0 alike, 4 opposite.

    L_align with alpha = 2 of Wang and Isola, "Understanding contrastive representation learning
    through alignment and uniformity on the hypersphere", ICML 2020.
    """
    views = (F.normalize(view.cpu().double(), dim=1) for view in (first, second))
    return float((next(views) - next(views)).square().sum(1).mean())


def uniformity(embeddings: Tensor) -> float:
    """log of the mean of exp(-2 d^2), d the distances of all pairs of normalized rows of (N, D).

    0 where all are the same, lower where they are spread over the sphere. L_uniform with t = 2 of
    Wang and Isola. N is at least 2.
    """
    unit = F.normalize(embeddings.cpu().double(), dim=1)
    return float(F.pdist(unit).square().mul(-2).exp().mean().log())
