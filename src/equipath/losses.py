"""What networks are trained to lower: soft Dice, Dice + cross-entropy, and the loss of SEUNet's scale heads.

Logits are (B, K, H, W): K classes for a softmax, or K = 1 for a sigmoid. Targets are class indices (B, H,
W), or a mask (B, H, W) or (B, 1, H, W) of 0 and 1 when K = 1. Pixels of which nothing is known have the label
-100, torch's own default and that of ``equipath.data``; they count nowhere.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _checked(logits: Tensor, target: Tensor) -> Tensor:
    """The target as (B, H, W), or a sentence about what does not fit."""
    if logits.dim() != 4:
        raise ValueError(f"logits are (B, K, H, W); got {tuple(logits.shape)}")
    if target.dim() == 4 and target.shape[1] == 1:
        target = target[:, 0]
    if target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"logits {tuple(logits.shape)} want a target of shape {(logits.shape[0], *logits.shape[2:])}; "
            f"got {tuple(target.shape)}"
        )
    return target


def _one_hot(target: Tensor, classes: int, keep: Tensor, dtype: torch.dtype) -> Tensor:
    if classes == 1:
        return target[:, None].to(dtype)
    index = torch.where(keep[:, 0], target, 0).long()
    return F.one_hot(index, classes).movedim(-1, 1).to(dtype)


def _wide(logits: Tensor) -> Tensor:
    """Float32 at least, also under autocast: what follows are sums over many pixels."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    smooth: float = 1.0,
    per_image: bool = False,
    ignore_index: int = -100,
) -> Tensor:
    """One minus the soft Dice coefficient, averaged over classes: from 0 (perfect) towards 1 (wrong).

    Milletari et al. 2016, with probabilities in place of masks: ``1 - (2 Σ p t + s) / (Σ p + Σ t + s)``.

    Args:
        logits: (B, K, H, W), before softmax (K > 1) or sigmoid (K = 1).
        target: (B, H, W) class indices, or a mask of 0 and 1 when K = 1.
        smooth: s, in pixels; keeps classes that are absent from the batch from dividing by zero.
        per_image: one Dice coefficient a picture, then their mean, in place of one over the whole batch.
        ignore_index: pixels with this label count nowhere.
    """
    target = _checked(logits, target)
    classes = logits.shape[1]
    keep = (target.long() != ignore_index)[:, None]  # a byte never equals -100, but torch says that 156 does
    logits = _wide(logits)
    p = (torch.sigmoid(logits) if classes == 1 else torch.softmax(logits, 1)) * keep
    t = _one_hot(target, classes, keep, p.dtype) * keep
    over = (2, 3) if per_image else (0, 2, 3)
    overlap, total = (p * t).sum(over), (p + t).sum(over)
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def dice_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    dice_weight: float = 1.0,
    class_weights: Tensor | None = None,
    smooth: float = 1.0,
    ignore_index: int = -100,
) -> Tensor:
    """``cross_entropy + dice_weight · dice_loss``: the loss of the course's segmentation networks.

    Cross-entropy grades every pixel alike, Dice grades regions, so a small class is not drowned. Arguments
    as for ``dice_loss``; ``class_weights`` (K,) weigh the cross-entropy's classes (for K = 1 the one weight
    is that of the positive pixels). A batch of which nothing is known has a cross-entropy of 0.
    """
    target = _checked(logits, target)
    logits, keep = _wide(logits), target.long() != ignore_index
    if logits.shape[1] == 1:
        per_pixel = F.binary_cross_entropy_with_logits(
            logits[:, 0],
            torch.where(keep, target, 0).to(logits.dtype),
            reduction="none",
            pos_weight=class_weights,
        )
        entropy = (per_pixel * keep).sum() / keep.sum().clamp_min(1)
    else:
        total = F.cross_entropy(
            logits, target.long(), weight=class_weights, ignore_index=ignore_index, reduction="sum"
        )
        count = keep.sum()
        if class_weights is not None:
            count = (class_weights.to(logits.dtype)[torch.where(keep, target, 0).long()] * keep).sum()
        # torch's own mean is 0 / 0 where nothing is known, and its gradient would ruin the weights.
        entropy = total / torch.where(count == 0, 1, count)
    if dice_weight == 0:
        return entropy
    return entropy + dice_weight * dice_loss(logits, target, smooth=smooth, ignore_index=ignore_index)


def scale_weights(eta: Tensor) -> Tensor:
    """The weights of SEUNet's scale heads, eq. 9: softmax, plus 1/γ, renormalised.

    Args:
        eta: (γ,) trainable numbers; equal numbers give equal weights.

    Returns:
        (γ,) weights that sum to 1, each between 1/(2γ) and (γ+1)/(2γ): no head can be starved.
    """
    if eta.dim() != 1:
        raise ValueError(f"eta is one number a scale, shape (γ,); got {tuple(eta.shape)}")
    return (torch.softmax(eta, 0) + 1 / eta.numel()) / 2


def scale_head_loss(
    logits: Tensor,
    target: Tensor,
    eta: Tensor,
    *,
    class_weights: Tensor | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """SEUNet's loss, eq. 8 and 9: the cross-entropy of each scale's head, summed with ``scale_weights(eta)``.

    Args:
        logits: (B, K, S, H, W), one head a scale (K = 1: sigmoid).
        target: (B, H, W) class indices, or a mask when K = 1.
        eta: (S,) trainable numbers.
    """
    if logits.dim() != 5 or logits.shape[2] != eta.numel():
        raise ValueError(
            f"logits are (B, K, S, H, W) with S = {eta.numel()}, one head for each entry of eta; "
            f"got {tuple(logits.shape)}"
        )
    losses = [
        dice_cross_entropy(
            head, target, dice_weight=0.0, class_weights=class_weights, ignore_index=ignore_index
        )
        for head in logits.unbind(2)
    ]
    return (scale_weights(eta) * torch.stack(losses)).sum()
