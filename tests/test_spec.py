"""Specs: defaults, files, overrides, and what is refused with which words."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from etad.registry import AGGREGATORS, DATASETS, SAMPLERS, lookup
from etad.spec import (
    Entry,
    Spec,
    SpecError,
    differences,
    merge,
    parse_overrides,
    parse_spec,
    parse_yaml,
    read_spec,
    read_tree,
    spec_text,
)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


# --- defaults


def test_defaults_are_the_papers() -> None:
    spec = Spec()
    assert (spec.data.tscale, spec.roi.bins, spec.cascade.thresholds) == (128, 24, (0.7, 0.8, 0.9))
    assert (spec.training.lr, spec.training.batch, spec.training.epochs) == (1e-3, 16, 6)
    assert (spec.inference.sigma, spec.inference.max_detections, spec.proposals.ratio) == (0.35, 100, 0.06)
    assert parse_spec({}) == spec


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Spec().roi.bins = 16  # type: ignore[misc]


def test_every_knob_is_described() -> None:
    schema = Spec.model_json_schema()
    bare = [
        f"{name}.{key}"
        for name, model in schema["$defs"].items()
        for key, field in model["properties"].items()
        if "description" not in field
    ]
    assert not bare


# --- unknown keys and wrong types


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"roi": {"bin": 16}}, "unknown key roi.bin; did you mean roi.bins?"),
        ({"modle": {}}, "unknown key modle; did you mean model?"),
        ({"training": {"learning_rates": 1.0}}, "unknown key training.learning_rates; known here: epochs"),
        ({"bins": 16}, "unknown key bins; did you mean roi.bins?"),
        ({"roi": {"sigma": 0.5}}, "unknown key roi.sigma; did you mean inference.sigma?"),
        (
            {"data": {"windows": {"stride": 1.0}}},
            "unknown key data.windows.stride; did you mean data.windows.stride_s?",
        ),
        ({"data": {"source": {"nam": "x"}}}, "unknown key data.source.nam; did you mean data.source.name?"),
        ({1: 2}, "unknown key 1"),
    ],
)
def test_unknown_keys_name_the_nearest(tree: dict[Any, Any], said: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_spec(tree, "here.yaml")
    assert str(error.value).startswith("here.yaml: ")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.epochs", "6"),
        ("training.epochs", 6.0),
        ("training.epochs", True),
        ("training.epochs", 0),
        ("training.epochs", None),
        ("training.lr", "0.001"),
        ("training.lr", math.nan),
        ("training.lr", math.inf),
        ("training.lr", -1e-3),
        ("training.seed", 2**31),
        ("roi.bins", 22),
        ("roi.bins", [24]),
        ("cascade.thresholds", 0.7),
        ("cascade.thresholds", []),
        ("cascade.thresholds", [0.7, 1.5]),
        ("loss.sampling", "clamp"),
        ("loss.iou_bands", [0.3]),
        ("proposals.ratio", 0.0),
        ("proposals.ratio", 1.01),
        ("proposals.sampler", "random"),
        ("data.windows", {"overlap": 0.5}),  # no stride
        ("data", 3),
        ("data.train_subset", 7),
        ("name", "../evil"),
        ("name", ""),
    ],
)
def test_wrong_values_are_refused_by_name(key: str, value: Any) -> None:
    tree = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    with pytest.raises(SpecError, match=r"^here\.yaml: ") as error:
        parse_spec(tree, "here.yaml")
    assert key.split(".")[-1] in str(error.value) or "JSON" in str(error.value)


def test_whole_numbers_are_numbers() -> None:
    assert parse_spec({"roi": {"extend": 1}}).roi.extend == 1.0


# --- files


def test_scientific_notation_is_a_number(tmp_path: Path) -> None:
    text = "training: {lr: 1e-3, weight_decay: 2.5E-04}\nloss: {iou_weight: 1e1}"
    spec = read_spec(write(tmp_path, a=text))
    assert (spec.training.lr, spec.training.weight_decay, spec.loss.iou_weight) == (1e-3, 2.5e-4, 10.0)


def test_bases_chain_and_later_ones_win(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", root="training: {epochs: 1, batch: 2}\nroi: {bins: 8}")
    write(
        tmp_path,
        one="_base_: deep/root.yaml\ntraining: {epochs: 3, lr: 0.5}",
        two="training: {lr: 0.25}\nname: two",
        top="_base_: [one.yaml, two.yaml]\ncascade: {thresholds: [0.5]}",
    )
    spec = read_spec(tmp_path / "top.yaml", ["training.batch=4"])
    assert differences(spec) == {
        "name": "two",
        "training.epochs": 3,
        "training.batch": 4,
        "training.lr": 0.25,
        "roi.bins": 8,
        "cascade.thresholds": [0.5],
    }


def test_one_base_by_two_ways_is_no_cycle(tmp_path: Path) -> None:
    top = write(tmp_path, top="_base_: [a.yaml, b.yaml]", a="_base_: c.yaml", b="_base_: c.yaml", c="roi: {bins: 8}")
    assert read_spec(top).roi.bins == 8


@pytest.mark.parametrize("second", ["a.yaml", "../{folder}/a.yaml"])
def test_cycles_are_refused(tmp_path: Path, second: str) -> None:
    top = write(tmp_path, a="_base_: b.yaml", b=f"_base_: {second.format(folder=tmp_path.name)}")
    with pytest.raises(SpecError, match=r"a\.yaml: _base_ leads back to itself"):
        read_spec(top)


@pytest.mark.parametrize("base", ["3", "[3]", "{a: 1}", "null", "true"])
def test_a_base_is_a_path(tmp_path: Path, base: str) -> None:
    with pytest.raises(SpecError, match=r"a\.yaml: _base_ is a file's path or a list of them"):
        read_spec(write(tmp_path, a=f"_base_: {base}"))


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.yaml: cannot read this spec"):
        read_spec(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match=r"gone\.yaml: cannot read"):
        read_spec(write(tmp_path, a="_base_: gone.yaml"))
    with pytest.raises(SpecError, match="not a plain YAML file"):
        read_spec(write(tmp_path, a="roi: [1, 2"))
    with pytest.raises(SpecError, match="mapping of sections, not list"):
        read_spec(write(tmp_path, a="[1, 2]"))
    (tmp_path / "a.yaml").write_bytes(b"name: \xff")
    with pytest.raises(SpecError, match="cannot read this spec"):
        read_spec(tmp_path / "a.yaml")
    with pytest.raises(SpecError, match="cannot read this spec"):
        read_spec(tmp_path)
    assert read_spec(write(tmp_path, a="")) == Spec()


@pytest.mark.parametrize("text", ["roi: {bins: 8, bins: 16}", "roi: {bins: 8}\nroi: {extend: 1.0}"])
def test_a_key_stands_once(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError, match="stands twice"):
        read_spec(write(tmp_path, a=text))


PAYLOADS = [
    "name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{marker}]]",
    "name: !!python/object/apply:os.system ['touch {marker}']",
    "name: !!python/object/new:os.system ['touch {marker}']",
    "name: !!python/name:os.system ''",
    "name: !!python/module:antigravity ''",
    "name: !custom {{a: 1}}",
    "!!python/object/apply:os.system ['touch {marker}']",
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_is_refused_and_not_run(tmp_path: Path, payload: str) -> None:
    marker = tmp_path / "marker"
    text = payload.format(marker=marker)
    for attempt in (
        lambda: read_spec(write(tmp_path, a=text)),
        lambda: read_spec(write(tmp_path, b="_base_: a.yaml", a=text)),
        lambda: parse_overrides([f"name={text.removeprefix('name: ')}"]),
    ):
        with pytest.raises(SpecError, match="not a plain YAML file"):
            attempt()
    assert not marker.exists()


def test_endless_nesting_is_one_error(tmp_path: Path) -> None:
    for open_, close in ("[]", "{}"):
        with pytest.raises(SpecError, match=r"a\.yaml.*recursion"):
            read_spec(write(tmp_path, a=f"data: {{source: {{args: {{x: {open_ * 10_000}{close * 10_000}}}}}}}"))


def test_control_the_payload_would_run_in_an_unsafe_loader(tmp_path: Path) -> None:
    import yaml

    marker = tmp_path / "marker"
    yaml.unsafe_load(PAYLOADS[1].format(marker=marker))
    assert marker.exists()


def test_values_that_are_not_json_are_refused() -> None:
    for text in ("name: 2020-01-01", "name: !!binary aGk=", "data: {source: {args: {a: &x [*x]}}}"):
        with pytest.raises(SpecError):
            parse_spec(parse_yaml(text, "here"), "here")


# --- round trip


NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,8}\Z")
TREES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(NAMES, st.sampled_from(["1e5", "null", "yes", "1.5", "0x1F", "1_0", "5E-3", "12"])),
        "data": st.fixed_dictionaries(
            {},
            optional={
                "train_subset": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
                "windows": st.none() | st.fixed_dictionaries({"stride_s": st.floats(1e-6, 1e6)}),
                "source": st.fixed_dictionaries(
                    {"name": NAMES},
                    optional={
                        "args": st.dictionaries(
                            st.text("abc1e5", min_size=1, max_size=4),
                            st.recursive(st.none() | st.booleans() | st.integers() | NAMES, st.lists, max_leaves=4),
                        )
                    },
                ),
            },
        ),
        "training": st.fixed_dictionaries(
            {}, optional={"lr": st.floats(1e-12, 1e3), "clip_norm": st.none() | st.floats(1e-3, 1e9)}
        ),
        "cascade": st.fixed_dictionaries({"thresholds": st.lists(st.floats(0, 1), min_size=1, max_size=4)}),
    },
)


@given(TREES)
def test_text_reads_back_equal(tree: dict[str, Any]) -> None:
    spec = parse_spec(tree)
    assert parse_spec(parse_yaml(spec_text(spec), "text")) == spec


@given(TREES)
def test_differences_rebuild_the_spec(tree: dict[str, Any]) -> None:
    """Set one by one over the defaults, unless an entry of another name has to be replaced whole."""
    spec = parse_spec(tree)
    changed = differences(spec)
    assert (spec == Spec()) == (not changed)
    dump = spec.model_dump(mode="json")
    for key, value in changed.items():
        at: Any = dump
        for part in key.split("."):
            at = at[part]
        assert at == value
    assert not differences(spec, spec)


def test_differences_from_another_base() -> None:
    base = parse_spec({"roi": {"bins": 8}, "data": {"source": {"name": "a", "args": {"k": 1}}}})
    spec = parse_spec({"roi": {"bins": 16}, "data": {"source": {"name": "b"}}})
    assert differences(spec, base) == {"roi.bins": 16, "data.source.name": "b", "data.source.args": {}}


def test_schema_is_json_and_closed() -> None:
    schema = json.loads(json.dumps(Spec.model_json_schema()))
    assert all(model.get("additionalProperties") is False for model in schema["$defs"].values())


# --- overrides


def test_overrides_are_typed_and_strict() -> None:
    pairs = ["roi.bins=16", "training.lr=5e-4", "training.clip_norm=null", "cascade.thresholds=[0.5, 0.6]", "name=x"]
    spec = parse_spec(parse_overrides(pairs))
    assert (spec.roi.bins, spec.training.lr, spec.training.clip_norm) == (16, 5e-4, None)
    assert (spec.cascade.thresholds, spec.name) == ((0.5, 0.6), "x")
    assert parse_overrides(["roi.bins=8", "roi.bins=16"]) == {"roi": {"bins": 16}}
    assert parse_overrides(["data.train_subset=a=b"]) == {"data": {"train_subset": "a=b"}}
    for wrong in ("roi.bins='16'", "roi.bins=16.0", "roi.bin=16", "roi..bins=16"):
        with pytest.raises(SpecError):
            parse_spec(parse_overrides([wrong]))


@pytest.mark.parametrize("pair", ["roi.bins", "=3", "", "roi.bins=[1"])
def test_malformed_overrides_name_themselves(pair: str) -> None:
    with pytest.raises(SpecError, match="--set"):
        parse_overrides([pair])


@pytest.mark.parametrize("reverse", [False, True])
def test_an_entrys_overrides_hold_in_any_order(reverse: bool) -> None:
    pairs = ["proposals.sampler.name=feature-guided", "proposals.sampler.args.dimensions=4"]
    spec = parse_spec(parse_overrides(reversed(pairs) if reverse else pairs))
    assert spec.proposals.sampler == Entry(name="feature-guided", args={"dimensions": 4})


def test_an_entry_of_another_name_replaces_the_arguments() -> None:
    base = {"model": {"aggregator": {"name": "mine", "args": {"a": 1, "b": 2}}, "width": 8}}
    assert merge(base, {"model": {"aggregator": {"name": "other"}}})["model"] == {
        "aggregator": {"name": "other"},
        "width": 8,
    }
    same = merge(base, {"model": {"aggregator": {"args": {"b": 3}}}})["model"]["aggregator"]
    assert same == {"name": "mine", "args": {"a": 1, "b": 3}}
    assert base["model"]["aggregator"]["args"] == {"a": 1, "b": 2}


def test_windows_start_from_their_own_defaults(tmp_path: Path) -> None:
    spec = parse_spec({"data": {"windows": {"stride_s": 0.5}}})
    assert spec.data.windows is not None
    assert (spec.data.windows.stride_s, spec.data.windows.overlap) == (0.5, 0.5)
    top = write(tmp_path, top="_base_: a.yaml\ndata: {windows: null}", a="data: {windows: {stride_s: 0.5}}")
    assert read_spec(top).data.windows is None
    assert read_tree(top) == {"data": {"windows": None}}


# --- entries


def mine(width: int, *, depth: int = 1, needed: str) -> Any:
    """A component from outside, found as `module:object`."""
    return width, depth, needed


NO_FUNCTION = 3.0


def test_lookup_finds_registered_entries() -> None:
    assert lookup(AGGREGATORS, Entry(name="lstm"), given=("width",)).__name__ == "lstm"
    assert lookup(SAMPLERS, Entry(name="feature-guided", args={"dimensions": 3}), given=("draw",))
    assert lookup(DATASETS, Entry(name="synthetic", args={"classes": 3}), given=("spec",))


def test_lookup_finds_what_a_user_registers() -> None:
    @SAMPLERS.register_module(name="from-outside")
    def outside(draw: Any, *, power: float = 2.0) -> None: ...

    try:
        assert lookup(SAMPLERS, Entry(name="from-outside", args={"power": 1.0}), given=("draw",)) is outside
    finally:
        SAMPLERS.module_dict.pop("from-outside")


def test_lookup_imports_an_object() -> None:
    found = lookup(AGGREGATORS, Entry(name=f"{__name__}:mine", args={"needed": "x"}), given=("width",))
    assert found(3, needed="x") == (3, 1, "x")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (Entry(name="lsmt"), "no aggregator named 'lsmt'; did you mean lstm?"),
        (Entry(name="zzz"), "no aggregator named 'zzz'; known: attention, dilated, gru, lstm, lstm-forward, none"),
        (Entry(name="lstm", args={"depth": 2}), "aggregator lstm takes no argument 'depth'; it takes: none"),
        (Entry(name="lstm", args={"width": 2}), "takes no argument 'width'"),
        (Entry(name=f"{__name__}:mine", args={"dept": 2}), "takes no argument 'dept'; did you mean depth?"),
        (Entry(name=f"{__name__}:mine"), "needs the argument needed"),
        (Entry(name="no_such_module:mine"), "aggregator no_such_module:mine: No module named"),
        (Entry(name=f"{__name__}:absent"), "has no attribute 'absent'"),
        (Entry(name=f"{__name__}:NO_FUNCTION"), "no function or class"),
        (Entry(name=":mine"), "aggregator :mine: "),
    ],
)
def test_lookup_says_what_is_wrong(entry: Entry, said: str) -> None:
    with pytest.raises(SpecError) as error:
        lookup(AGGREGATORS, entry, given=("width",))
    assert said in str(error.value)
