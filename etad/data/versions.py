"""Which version of a benchmark's test set some ground truth is: public tools count different ones, under one name."""

import re
from collections.abc import Sequence

THUMOS14 = {  # instances: what they are; in 210 to 213 videos, as those without any are kept or not
    3358: "all as annotated",
    3332: "less those that lie outside their video",
    3311: "less the falsely annotated videos 0000270 and 0001496",
}
_TEST_ID = re.compile(r"video_test_\d{7}")


def version(ids: Sequence[str], instances: int) -> str | None:
    """What this many instances in these videos are of THUMOS-14's test set; None for other data.

    Two mAPs are comparable where this says the same. A part of the set, or an unknown version of it, is called so.
    """
    if not ids or not all(map(_TEST_ID.fullmatch, ids)):
        return None
    counted = f"thumos14 test, {instances:,} instances in {len(ids)} videos"
    if instances in THUMOS14 and 210 <= len(ids) <= 213:
        return f"{counted}: {THUMOS14[instances]}"
    return f"{counted}: none of the known versions ({', '.join(f'{n:,}' for n in THUMOS14)} in 210 to 213)"
