"""An encoder to start from: trained to tell which action a snippet shows, or none.

Everything in it learns, its normalisation too; what trains it with a detector later freezes that (etad.gradients).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from etad.data.batches import SNIPPETS, EpochBatches, TrainingRows
from etad.engine import autocast
from etad.gradients import SnippetEncoder
from etad.randomness import uniform

Progress = Callable[[int, int, float], None]  # step, of how many, loss


def snippet_labels(segments: Tensor, labels: Tensor, present: Tensor, tscale: int, background: int) -> Tensor:
    """The class [B, T] of the first segment that holds a snippet's centre, or `background`.

    segments [B, N, 2], fractions; labels [B, N]; present [B, N].
    """
    centres = (torch.arange(tscale) + 0.5) / tscale
    inside = (segments[:, None, :, 0] <= centres[:, None]) & (centres[:, None] < segments[:, None, :, 1])
    inside &= present[:, None]
    first = inside.long().argmax(-1)
    return torch.where(inside.any(-1), labels.gather(1, first), background)


def drawn_clips(batch: dict[str, Any], *, count: int, background: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frames [B, n, 3, L, H, W] and labels [B, n] of n snippets of each video, drawn by (seed, epoch, video)."""
    tscale = batch["frames"].shape[1]
    labels = snippet_labels(batch["segments"], batch["labels"], batch["present"], tscale, background)
    keys = uniform(seed, SNIPPETS, batch["epoch"], batch["row"], count=tscale)
    chosen = keys.topk(min(count, tscale), dim=1).indices
    videos = torch.arange(len(chosen)).unsqueeze(1)
    return batch["frames"][videos, chosen], labels.gather(1, chosen)


def pretrain(
    encoder: SnippetEncoder,
    rows: TrainingRows,
    *,
    classes: int,
    epochs: int,
    batch: int,
    snippets: int,
    lr: float,
    weight_decay: float,
    dtype: torch.dtype,
    seed: int,
    device: torch.device,
    workers: int = 0,
    progress: Progress | None = None,
) -> nn.Linear:
    """Trains the encoder's network with a linear classifier behind it, which is returned: AdamW, falling as a cosine."""
    network = encoder.to(device).network.requires_grad_(True)
    nn.Module.train(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = nn.Linear(encoder.channels, classes + 1).to(device)
    optimizer = torch.optim.AdamW([*network.parameters(), *classifier.parameters()], lr=lr, weight_decay=weight_decay)
    order = EpochBatches(len(rows), batch=batch, seed=seed)
    steps = epochs * len(order)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loader = DataLoader(rows, batch_sampler=order, num_workers=workers, collate_fn=_as_made)
    for epoch in range(epochs):
        order.epoch = epoch
        for batch_rows in loader:
            clips, labels = drawn_clips(batch_rows, count=snippets, background=classes, seed=seed)
            with autocast(device, dtype):
                scores = classifier(encoder.encode(clips).flatten(0, 1)).float()
            loss = F.cross_entropy(scores, labels.flatten().to(device))
            if not loss.isfinite():
                raise ValueError(f"the loss is not finite in epoch {epoch + 1}: lower the learning rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
            if progress:
                progress(falling.last_epoch, steps, float(loss.detach()))
    encoder.eval()
    return classifier


def _as_made(batch: Any) -> Any:
    return batch


@torch.no_grad()
def confusion(encoder: SnippetEncoder, classifier: nn.Linear, rows: TrainingRows, *, classes: int) -> Tensor:
    """How often a snippet of one class [classes + 1, the last one background] is told as another, over all rows."""
    assert rows.frames is not None
    counts = torch.zeros(classes + 1, classes + 1, dtype=torch.int64)
    for n, stored in enumerate(rows.rows):
        frames = torch.from_numpy(rows.frames[stored]).unsqueeze(0)
        truth = (rows.segments[n : n + 1], rows.labels[n : n + 1], rows.present[n : n + 1])
        labels = snippet_labels(*truth, tscale=frames.shape[1], background=classes)
        told = classifier(encoder(frames)[0]).argmax(-1).cpu()
        counts.index_put_((labels[0], told), torch.ones((), dtype=torch.int64), accumulate=True)
    return counts
