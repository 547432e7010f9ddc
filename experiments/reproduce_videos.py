"""The main job end to end: which spec, from which encoder, and what a step costs at the paper's size."""

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from etad.record import Figure
from etad.spec import Spec, merge, parse_overrides, parse_spec, read_tree
from experiments.command import Misuse
from experiments.progress import bar
from experiments.trace_memory import PAPER, resolved, steps

if TYPE_CHECKING:
    import torch

SPECS = {"smoke": "end_to_end_smoke.yaml", "laptop": "end_to_end_laptop.yaml", "paper": PAPER.name}
PAPER_VIDEOS = 10_024  # Source: METHOD 8, ActivityNet-1.3's training subset


def end_to_end_spec(args: argparse.Namespace) -> Spec:
    """The preset, on the user's videos where given. Raises Misuse where files that belong together are missing."""
    preset = args.preset or ("paper" if args.videos else "laptop")
    tree = read_tree(PAPER.parent / SPECS[preset])
    if args.features or args.benchmark != "anet":
        raise Misuse(
            "--end-to-end trains on videos: it goes with --videos DIR and --benchmark anet, not with --features"
        )
    if preset == "paper" and not (args.videos and args.checkpoint):
        raise Misuse("the paper's encoder needs --videos DIR and --checkpoint FILE, the weights that TSP trained")
    if args.videos:
        if not args.annotations:
            raise Misuse("--videos needs --annotations, the ground truth in the ActivityNet layout")
        given = {"mark": args.mark or "anet", "videos": str(args.videos), "pattern": args.pattern or "v_{id}.mp4"}
        given |= {"annotations": str(args.annotations)} | (
            {"classifier": str(args.classifier)} if args.classifier else {}
        )
        data = {"source": {"name": "videos", "args": given}, "missing": args.missing}
        tree = merge(tree, {"name": f"anet-{SPECS[preset].removesuffix('.yaml')}", "data": data})
        own = f"prepared/encoder-{given['mark']}.pth"
        tree = merge(tree, {"encoder": {"checkpoint": own}} if preset == "laptop" else {})
        if args.blocked:
            tree = merge(tree, {"evaluation": {"blocked": args.blocked}})
    elif args.annotations or args.classifier or args.blocked:
        raise Misuse("--annotations, --classifier and --blocked go with --videos DIR")
    if args.checkpoint:
        tree = merge(tree, {"encoder": {"checkpoint": str(args.checkpoint)}})
    return parse_spec(merge(tree, parse_overrides([f"training.seed={args.seed}", *args.set])), f"preset {preset}")


def paper_figures(chosen: Spec, *, timed: bool) -> list[Figure]:
    """Memory and products of a step in the paper's configuration, traced; the full schedule's time, projected from a clip.

    That is measured on the device of `chosen`.
    """
    from etad import build

    figures: list[Figure] = []
    with bar("measuring at the paper's size") as advance:
        for n, precision in enumerate(("float32", "bfloat16")):
            spec = resolved(PAPER, [], precision, 4)
            made = steps(spec)
            model = made.made[0]
            sampled = made.trace("sampled", chunk=model.encoder.chunk, count=model.count)
            full = made.trace("full", chunk=made.tscale, count=made.tscale)
            shape = " x ".join(map(str, made.batch["frames"].shape[1:]))
            size = f"end to end: {shape}, batch {made.videos}, {model.count} snippets back, {precision}"
            parts = {"peak": sampled.parts.peak, **vars(sampled.parts), "full_backward": full.parts.peak}
            figures += [
                Figure(name=f"paper_{part}_memory_{precision}", value=value, unit="B", evidence="traced", note=size)
                for part, value in parts.items()
            ]
            flops = {"name": f"paper_flops_video_{precision}", "value": sampled.flops / made.videos, "unit": "FLOP"}
            figures.append(Figure(**flops, evidence="traced", note=size))
            advance(n + 1, 2, f"traced {precision}")
    return figures + ([_schedule(build.build_device(chosen))] if timed else [])


def _schedule(device: "torch.device") -> Figure:
    """All epochs of the paper's schedule in float32, from one clip forward and one forward and back."""
    import torch

    from etad import build, measure

    spec = resolved(PAPER, [], "float32", 1)
    shown = spec.data.video
    assert shown is not None
    encoder = build.build_encoder(spec).to(device)
    frames = torch.full((1, 1, 3, shown.frames, shown.size, shown.size), 128, dtype=torch.uint8)

    def back() -> None:
        encoder.encode(frames).sum().backward()

    ahead, both = (_seconds(work, device) for work in (lambda: encoder(frames), back))
    video = spec.data.tscale * ahead + build.count_snippets(spec) * both
    return Figure(
        name="paper_schedule_projected_float32",
        value=video * PAPER_VIDEOS * spec.training.epochs,
        unit="s",
        evidence="projected",
        device=measure.device_name(device),
        note=f"end to end: {PAPER_VIDEOS:,} videos x {spec.training.epochs} epochs, from the encoder's time for one clip",
    )


def _seconds(work: Callable[[], object], device: "torch.device") -> float:
    """Of the second of two."""
    import torch

    for _ in range(2):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - start
