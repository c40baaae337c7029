"""How far can a map be moved by a change that nobody sees and that leaves the prediction alone?

Projected gradient descent (Madry et al., ICLR 2018, https://arxiv.org/abs/1706.06083) on the packed grey image,
against the map instead of the prediction (Ghorbani et al., AAAI 2019, https://arxiv.org/abs/1710.10547; Dombrowski
et al., NeurIPS 2019, https://arxiv.org/abs/1906.07983): the map's cosine similarity with the original's, both
after ReLU as they are shown, is lowered, and a penalty holds the probability. It sets in at half of what is
allowed: one that grew from the start would hold the map as well, whose sum at the last block is the logit but for
its bias. How far it goes is a lower bound: a better attack may go farther.

The gradient takes Grad-CAM's weights of the channels as constants. In a network of linear layers, ReLU, max
pooling and batch norm in eval mode they are piecewise constant in the picture, so this is the derivative wherever
there is one, and second derivatives need not be computed: they would be zeros.
"""

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import ResNet

from cxr.data.augment import normalise
from cxr.data.loader import generator
from cxr.explain.gradcam import has_closed_form
from cxr.explain.similarity import BATCH, MEASURES, compare, maps_of_pixels

EPS = 2  # grey levels of 255
TOLERANCE = 0.05  # of the probability


