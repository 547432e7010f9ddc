"""Features of every video by a trained encoder: one pack that `packed` reads, or one .npy file a video."""

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from etad.data.ahead import Ahead
from etad.data.annotations import write_annotations
from etad.data.features import name_below
from etad.data.packed import Contents
from etad.data.packing import Planned, write_packed
from etad.data.samples import Corpus, Samples
from etad.data.sources import window_rule
from etad.record import replacing, write_json
from etad.spec import Spec, SpecError, merge, parse_overrides, parse_spec, read_tree
from experiments.command import Failure, Misuse, main, parser
from experiments.keys import checkpoint_of
from experiments.progress import bar
from experiments.written_spec import write_spec

if TYPE_CHECKING:
    from etad.gradients import SnippetEncoder

EXAMPLE = "python -m experiments.extract --checkpoint runs/NAME --out prepared/features"
Features = NDArray[np.float16]


def arguments() -> argparse.ArgumentParser:
    made = parser("experiments.extract", f"{__doc__} Killed, the same command goes on.", EXAMPLE)
    made.add_argument(
        "--checkpoint", type=Path, help="an encoder's weights: of a run here, or one that --spec describes"
    )
    made.add_argument("--spec", type=Path, help="videos and encoder (default: the spec inside the run's checkpoint)")
    made.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="override a knob of the spec")
    made.add_argument("--own-code", action="store_true", help="import components of its own, from a file you trust")
    made.add_argument("--out", type=Path, required=True, help="folder of the features")
    made.add_argument("--npy", action="store_true", help="one file ID.npy [T, C] a video instead of a pack")
    made.add_argument("--workers", type=int, default=2, help="videos decoded at a time (default: %(default)s)")
    return made


def chosen_spec(args: argparse.Namespace) -> Spec:
    """The spec of videos and encoder, its checkpoint the given one. Raises Misuse, SpecError, ValueError."""
    if args.checkpoint:
        args.checkpoint = checkpoint_of(args.checkpoint)
    if args.spec:
        tree = read_tree(args.spec)
    elif args.checkpoint:
        from etad.weights import BUILT, read_checkpoint, stated_spec

        meta = read_checkpoint(args.checkpoint)["meta"]
        tree = stated_spec(meta, args.checkpoint, built=(*BUILT, "data.source"), own_code=args.own_code)
    else:
        raise Misuse("give --checkpoint of an end-to-end run, or --spec with videos and an encoder")
    over = parse_overrides(args.set)
    if args.checkpoint:
        over = merge({"encoder": {"checkpoint": str(args.checkpoint)}}, over)
    spec = parse_spec(merge(tree, over), str(args.spec or args.checkpoint))
    if spec.encoder is None or spec.data.video is None:
        raise SpecError(f"{args.spec or args.checkpoint}: no videos (data.video) and encoder to extract features with")
    if spec.encoder.checkpoint is None:
        raise Misuse(
            "an untrained encoder's features say nothing: give --checkpoint, or encoder.checkpoint in the spec"
        )
    return spec


class Encoding:
    """A video's id -> its rows [W, T, C]; the rows that follow are decoded meanwhile by so many threads."""

    def __init__(self, samples: Iterable[Samples], encode: Callable[[NDArray[np.uint8]], Features], threads: int):
        self.encode = encode
        self.rows: dict[str, list[tuple[Ahead, int]]] = {}
        for subset in samples:
            assert subset.frames is not None
            frames = Ahead(subset.frames, threads)
            for row, id in enumerate(subset.ids):
                self.rows.setdefault(id, []).append((frames, row))

    def __call__(self, id: str) -> Features:
        return np.stack([self.encode(frames[row]) for frames, row in self.rows[id]])


def planned(corpus: Corpus) -> list[Planned]:
    """Every video of the corpus once, in order, with the seconds of its rows."""
    spans: dict[str, list[NDArray[np.float64]]] = {}
    for samples in corpus.subsets.values():
        for id, span in zip(samples.ids, samples.span_s, strict=True):
            spans.setdefault(id, []).append(span)
    return [Planned(id, np.array(span)) for id, span in spans.items()]


def encoding(spec: Spec, encoder: "SnippetEncoder") -> Callable[[NDArray[np.uint8]], Features]:
    """Frames [T, 3, L, H, W] -> features [T, C]."""
    import torch

    from etad import build
    from etad.engine import autocast
    from etad.processes import make_ready

    make_ready(spec.runtime.threads)
    device, dtype = build.build_device(spec), build.DTYPES[spec.inference.precision]
    encoder.to(device)

    def encode(frames: NDArray[np.uint8]) -> Features:
        with autocast(device, dtype):
            features = encoder(torch.from_numpy(frames).unsqueeze(0))[0].float().cpu().numpy()
        if not np.isfinite(half := features.astype(np.float16)).all():
            raise Failure(f"the encoder makes features beyond float16, up to {np.abs(features).max():.4g}")
        return half  # type: ignore[no-any-return]

    return encode


