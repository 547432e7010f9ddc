"""A survey on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from etad.data.survey import QUANTILES

MOST_CLASSES = 20  # rows of the table of classes


def show_survey(console: Console, survey: dict[str, Any]) -> None:
    counts = Table("subset", *(column for column in ("videos", "without instances", "instances", "hours")))
    for name, of in survey["subsets"].items():
        counts.add_row(
            name, *(f"{of[key]:,}" for key in ("videos", "empty", "instances")), f"{of['seconds'] / 3600:.2f}"
        )
    console.print(counts)
    spread = Table("of all", *(f"{q:.0%}" for q in QUANTILES))
    rows = {"video (s)": "duration_s", "instance (s)": "length_s", "instance (of its video)": "share"}
    for title, key in (*rows.items(), ("instances a video", "instances")):
        spread.add_row(title, *(f"{value:.1%}" if key == "share" else f"{value:,.3g}" for value in survey[key]))
    console.print(spread)
    classes = Table("class", *survey["subsets"])
    many = sorted(survey["classes"].items(), key=lambda item: -sum(item[1].values()))
    for label, of in many[:MOST_CLASSES]:
        classes.add_row(label, *(f"{of[name]:,}" for name in survey["subsets"]))
    if len(many) > MOST_CLASSES:
        classes.add_row(f"and {len(many) - MOST_CLASSES} more", *("" for _ in survey["subsets"]))
    console.print(classes)
    for sentence in survey["findings"]:
        console.print(f"note: {sentence}", highlight=False, markup=False, soft_wrap=True)
