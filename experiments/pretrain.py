"""An encoder to start from: trained on a spec's videos to tell which action a snippet shows, or none."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etad.record import replacing
from etad.spec import Spec, SpecError, merge, parse_overrides, parse_spec, read_tree, spec_text
from experiments.command import main, parser
from experiments.progress import bar, say

EPOCHS, SNIPPETS, LR = 10, 8, 2e-3
LAPTOP = Path(__file__).parent / "specs" / "encoder_laptop.yaml"


def chosen_spec(spec_file: Path, overrides: Sequence[str]) -> Spec:
    """The spec whose encoder starts from nothing. Raises SpecError where it has no videos or no encoder."""
    tree = merge(read_tree(spec_file), parse_overrides(overrides))
    spec = parse_spec(merge(tree, {"encoder": {"checkpoint": None}}), str(spec_file))
    if spec.data.video is None:
        raise SpecError(f"{spec_file}: an encoder learns from videos: this spec has no data.video")
    return spec


def pretrained(spec: Spec, out: Path, *, epochs: int, snippets: int, lr: float) -> dict[str, Any]:
    """Trains the encoder on the training subset, judges it on the test subset, writes it. What it can tell, in numbers."""
    import torch

    from etad import build
    from etad.pretraining import confusion, pretrain
    from etad.processes import make_ready

    assert spec.encoder is not None
    device, training = build.build_device(spec), spec.training
    make_ready(spec.runtime.threads)
    corpus = build.build_corpus(spec)
    names = corpus.annotations.classes
    encoder = build.build_encoder(spec)
    with bar("pre-training the encoder") as advance:
        classifier = pretrain(
            encoder,
            build.build_rows(spec, corpus),
            classes=len(names),
            epochs=epochs,
            batch=training.batch,
            snippets=snippets,
            lr=lr,
            weight_decay=training.weight_decay,
            dtype=build.DTYPES[training.precision],
            seed=training.seed,
            device=device,
            workers=spec.runtime.workers,
            progress=lambda step, steps, loss: advance(step, steps, f"loss {loss:.3f}"),
        )
    test = spec.data.model_copy(update={"train_subset": spec.data.test_subset})
    rows = build.build_rows(spec.model_copy(update={"data": test}), corpus)
    counts = confusion(encoder, classifier, rows, classes=len(names)).double()
    told, shown = counts.diagonal(), counts.sum(1)
    made = {
        "mark": corpus.mark,
        "snippets": int(shown.sum()),
        "accuracy": float(told.sum() / shown.sum()),
        "most_common": float(shown.max() / shown.sum()),
        "recall": float((told / shown)[shown > 0].mean()),
        "epochs": epochs,
        "snippets_a_video": snippets,
        "lr": lr,
    }
    state = {f"encoder.{name}": value.cpu() for name, value in encoder.state_dict().items()}
    with replacing(out, "wb") as file:
        torch.save({"state_dict": state, "meta": {**made, "spec": spec_text(spec), "classes": list(names)}}, file)
    return made


def start_encoder(spec: Spec) -> None:
    """Trains the encoder that a spec starts from where it is not there yet: on its own videos, or on others made up.

    Made-up videos are plenty, so the encoder learns on some that it does not meet again.
    """
    if spec.encoder is None or spec.encoder.checkpoint is None or Path(spec.encoder.checkpoint).exists():
        return
    say(f"an encoder to start from: {spec.encoder.checkpoint}")
    made_up = spec.data.source.name == "synthetic_videos"
    alone = spec.encoder.model_copy(update={"checkpoint": None})
    learnt = chosen_spec(LAPTOP, []) if made_up else spec.model_copy(update={"encoder": alone})
    pretrained(learnt, Path(spec.encoder.checkpoint), epochs=EPOCHS, snippets=SNIPPETS, lr=LR)


def work(args: argparse.Namespace) -> dict[str, Any]:
    spec = chosen_spec(args.spec, args.set)
    say(f"encoder: {args.out}")
    made = pretrained(spec, args.out, epochs=args.epochs, snippets=args.snippets, lr=args.lr)
    return {**made, "checkpoint": str(args.out)}


def show(result: dict[str, Any]) -> None:
    print(f"snippets of {result['mark']}'s test videos: {result['snippets']}")
    print(f"told rightly: {result['accuracy']:.1%} (always the most common: {result['most_common']:.1%})")
    print(f"mean over classes: {result['recall']:.1%}")
    print(f"encoder: {result['checkpoint']}")


def run(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "experiments.pretrain",
        "Train a spec's encoder to tell which action a snippet shows, or none. An end-to-end run starts from its file:\n"
        "encoder.checkpoint. The spec says which videos, which encoder, batch, precision and seed.",
        "python -m experiments.pretrain --spec experiments/specs/encoder_laptop.yaml --out prepared/encoder.pth",
    )
    made.add_argument("--spec", type=Path, default=LAPTOP, help="videos and encoder (default: the laptop's)")
    made.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="override a knob of the spec")
    made.add_argument("--out", type=Path, default=Path("prepared/encoder.pth"), help="the file (default: %(default)s)")
    made.add_argument(
        "--epochs", type=int, default=EPOCHS, help="passes over the training videos (default: %(default)s)"
    )
    made.add_argument(
        "--snippets", type=int, default=SNIPPETS, help="of a video, drawn anew each time (default: %(default)s)"
    )
    made.add_argument("--lr", type=float, default=LR, help="AdamW, falling as a cosine (default: %(default)s)")
    return main(made, work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
