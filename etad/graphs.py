"""Training steps as CUDA graphs: recorded once and replayed, they spare a GPU thousands of launches a step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Batch = dict[str, Any]
Losses = Callable[[Batch], dict[str, Tensor]]


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    given: dict[str, Tensor]  # what a replay reads
    parts: dict[str, Tensor]  # what it writes
    gradients: list[tuple[nn.Parameter, Tensor]]


class StepGraphs:
    """The losses of a batch and their backward pass, recorded once for each shape of batch.

    losses: parts of the loss and `loss`, their sum, of a batch on the GPU, whose numbers come as tensors too. Calling
    returns its parts, which the next call overwrites, and leaves gradients in the parameters. Raises ValueError where a
    step cannot be recorded: it waits for the host, as sampler `grid` does, which copies from it.
    """

    def __init__(self, losses: Losses, parameters: Iterable[nn.Parameter]):
        self.losses, self.parameters = losses, list(parameters)
        self.recorded: dict[tuple[Any, ...], _Recorded] = {}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        key = tuple((value.shape, value.dtype) if isinstance(value, Tensor) else name for name, value in batch.items())
        if key not in self.recorded:
            self.recorded[key] = self._record(batch)
        held = self.recorded[key]
        for name, place in held.given.items():
            place.copy_(batch[name]) if isinstance(batch[name], Tensor) else place.fill_(batch[name])
        held.graph.replay()
        for parameter, gradient in held.gradients:
            parameter.grad = gradient
        return held.parts

    def _record(self, batch: Batch) -> _Recorded:
        device = batch["features"].device
        given = {name: torch.as_tensor(value, device=device).clone() for name, value in batch.items()}
        side, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries choose their algorithms and take their workspaces
                self._forget()
                self.losses(given)["loss"].backward()
        torch.cuda.current_stream(device).wait_stream(side)
        self._forget()  # gradients, too, are made inside
        try:
            with torch.cuda.graph(graph):
                parts = self.losses(given)
                parts["loss"].backward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"runtime.graph: this step cannot be recorded ({error}); set runtime.graph=false"
            ) from error
        gradients = [(p, p.grad) for p in self.parameters if p.grad is not None]
        return _Recorded(graph, given, {name: part.detach() for name, part in parts.items()}, gradients)

    def _forget(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
