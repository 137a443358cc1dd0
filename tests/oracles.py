"""Dense oracles: what the fast forms must equal where they should be exact.

Shapes: b blocks, m gradients, K coordinates of a block, N targets of a batch, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.data.batches import Batch
from expunge.model.losses import target_ids


def token_nll(logits: Tensor, batch: Batch) -> Tensor:
    """Negative log-likelihood [N] of each target by its logits [N, V], in nats."""
    return F.cross_entropy(logits, target_ids(batch), reduction="none")


def rank_one_inverse(gradients: Tensor, damping: float) -> Tensor:
    """(damping I + G' G)^-1 [b, K, K] for G = `gradients` [b, m, K], one gradient at a time (WoodFisher)."""
    eye = torch.eye(gradients.shape[2], dtype=gradients.dtype, device=gradients.device)
    inverse = (eye / damping).repeat(len(gradients), 1, 1)
    for index in range(gradients.shape[1]):
        gradient = gradients[:, index]
        turned = torch.einsum("bkl,bl->bk", inverse, gradient)
        denominator = 1 + (gradient * turned).sum(dim=1)
        inverse -= turned[:, :, None] * turned[:, None, :] / denominator[:, None, None]
    return inverse


def dense_power(matrix: Tensor, exponent: float) -> Tensor:
    """A symmetric, positive definite matrix [K, K] to a power, by its eigenvectors."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**exponent) @ vectors.T
