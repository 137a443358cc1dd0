"""Label sources: what is back-propagated from the logits, always named, since each makes another matrix.

An example's loss is the *sum* of its targets' negative log-likelihoods. With p the model's distribution at a target,
the cotangent of that target's logits [V] is

- `data`: p - e_y for the label y of the data. Its outer products make the *empirical* Fisher, which on fitted text is
  far smaller than the Fisher, since p - e_y vanishes there.
- `sampled`: p - e_y with y drawn from p. Its covariance is diag(p) - p p', the Fisher; heavy-tailed where p is sure.
- `noise`: c = sqrt(p) * e - p (sqrt(p)' e), e standard normal, fresh for each target. The covariance is diag(p) - p p'
  exactly, with no rare events: the Gauss-Newton matrix of softmax cross-entropy. Our choice where nothing is said.
- `exact`: all V cotangents sqrt(p_v) (e_v - p), one at a time; their outer products sum to diag(p) - p p'. One backward
  pass for each place of a target in its row and each entry of the vocabulary: for tiny models and oracles.

A mean over T targets in place of the sum scales the loss by 1/T: the gradients (`data`, `sampled`) by 1/T, the
Gauss-Newton matrix by 1/T too, and so the noise and exact cotangents by 1/sqrt(T).

Shapes: N targets of a batch, V vocabulary.
"""

from typing import Literal

import torch
from torch import Tensor

Labels = Literal["noise", "sampled", "data", "exact"]


def noise_cotangent(logits: Tensor, noise: Tensor, out: Tensor | None = None) -> Tensor:
    """sqrt(p) * e - p (sqrt(p)' e) [N, V] for the distributions p of `logits` [N, V] and `noise` e [N, V]."""
    p = logits.softmax(dim=1)
    root = p.sqrt().mul_(noise)
    return torch.addcmul(root, p, root.sum(dim=1, keepdim=True), value=-1, out=out)


def turn_into_noise_cotangent(logits: Tensor, seed: int, keys: list[tuple[int, int]]) -> Tensor:
    """Overwrites `logits` [N, V] by their noise cotangents, keyed as `keyed_noise`, window by window.

    So nothing else is [N, V]. For logits that no backward pass looks at again, as those of `target_logits`.
    """
    for key, part in zip(keys, logits.split([count for _, count in keys]), strict=True):
        noise = keyed_noise(seed, [key], logits.shape[1], logits.device)
        noise_cotangent(part, noise.to(logits.dtype), out=part)
    return logits


def turn_into_label_cotangent(logits: Tensor, labels: Tensor, keys: list[tuple[int, int]]) -> Tensor:
    """Overwrites `logits` [N, V] by p - e_y, the gradient of the summed negative log-likelihood of `labels` [N]."""
    counts = [count for _, count in keys]
    for part, own in zip(logits.split(counts), labels.split(counts), strict=True):
        part.sub_(part.amax(dim=1, keepdim=True)).exp_()
        part.div_(part.sum(dim=1, keepdim=True))
        part[torch.arange(len(own), device=own.device), own] -= 1
    return logits


def exact_cotangent(logits: Tensor, chosen: Tensor, entry: int) -> Tensor:
    """sqrt(p_v) (e_v - p) [N, V] for v = `entry` at the `chosen` [N] targets, zero at the others."""
    p = logits.softmax(dim=1)
    away = -p
    away[:, entry] += 1
    return torch.where(chosen[:, None], p[:, entry : entry + 1].sqrt() * away, 0.0)


def keyed_noise(seed: int, keys: list[tuple[int, int]], vocabulary: int, device: torch.device) -> Tensor:
    """Standard normal noise [sum of counts, V] for windows given as (key, count), each from a generator of its own.

    So a window's noise does not depend on what else is in its batch, nor on how many processes share the windows.
    """
    generator = torch.Generator(device=device)
    parts = []
    for key, count in keys:
        generator.manual_seed(mixed(seed, key))
        parts.append(torch.randn(count, vocabulary, generator=generator, device=device))
    return torch.cat(parts)


def sampled_labels(logits: Tensor, seed: int, keys: list[tuple[int, int]]) -> Tensor:
    """Labels [N] drawn from the distributions of `logits` [N, V], keyed as `keyed_noise`."""
    generator = torch.Generator(device=logits.device)
    parts = []
    for (key, _), part in zip(keys, logits.split([count for _, count in keys]), strict=True):
        generator.manual_seed(mixed(seed, key))
        parts.append(torch.multinomial(part.softmax(dim=1), 1, generator=generator)[:, 0])
    return torch.cat(parts)


def mixed(seed: int, key: int) -> int:
    """One seed from two numbers: neighbouring pairs give unrelated generators (SplitMix64's finaliser)."""
    value = (seed * 0x9E3779B97F4A7C15 + key * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (value ^ (value >> 31)) & 0x7FFFFFFFFFFFFFFF
