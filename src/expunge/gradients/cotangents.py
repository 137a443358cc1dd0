"""Cotangents of the logits: what is propagated back in place of the loss's own gradient.

Shapes: N targets of a batch, V vocabulary.
"""

from torch import Tensor


def noise_cotangent(logits: Tensor, noise: Tensor) -> Tensor:
    """c = sqrt(p)∘e - p (sqrt(p)' e), row by row, for `noise` e [N, V]; p [N, V] is the softmax of `logits`.

    For independent e of mean 0 and variance 1, cov(c) = diag(p) - pp' exactly: the Gauss-Newton matrix of softmax
    cross-entropy in the logits. Draw e fresh for each target: shared noise adds products between targets. Propagate c
    on the loss *summed* over targets; a mean over N would scale it.
    """
    p = logits.softmax(dim=1)
    shaped = p.sqrt() * noise
    return shaped - p * shaped.sum(dim=1, keepdim=True)
