"""The made-up clips: what they depend on, what they show, and how their files are made and kept."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import decode_all

from etad import build
from etad.data.annotations import Video
from etad.data.moving_shapes import MOTIONS, SHAPES_1, ShapesModel, frame_times, motion, render
from etad.data.samples import Corpus
from etad.data.synthetic_truth import draw_annotations, read_statistics
from etad.data.synthetic_videos import CODEC, NAME, QUANTISER, SHORTER, SHORTEST_S, drawn_truth
from etad.evaluate import evaluate
from etad.spec import parse_spec

PLAIN = SHAPES_1.model_copy(
    update={
        "noise": 0.0,
        "shake": 0.0,
        "wander": 0.0,
        "clutter": (0, 0),
        "events": SHAPES_1.events.model_copy(
            update={"shot_s": 1e9, "cutaways": 0.0, "pauses": 0.0, "distractors": 0.0, "jitter": (0.0, 0.0)}
        ),
    }
)


def video(label: int, duration_s: float = 12.0, segment: tuple[float, float] = (4.0, 9.0)) -> Video:
    return Video(f"video{label}", "training", duration_s, np.array([segment]), np.array([label]))


def corpus(folder: Path, **args: Any) -> Corpus:
    given = {"train_videos": 4, "test_videos": 3, "classes": 3, "folder": str(folder)} | args
    shown = {"frames": 4, "short_side": 36, "size": 32}
    return build.build_corpus(
        parse_spec({"data": {"tscale": 8, "video": shown, "source": {"name": "synthetic_videos", "args": given}}})
    )


def change(frames: np.ndarray) -> np.ndarray:
    """How much each frame differs from the one before, [n - 1]."""
    return np.abs(np.diff(frames.astype(int), axis=0)).mean((1, 2, 3))


@pytest.mark.parametrize("label", range(10))
def test_the_actor_moves_during_the_action_only(label: int) -> None:
    shown = video(label)
    moved = change(render(PLAIN, shown, 0, 10))
    middle = frame_times(PLAIN, shown)[:-1] + 0.5 / PLAIN.frame_rate
    inside = (middle > 5) & (middle < 8)
    outside = (middle < 3.8) | (middle > 9.2)
    assert moved[inside].mean() > 5 * moved[outside].mean()


def test_classes_move_each_in_its_own_way() -> None:
    ways = [motion(label, 25, SHAPES_1) for label in range(25)]
    assert len(set(ways)) == 25
    assert {kind for kind, _ in ways} == set(MOTIONS)
    rates = sorted({rate for _, rate in ways})
    assert rates[0] == pytest.approx(SHAPES_1.rates[0])
    assert rates[-1] == pytest.approx(SHAPES_1.rates[1])
    assert max(rates) < SHAPES_1.frame_rate / 2, "a faster one would look slower"


def middle_of_actor(frames: np.ndarray) -> np.ndarray:
    """Where the actor is [n, 2] (x, y): the centre of what differs from the median picture."""
    apart = np.abs(frames.astype(int) - np.median(frames, axis=0)).sum(3) > 60
    grid = np.arange(frames.shape[1])
    count = np.maximum(apart.sum((1, 2)), 1)
    return np.stack([(apart.sum(1) * grid).sum(1) / count, (apart.sum(2) * grid).sum(1) / count], 1)


@pytest.mark.parametrize(("label", "swings"), [(0, (True, False)), (1, (False, True)), (2, (True, True))])
def test_sideways_is_sideways(label: int, swings: tuple[bool, bool]) -> None:
    shown = video(label)
    times = frame_times(PLAIN, shown)
    place = middle_of_actor(render(PLAIN, shown, 3, 10))[(times > 5) & (times < 8)]
    spread = place.std(0) > 3
    assert tuple(spread.tolist()) == swings


def test_a_video_is_a_function_of_its_id_and_the_seed() -> None:
    a, b = render(SHAPES_1, video(1), 0, 10), render(SHAPES_1, video(1), 0, 10)
    np.testing.assert_array_equal(a, b)
    assert a.shape == (96, 64, 64, 3)
    for other in (render(SHAPES_1, video(1), 1, 10), render(SHAPES_1, replace(video(1), id="other"), 0, 10)):
        assert not np.array_equal(a, other)


@pytest.mark.parametrize(
    "field",
    [
        "noise",
        "reach",
        "swell",
        "start",
        "actor",
        "wander",
        "clutter",
        "drift",
        "shake",
        "actor_colour",
        "clutter_colour",
    ],
)
def test_every_strength_changes_the_picture(field: str) -> None:
    base = SHAPES_1.model_copy(update={"clutter": (6, 6)})
    value = getattr(base, field)
    halved = tuple(type(v)(v / 2) for v in value) if isinstance(value, tuple) else value / 2
    shown = video(3 if field == "swell" else 0)
    a = render(base, shown, 0, 10)
    assert not np.array_equal(a, render(base.model_copy(update={field: halved}), shown, 0, 10))


@pytest.mark.parametrize("model", [SHAPES_1, ShapesModel(side=32, frame_rate=12)])
def test_ground_truth_is_the_features_one_on_shorter_videos(model: ShapesModel) -> None:
    long = draw_annotations(read_statistics("anet13"), {"training": 50}, 10, 3)
    short = drawn_truth({"training": 50}, 10, 3, "anet13", model)
    assert short.classes == long.classes
    for id, a in long.videos.items():
        b = short.videos[id]
        np.testing.assert_allclose(b.segments_s / b.duration_s, a.segments_s / a.duration_s, atol=1e-12)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert b.duration_s >= SHORTEST_S
        assert (b.duration_s * model.frame_rate).is_integer()
        assert len(frame_times(model, b)) == b.duration_s * model.frame_rate
        if a.duration_s > 60:
            assert b.duration_s == pytest.approx(a.duration_s / 10, abs=0.1)


def test_files_hold_what_was_rendered(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("synthetic-videos-1-")
    assert made.mark == "synthetic-videos-1"
    assert {path.stem for path in folder.iterdir()} == set(made.annotations.videos)
    for id in ("training_000001", "validation_000002"):
        stamps, pictures = decode_all(folder / f"{id}.mp4", 64, 64)
        rendered = render(SHAPES_1, made.annotations.videos[id], 0, 3)
        assert len(pictures) == len(rendered)
        assert [float(s) for s in stamps] == [n / 8 for n in range(len(rendered))]
        assert np.abs(np.array(pictures).astype(int) - rendered).mean() < 12


def test_made_once_and_finished_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(tmp_path)
    (folder,) = tmp_path.iterdir()
    first = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    lost = folder / "training_000002.mp4"
    before = lost.read_bytes()
    lost.unlink()
    corpus(tmp_path, test_videos=2)
    after = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {path for path in first if first[path] != after[path]} == {lost}
    assert lost.read_bytes() == before

    def broken(*args: Any) -> Any:
        raise RuntimeError("killed")

    lost.unlink()
    monkeypatch.setattr("etad.data.synthetic_videos.render", broken)
    with pytest.raises(RuntimeError, match="killed"):
        corpus(tmp_path)
    assert not [path for path in folder.iterdir() if path.name.startswith(lost.name)]


def test_other_settings_have_other_folders_and_another_difficulty_another_mark(tmp_path: Path) -> None:
    corpus(tmp_path)
    corpus(tmp_path, seed=1)
    assert corpus(tmp_path, noise=0.1).mark == "synthetic videos, noise 0.1"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_spoilt_file_is_named(tmp_path: Path) -> None:
    corpus(tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "training_000001.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"training_000001\.mp4: is an empty file; delete this file"):
        corpus(tmp_path)


def test_floor_and_ceiling_bound_a_detector(tmp_path: Path) -> None:
    made = corpus(tmp_path, train_videos=1, test_videos=12)
    scores = {
        name: evaluate(made.annotations, bound, tiou=(0.5, 0.75), subset="validation").average_mAP
        for name, bound in made.bounds.items()
    }
    assert 0 < scores["floor"] < scores["ceiling"] - 0.2


@pytest.mark.parametrize("args", [{"classes": 1}, {"train_videos": 0}, {"noise": -0.1}, {"seed": -1}])
def test_settings_without_meaning_are_refused(args: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="synthetic_videos needs"):
        corpus(tmp_path, **args)


def test_the_frozen_set_stays_what_its_name_says() -> None:
    """Change a setting, and the set is another one: give it another name, and this test the new settings."""
    settings = json.dumps([SHAPES_1.model_dump(), SHORTER, SHORTEST_S, CODEC, QUANTISER], sort_keys=True)
    assert (NAME, hashlib.sha256(settings.encode()).hexdigest()[:12]) == ("synthetic-videos-1", "9b5b63cf2154")