def write_npy(
    folder: Path, plan: Sequence[Planned], make: Encoding, settings: dict[str, Any], done: Callable[[int], None]
) -> int:
    """One file a video, those that are there left alone; returns how many were. Raises Failure where others are."""
    stated = folder / "settings.json"
    if stated.exists() and json.loads(stated.read_text(encoding="utf-8")) != settings:
        raise Failure(
            f"{folder}: holds features of another encoder or of other videos; give another --out, or delete it"
        )
    write_json(stated, settings)
    there = 0
    for item in plan:
        path = folder / name_below(folder, "{id}.npy", item.id)
        if path.exists():
            there += 1
        else:
            made = make(item.id)
            with replacing(path, "wb") as file:
                np.save(file, made[0])
        done(1)
    return there


def extract(args: argparse.Namespace) -> dict[str, Any]:
    spec = chosen_spec(args)
    if args.npy and spec.data.windows:
        raise Misuse("--npy holds whole videos; with data.windows make a pack")
    from etad import build

    encoder = build.build_encoder(spec)
    corpus = build.build_corpus(spec)
    plan, settings = planned(corpus), sources(spec, corpus)
    make = Encoding(corpus.subsets.values(), encoding(spec, encoder), args.workers)
    total = sum(len(item.span_s) for item in plan)
    with bar("extracting") as advance:
        finished = [0]

        def done(rows: int) -> None:
            finished[0] += rows
            advance(finished[0], total, "")

        if args.npy:
            reused = write_npy(args.out, plan, make, settings, done)
        else:
            data = spec.data
            contents = Contents(
                tscale=data.tscale,
                channels=data.channels,
                windows=window_rule(data.windows),
                resize="none: an encoder's T snippets",
                sources=settings,
            )
            reused = write_packed(args.out, contents, plan, make, progress=done)
    return {
        "path": str(args.out),
        "spec": str(beside(args.out, spec, corpus, npy=args.npy)),
        "videos": len(plan),
        "rows": total,
        "tscale": spec.data.tscale,
        "channels": spec.data.channels,
        "reused_videos": reused,
        "mark": corpus.mark,
    }


def sources(spec: Spec, corpus: Corpus) -> dict[str, str]:
    """What the features are made of and by: whatever changes them changes this."""
    assert spec.encoder is not None
    assert spec.encoder.checkpoint is not None
    assert spec.data.video is not None
    path = Path(spec.encoder.checkpoint)
    network = spec.encoder.model_dump_json(include={"network", "mean", "std"})
    return {
        **{f"videos, {what}": text for what, text in corpus.sources.items() if what != "classifier"},
        "encoder": f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
        "network": network,
        "snippets": spec.data.video.model_dump_json(include={"frames", "stride", "short_side", "size"}),
        "precision": spec.inference.precision,
    }


def beside(out: Path, spec: Spec, corpus: Corpus, *, npy: bool) -> Path:
    """Ground truth and classifier as the corpus has them, and the spec that trains a detector on the features."""
    write_annotations(out / "annotations.json", corpus.annotations)
    args = {"features": str(out.resolve()), "annotations": str((out / "annotations.json").resolve())}
    if corpus.classifier is not None:
        with replacing(out / "classifier.csv") as file:
            table = csv.writer(file)
            table.writerow(["id", "label", "score"])
            table.writerows((id, label, score) for id, of in corpus.classifier.items() for label, score in of)
        args["classifier"] = str((out / "classifier.csv").resolve())
    args["mark"] = corpus.mark
    source = (
        {"name": "features", "args": {**args, "pattern": "{id}.npy", "layout": "TC"}}
        if npy
        else {"name": "packed", "args": args}
    )
    kept = spec.data.model_dump(mode="json") | {"source": source, "video": None}
    return write_spec(out / "spec.yaml", {"data": kept}, {})


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['rows']} rows [{result['tscale']}, {result['channels']}] of {result['videos']} videos of {result['mark']}"
    )
    print(result["path"])
    print(result["spec"])


def run(argv: Sequence[str] | None = None) -> int:
    return main(arguments(), extract, show, argv)


if __name__ == "__main__":
    sys.exit(run())
