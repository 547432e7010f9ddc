"""`python -m experiments.specs schema` writes the JSON Schema that editors complete specs from; `show` resolves a spec."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etad.record import write_json
from etad.spec import Spec, read_spec, spec_text
from experiments.command import main, parser


def work(args: argparse.Namespace) -> dict[str, Any]:
    if args.what == "show":
        return read_spec(args.spec or Path(__file__).parent / "laptop.yaml", args.set).model_dump(mode="json")
    schema = Spec.model_json_schema()
    schema["properties"]["_base_"] = {
        "description": "specs to inherit from, paths beside this file",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    if args.out:
        write_json(args.out, schema)
    return schema


def show(result: dict[str, Any]) -> None:
    if "$defs" in result:
        print(json.dumps(result, indent=1))
    else:
        print(spec_text(Spec.model_validate_json(json.dumps(result))), end="")


def run(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "experiments.specs",
        "Show a resolved spec, or write the schema of all.",
        "python -m experiments.specs schema --out spec.schema.json",
    )
    made.add_argument("what", choices=("schema", "show"))
    made.add_argument("--spec", type=Path, help="the spec to show (default: laptop)")
    made.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE")
    made.add_argument("--out", type=Path, help="write the schema here too")
    return main(made, work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
