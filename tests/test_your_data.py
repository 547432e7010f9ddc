"""docs/your_data.md, word by word: its commands in their order, the set smaller and the training shorter."""

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import ROOT

PAGE = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")
SMALLER = {"--videos 60": "--videos 8"}  # of the commands as they stand
SHORTER = {"experiments.run": ["--set", "training.epochs=2", "--set", "training.decay_epochs=[1]"]}


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.S)
    lines = "".join(blocks).replace("\\\n", " ").strip().splitlines()
    for words, fewer in SMALLER.items():
        assert any(words in line for line in lines)
        lines = [line.replace(words, fewer) for line in lines]
    return [shlex.split(line) for line in lines]


def test_the_page_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    done = []
    for words in commands():
        assert words[:2] == ["python", "-m"], words
        module, given = words[2], words[3:]
        code = import_module(module).run([*given, *SHORTER.get(module, [])])
        said = capsys.readouterr()
        assert code == 0, f"{words}: {said.err}"
        done.append(module.removeprefix("experiments."))
    torch.set_num_threads(threads)
    assert done == ["example_set", "prepare", "run", "report", "diagnose", "detect"]
    for path in re.findall(r"`((?:prepared|site|diagnosis)/[\w./]+)`", PAGE):
        assert (tmp_path / path).stat().st_size > 0, path
    assert (tmp_path / "found.png").stat().st_size > 0
    found = json.loads((tmp_path / "found.json").read_text())["results"]["validation_000000"]
    assert len(found) == 10
    labels = {line.split(",")[3] for line in (tmp_path / "example/truth.csv").read_text().splitlines()[1:]}
    assert {row["label"] for row in found} <= labels


def test_the_readme_leads_there() -> None:
    assert "docs/your_data.md" in (ROOT / "README.md").read_text(encoding="utf-8")
