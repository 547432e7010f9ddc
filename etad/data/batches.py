"""Training rows in batches: which rows, in which order, with which segments."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from etad.data.annotations import Annotations, DataError
from etad.data.samples import Samples
from etad.data.windows import segments_in_window
from etad.randomness import uniform

ORDER, PROPOSALS, LOSSES = range(3)  # streams of random numbers; 3: etad.data.augment
SNIPPETS = 4
Key = tuple[int, int, int]  # epoch, iteration, row


class TrainingRows(Dataset[Any]):
    """Rows that a detector is trained on, fetched a batch at a time.

    A batch is a dict: features [B, T, C] in the type they are stored in, segments [B, N, 2] (fractions), labels [B, N]
    (int64, indices of the annotations' classes), present [B, N], row [B], and the numbers epoch and iteration. Rows
    without a segment of at least min_length are left out; with `drop_short` so are such segments. Raises DataError where
    no row is left.
    """

    def __init__(
        self,
        samples: Samples,
        annotations: Annotations,
        *,
        min_length: float,
        drop_short: bool,
        min_inside: float,
        seed: int = 0,
    ):
        every, labels = [], []
        for id, span in zip(samples.ids, samples.span_s, strict=True):
            video = annotations.videos[id]
            inside, kept = segments_in_window(video.segments_s, span, min_inside)
            long = inside[:, 1] - inside[:, 0] >= (min_length if drop_short else 0.0)
            every.append(inside[long])
            labels.append(video.labels[kept[long]])
        self.rows = [w for w, s in enumerate(every) if len(s) and (s[:, 1] - s[:, 0]).max() >= min_length]
        if not self.rows:
            raise DataError(f"no training row has a segment of at least {min_length:.0%} of its length")
        most = max(len(every[w]) for w in self.rows)
        self.segments = torch.zeros(len(self.rows), most, 2)
        self.labels = torch.zeros(len(self.rows), most, dtype=torch.int64)
        self.present = torch.zeros(len(self.rows), most, dtype=torch.bool)
        for n, w in enumerate(self.rows):
            self.segments[n, : len(every[w])] = torch.from_numpy(every[w]).float()
            self.labels[n, : len(every[w])] = torch.from_numpy(labels[w])
            self.present[n, : len(every[w])] = True
        self.ids = tuple(samples.ids[w] for w in self.rows)
        self.features: NDArray[np.float16] | Tensor | None = samples.features
        self.frames, self.seed = samples.frames, seed

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> "TrainingRows":
        """Keeps the rows resident on a device, so that a step never waits for a copy; rows of frames stay where they are."""
        if self.features is None:  # decoded by processes that share no device; each batch is moved
            return self
        self.features = torch.from_numpy(np.ascontiguousarray(self.features[self.rows])).to(device)
        self.segments, self.labels = self.segments.to(device), self.labels.to(device)
        self.present = self.present.to(device)
        return self

    def __getitems__(self, keys: Sequence[Key]) -> dict[str, Any]:
        row = torch.tensor([key[2] for key in keys], device=self.segments.device)
        present = self.present[row]
        # on a GPU all batches are alike, and no step waits for a count
        most = int(present.sum(1).max()) if row.device.type == "cpu" else present.shape[1]
        return {
            **self._shown(keys, row),
            "segments": self.segments[row, :most],
            "labels": self.labels[row, :most],
            "present": present[:, :most],
            "row": row,
            "epoch": keys[0][0],
            "iteration": keys[0][1],
        }

    def _shown(self, keys: Sequence[Key], row: Tensor) -> dict[str, Tensor]:
        if isinstance(self.features, Tensor):
            return {"features": self.features[row]}
        stored = [self.rows[key[2]] for key in keys]
        if self.frames is None:
            assert self.features is not None
            return {"features": torch.from_numpy(self.features[stored])}
        drawn = [self.frames.augmented(w, seed=self.seed, epoch=key[0]) for w, key in zip(stored, keys, strict=True)]
        return {"frames": torch.from_numpy(np.stack(drawn))}


class EpochBatches(Sampler[list[Key]]):
    """Batches of one epoch from batch `begin` on, for one of `world` processes; the order is a function of (seed, epoch).

    A smaller last batch is dropped. Raises DataError where the rows do not fill one batch.
    """

    def __init__(self, rows: int, *, batch: int, seed: int, rank: int = 0, world: int = 1):
        if batch % world:
            raise DataError(f"training.batch={batch} does not divide among {world} processes")
        if rows < batch:
            raise DataError(f"{rows} training videos do not fill one batch of {batch}; lower training.batch")
        self.rows, self.batch, self.seed, self.rank, self.world = rows, batch, seed, rank, world
        self.epoch = self.begin = 0

    def __len__(self) -> int:
        return self.rows // self.batch

    def __iter__(self) -> Iterator[list[Key]]:
        order = uniform(self.seed, ORDER, self.epoch, count=self.rows).argsort(stable=True).tolist()
        share = self.batch // self.world
        for b in range(self.begin, len(self)):
            first = b * self.batch + self.rank * share
            yield [(self.epoch, self.epoch * len(self) + b, row) for row in order[first : first + share]]