def attack(
    network: nn.Module, layer: str, pixels: np.ndarray, targets: torch.Tensor, *,
    eps: int = EPS, steps: int = 20, seed: int, thresholds: np.ndarray | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The map of each (image, class) pair against those of the attacked picture and of as much noise.

    pixels [N, S, S] uint8, targets [N]; `thresholds` [N] are logits that a pair's logit must not cross, NaN for
    none. Columns: pair, kind (attack, or noise: random signs of the same eps), ssim, spearman, top_overlap (see
    `similarity.compare`), probability (before), probability_change, kept (the prediction was: within 0.05, and on
    its side of the threshold), moved (distance of the map's maximum, in the image's sides; NaN for a zero map).

    Pictures stay whole grey levels within `eps` of the original and 0 to 255. Of the iterates that keep the
    prediction the one with the least similar map is taken; where there is none, the original, which is `kept`.
    An attacked picture may have a zero map: what it is like is then NaN, not 0.

    Cost a pair: `steps` + 2 forward and `steps` backward passes to search, and 6 forward passes to measure. Where
    Grad-CAM has no closed form, `steps` + 5 backward passes from the logit to the layer beside. Gradients of
    parameters are not touched.
    """
    attacked, noisy = pictures(
        network, layer, pixels, targets, eps=eps, steps=steps, seed=seed, thresholds=thresholds
    )
    limits = np.full(len(pixels), np.nan) if thresholds is None else thresholds
    maps, logits = maps_of_pixels(network, layer, pixels, targets), _logits(network, pixels, targets)
    before = _probability(logits)
    tables = []
    for kind, changed in (("attack", attacked), ("noise", noisy)):
        moved_maps, after = maps_of_pixels(network, layer, changed, targets), _logits(network, changed, targets)
        tables.append(
            compare(maps, moved_maps, pixels.shape[1]).assign(
                kind=kind,
                probability=before.numpy(),
                probability_change=(_probability(after) - before).numpy(),
                kept=_kept(logits, after, torch.tensor(limits)).numpy(),
                moved=_moved(maps, moved_maps),
            )
        )
    columns = ("pair", "kind", *MEASURES, "probability", "probability_change", "kept", "moved")
    return pd.concat(tables, ignore_index=True)[list(columns)]


def pictures(
    network: nn.Module, layer: str, pixels: np.ndarray, targets: torch.Tensor, *,
    eps: int, steps: int, seed: int, thresholds: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The attacked pictures and those with noise, uint8 [N, S, S] both; the rest as `attack`."""
    assert not network.training, "an attack needs the network in eval mode"
    assert len(pixels) == len(targets) > 0, (len(pixels), len(targets))
    assert eps >= 1, eps
    assert steps >= 1, steps
    device = next(network.parameters()).device
    limits = torch.full((len(pixels),), torch.nan) if thresholds is None else torch.tensor(thresholds)
    attacked, noisy = np.empty_like(pixels), np.empty_like(pixels)
    for start in range(0, len(pixels), BATCH):
        part = slice(start, start + BATCH)
        grey = torch.tensor(pixels[part], device=device).float()
        drawn = torch.rand(2, *grey.shape, generator=generator(seed, start)).to(device)
        noisy[part] = (grey + _bounded((2 * drawn[0] - 1).sign() * eps, grey, eps)).round().cpu().numpy()
        search = _Search(network, layer, grey, targets[part].to(device), limits[part].to(device))
        attacked[part] = search.run((2 * drawn[1] - 1) * eps, eps, steps).cpu().numpy()
    return attacked, noisy


class _Search:
    """The descent on one batch of pictures [B, S, S] float32 in grey levels."""

    def __init__(self, network: nn.Module, layer: str, grey: torch.Tensor, targets: torch.Tensor,
                 thresholds: torch.Tensor) -> None:  # fmt: skip
        self._network, self._layer, self._grey, self._targets = network, layer, grey, targets
        self._thresholds = thresholds
        with torch.enable_grad():
            maps, logits = self._look(grey.clone().requires_grad_())
        self._shown, self._logits = maps.detach().flatten(1).clamp(min=0), logits.detach()

    def run(self, change: torch.Tensor, eps: int, steps: int) -> torch.Tensor:
        """The best picture met from a start `change` [B, S, S], drawn since at no change nothing has a slope."""
        best, least = self._grey.clone(), torch.ones(len(change), device=change.device)
        change = _bounded(change, self._grey, eps)
        for step in range(steps + 1):
            # the network sees whole grey levels, and its slope there moves the unrounded change
            here = (self._grey + change).round().requires_grad_()
            with torch.enable_grad():
                maps, logits = self._look(here)
                alike = functional.cosine_similarity(maps.flatten(1).clamp(min=0), self._shown)
                strayed = (_probability(logits) - _probability(self._logits)) / TOLERANCE
                loss = (alike + (2 * strayed.abs() - 1).clamp(min=0).square()).sum()
            better = _kept(self._logits, logits.detach(), self._thresholds) & (alike.detach() < least)
            best[better], least[better] = here.detach()[better], alike.detach()[better]
            if step < steps:
                (slope,) = torch.autograd.grad(loss, here)
                change = _bounded(change - 2.5 * eps / steps * slope.sign(), self._grey, eps)
        return best

    def _look(self, grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return differentiable_maps(self._network, self._layer, normalise(grey), self._targets)


def differentiable_maps(
    network: nn.Module, layer: str, images: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Signed Grad-CAM maps [N, h, w] as a function of images [N, 3, H, W] that need gradients, and logits [N].

    The weights of the channels are constants in it, see the module.
    """
    closed = has_closed_form(network, layer)
    kept: list[torch.Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(
        lambda _module, _inputs, output: kept.append(output)
    )
    try:
        logits = network(images).gather(1, targets[:, None]).squeeze(1)
    finally:
        handle.remove()
    (features,) = kept  # [N, K, h, w]
    if closed:
        assert isinstance(network, ResNet)
        weights = network.fc.weight.detach()[targets] / features[0, 0].numel()
    else:
        (slope,) = torch.autograd.grad(logits.sum(), features, retain_graph=True)
        weights = slope.mean(dim=(2, 3))
    return (weights[:, :, None, None] * features).sum(dim=1), logits


def _bounded(change: torch.Tensor, grey: torch.Tensor, eps: int) -> torch.Tensor:
    """A change that stays within eps, and with which pictures stay in 0..255."""
    return (grey + change.clamp(-eps, eps)).clamp(0, 255) - grey


def _kept(before: torch.Tensor, after: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Whether predictions are: logits [N] and thresholds [N], NaN for none -> bool [N]."""
    near = (_probability(after) - _probability(before)).abs() <= TOLERANCE
    return near & ((after >= thresholds) == (before >= thresholds))


def _probability(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().sigmoid()


def _logits(network: nn.Module, pixels: np.ndarray, targets: torch.Tensor) -> torch.Tensor:
    """Each pair's logit [N] float64 on the CPU."""
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(pixels), BATCH):
        with torch.inference_mode():
            logits = network(normalise(torch.tensor(pixels[start : start + BATCH], device=device)))
        parts.append(logits.double().cpu())
    return torch.cat(parts).gather(1, targets.cpu()[:, None]).squeeze(1).clone()


def _moved(one: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    """Distance of the maxima of signed maps [N, h, w], in the image's sides; NaN where either is a zero map."""
    height, width = one.shape[1:]
    places, shown = [], np.ones(len(one), dtype=bool)
    for maps in (one, other):
        strongest, cell = maps.flatten(1).max(dim=1)
        rows, columns = np.divmod(cell.numpy(), width)
        places.append(np.stack([rows / height, columns / width]))
        shown &= (strongest > 0).numpy()
    distance = np.hypot(*(places[0] - places[1]))
    return np.where(shown, distance, np.nan)
