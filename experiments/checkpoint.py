"""What a checkpoint is, and back and forth to the authors' format. Files are opened as tensors and plain values only."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etad.data.annotations import read_annotations
from etad.record import replacing
from etad.spec import Spec, differences, parse_spec, read_spec, spec_text
from experiments.command import Misuse, main, parser
from experiments.keys import checkpoint_of
from experiments.progress import say

EXAMPLE = (
    "python -m experiments.checkpoint info runs/laptop-KEY\n"
    "  python -m experiments.checkpoint export latest.pth --to authors etad.pth\n"
    "  python -m experiments.checkpoint import etad.pth --spec experiments/specs/paper.yaml latest.pth"
)
ENCODER = "feature_extractor."  # the encoder's tensors in the authors' files
OURS = "etad"  # beside the authors' entries, what a checkpoint of ours says of itself


def _parser() -> argparse.ArgumentParser:
    made = parser("experiments.checkpoint", __doc__ or "", EXAMPLE)
    verbs = made.add_subparsers(dest="verb", required=True, metavar="{info,export,import}")
    for verb, what in (
        ("info", "print what a checkpoint says of itself"),
        ("export", "write the detector in the authors' format"),
        ("import", "make a checkpoint of the authors' file"),
    ):
        one = verbs.add_parser(verb, help=what, description=what)
        one.add_argument("file", type=Path)
        one.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if verb == "export":
            one.add_argument("--to", choices=("authors",), required=True, help="the format")
        if verb == "import":
            one.add_argument("--spec", type=Path, help="what was trained; not needed for a file that `export` wrote")
            one.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="override a knob of it")
            one.add_argument("--annotations", type=Path, help="ground truth whose classes it was trained on")
            one.add_argument("--mark", default="imported", help="name of the data (default: %(default)s)")
        if verb != "info":
            one.add_argument(
                "--own-code", action="store_true", help="import components of its own, from a file you trust"
            )
            one.add_argument("out", type=Path, help="the file to write")
    return made


def work(args: argparse.Namespace) -> dict[str, Any]:
    args.file = checkpoint_of(args.file)
    say(f"reading {args.file}")
    return {"info": info, "export": export, "import": take}[args.verb](args)


def _spec(meta: Any, args: argparse.Namespace) -> Spec:
    """The spec that a file states of itself. Raises ValueError."""
    from etad.weights import stated_spec

    tree = stated_spec(meta, args.file, own_code=args.verb == "info" or args.own_code)
    return parse_spec(tree, f"{args.file}, its spec")


def info(args: argparse.Namespace) -> dict[str, Any]:
    from etad.weights import read_checkpoint

    held = read_checkpoint(args.file)
    meta = held["meta"]
    spec = _spec(meta, args)
    detector = [value for name, value in held["state_dict"].items() if name.startswith("detector.")]
    return {
        "file": str(args.file),
        "bytes": args.file.stat().st_size,
        "name": spec.name,
        "mark": meta.get("mark"),
        "epoch": meta.get("epoch"),
        "iteration": meta.get("iter"),
        "finished": meta.get("epoch") is None or meta["epoch"] >= spec.training.epochs,
        "input": spec.data.model_dump(mode="json", include={"tscale", "channels", "windows"}),
        "class_head": spec.model.class_head is not None,
        "classes": list(meta.get("classes", [])),
        "parameters": sum(value.numel() for value in detector),
        "spec": differences(spec),
        "protocol": meta.get("protocol", {}),
    }


def export(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from etad import build
    from etad.model.released import to_released
    from etad.weights import load_weights, read_checkpoint

    spec = _spec(read_checkpoint(args.file)["meta"], args)
    detector = build.build_detector(spec)
    meta = load_weights(detector, args.file)
    try:
        state = to_released(detector.state_dict())
    except ValueError as error:
        raise ValueError(f"{args.file}: {error}") from None
    own = {key: meta[key] for key in ("spec", "classes", "mark", "protocol") if key in meta}
    with replacing(args.out, "wb") as file:
        torch.save({"epoch": meta.get("epoch", 0), "state_dict": state, OURS: own}, file)
    return {"file": str(args.out), "tensors": len(state)}


def take(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from etad import build
    from etad.model.released import from_released
    from etad.weights import read_tensors

    held = read_tensors(args.file)
    state = held.get("state_dict", held) if isinstance(held, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{args.file}: no state_dict of tensors, so no checkpoint of the authors")
    own = held.get(OURS, {})
    if not args.spec and "spec" not in own:
        raise Misuse(
            f"{args.file} says nothing of its spec; name it with --spec, for example experiments/specs/paper.yaml"
        )
    spec = read_spec(args.spec, args.set) if args.spec else _spec(own, args)
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    left = sorted(name for name in plain if name.startswith(ENCODER))
    if left:
        say(f"left out: {len(left)} tensors of an encoder; name this file as encoder.checkpoint to use them")
    detector = build.build_detector(spec)
    try:
        detector.load_state_dict(
            from_released({n: v for n, v in plain.items() if n not in left}, detector.state_dict())
        )
    except ValueError as error:
        raise ValueError(f"{args.file}: {error}; is the spec the one that it was trained with?") from None
    classes = list(read_annotations(args.annotations).classes) if args.annotations else own.get("classes", [])
    meta = {
        "spec": spec_text(spec),
        "classes": classes,
        "mark": own.get("mark", args.mark),
        "protocol": own.get("protocol", {}),
    }
    with replacing(args.out, "wb") as file:
        torch.save({"state_dict": {f"detector.{n}": v for n, v in detector.state_dict().items()}, "meta": meta}, file)
    return {"file": str(args.out), "tensors": len(detector.state_dict()), "left_out": len(left)}


def show(result: dict[str, Any]) -> None:
    if "spec" not in result:
        print(result["file"])
        return
    table = Table(show_header=False)
    names = result["classes"]
    rows = {
        "file": f"{result['file']}, {result['bytes'] / 2**20:.1f} MiB",
        "trained on": result["mark"],
        "epochs": f"{result['epoch']} ({result['iteration']} steps)" + ("" if result["finished"] else ", not finished"),
        "takes": ", ".join(f"{key} {value}" for key, value in result["input"].items()),
        "gives": f"{len(names)} classes of its own: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        if result["class_head"]
        else "one class, action; labels come from outside",
        "parameters": f"{result['parameters']:,}",
        "spec": "\n".join(f"{key}: {json.dumps(value)}" for key, value in result["spec"].items()),
        "data": "\n".join(f"{key}: {value}" for key, value in result["protocol"].get("sources", {}).items()),
    }
    for key, value in rows.items():
        table.add_row(key, Text(str(value)))
    Console().print(table)


def run(argv: Sequence[str] | None = None) -> int:
    return main(_parser(), work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
