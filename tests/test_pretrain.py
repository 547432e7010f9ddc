"""Training an encoder to tell snippets apart: labels by hand, a task that can be learnt, the file that comes of it."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from etad import build
from etad.pretraining import drawn_clips, snippet_labels
from etad.spec import Spec, read_spec
from experiments import pretrain

SMOKE = Path("experiments/specs/end_to_end_smoke.yaml")


def test_a_snippet_is_what_its_centre_lies_in() -> None:
    segments = torch.tensor([[[0.0, 0.25], [0.2, 0.6], [0.9, 1.0]], [[0.125, 0.375], [0.0, 0.0], [0.0, 0.0]]])
    labels = torch.tensor([[3, 1, 2], [5, 0, 0]])
    present = torch.tensor([[True, True, True], [True, False, False]])
    told = snippet_labels(segments, labels, present, 8, 9)
    # centres 1/16, 3/16 .. 15/16: the first of two that overlap counts; an end is outside, a start inside
    assert told.tolist() == [[3, 3, 1, 1, 1, 9, 9, 2], [9, 5, 5, 9, 9, 9, 9, 9]]
    edges = snippet_labels(torch.tensor([[[0.25, 0.75]]]), torch.tensor([[1]]), torch.tensor([[True]]), 2, 0)
    assert edges.tolist() == [[1, 0]]


def batch(rows: list[int], epoch: int) -> dict[str, Tensor | int]:
    frames = torch.arange(6 * 8, dtype=torch.uint8).view(6, 8, 1, 1, 1, 1).expand(-1, -1, 3, 2, 4, 4)
    return {
        "frames": frames[rows],
        "segments": torch.tensor([[[0.0, 0.5]]]).expand(len(rows), -1, -1),
        "labels": torch.tensor([[1]]).expand(len(rows), -1),
        "present": torch.ones(len(rows), 1, dtype=torch.bool),
        "row": torch.tensor(rows),
        "epoch": epoch,
    }


def test_snippets_are_drawn_by_video_and_epoch_with_their_labels() -> None:
    clips, labels = drawn_clips(batch([2, 4], 0), count=3, background=7, seed=1)
    assert clips.shape == (2, 3, 3, 2, 4, 4)
    for v, row in enumerate((2, 4)):
        places = [int(clip[0, 0, 0, 0]) - 8 * row for clip in clips[v]]
        assert len(set(places)) == 3
        assert labels[v].tolist() == [1 if place < 4 else 7 for place in places]
    alone, _ = drawn_clips(batch([4], 0), count=3, background=7, seed=1)
    assert torch.equal(alone[0], clips[1])
    later, _ = drawn_clips(batch([2, 4], 1), count=3, background=7, seed=1)
    assert not torch.equal(later, clips)


def options(folder: Path) -> list[str]:
    return [f"data.source.args.folder={folder}", "runtime.device=cpu", "runtime.threads=1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Spec]:
    folder = tmp_path_factory.mktemp("videos")
    return folder, pretrain.chosen_spec(SMOKE, options(folder))


def test_the_file_holds_an_encoder_that_has_learnt(
    made: tuple[Path, Spec], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, spec = made
    out = tmp_path / "deep" / "encoder.pth"
    sets = [part for pair in options(folder) for part in ("--set", pair)]
    command = ["--spec", str(SMOKE), "--out", str(out), "--epochs", "6", "--snippets", "16", "--json", *sets]
    assert pretrain.run(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["checkpoint"] == str(out)
    assert 0 <= said["recall"] <= 1
    assert said["snippets"] == 4 * 16
    start = build.build_encoder(spec)
    told = spec.encoder
    assert told is not None
    after = build.build_encoder(spec.model_copy(update={"encoder": told.model_copy(update={"checkpoint": str(out)})}))
    moved = {n for n, v in after.state_dict().items() if not torch.equal(v, start.state_dict()[n])}
    assert "network.stem.0.weight" in moved
    assert "network.stem.1.running_mean" in moved  # nothing is frozen here
    assert pretrain.run(command) == 0
    again = torch.load(out, weights_only=True)["state_dict"]
    assert all(torch.equal(again[f"encoder.{n}"], v) for n, v in after.state_dict().items())


def test_it_learns_what_can_be_learnt() -> None:
    """Clips that are bright inside their segment: told rightly after a few steps."""
    from etad.pretraining import confusion
    from etad.pretraining import pretrain as learn

    class Bright:
        rows, ids = list(range(8)), tuple("abcdefgh")

        def __init__(self) -> None:
            generator = torch.Generator().manual_seed(0)
            self.segments = torch.tensor([[[0.25, 0.75]]]).repeat(8, 1, 1)
            self.labels, self.present = torch.zeros(8, 1, dtype=torch.int64), torch.ones(8, 1, dtype=torch.bool)
            noise = torch.randint(0, 60, (8, 8, 3, 4, 16, 16), generator=generator)
            noise[:, 2:6] += 120
            self.frames = noise.to(torch.uint8).numpy()

        def __len__(self) -> int:
            return 8

        def __getitems__(self, keys: list[tuple[int, int, int]]) -> dict[str, object]:
            row = torch.tensor([key[2] for key in keys])
            frames = torch.from_numpy(self.frames)[row]
            truth = {"segments": self.segments[row], "labels": self.labels[row], "present": self.present[row]}
            return {"frames": frames, "row": row, "epoch": keys[0][0], **truth}

    spec = read_spec(SMOKE)
    encoder, rows = build.build_encoder(spec), Bright()
    settings = {"classes": 1, "epochs": 8, "batch": 4, "snippets": 8, "lr": 1e-2, "weight_decay": 0.0, "seed": 0}
    classifier = learn(
        encoder,
        rows,  # type: ignore[arg-type]
        **settings,  # type: ignore[arg-type]
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    assert confusion(encoder, classifier, rows, classes=1).tolist() == [[32, 0], [0, 32]]  # type: ignore[arg-type]


def test_a_spec_of_features_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert pretrain.run(["--spec", "experiments/specs/smoke.yaml", "--out", str(tmp_path / "x.pth")]) == 1
    assert "no data.video" in capsys.readouterr().err
    assert not (tmp_path / "x.pth").exists()
