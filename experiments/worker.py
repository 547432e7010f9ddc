"""A process that computes one run after the other, so that torch is imported once: started by experiments.schedule.

It reads a line [spec file, folder of the run, folder of runs] on standard input for each run, and answers with a line: the
error in JSON, empty where there is none. What a run says on standard error goes into its folder, to output.txt. It ends
with the process at the other end of its standard input, however that ends.
"""

import gc
import json
import os
import select
import sys
import traceback
from pathlib import Path
from threading import Thread

from etad.spec import read_spec

SAID = "output.txt"


def _end_with_the_study() -> None:
    """Ends this process at once when nobody is left to send runs; a training goes on from its checkpoint next time."""
    closed = select.poll()
    closed.register(sys.stdin, 0)  # of no event but the other end's closing
    closed.poll()
    os._exit(1)


def main() -> None:
    from experiments.run import run_in

    Thread(target=_end_with_the_study, daemon=True).start()
    for line in sys.stdin:
        spec, folder, root = json.loads(line)
        with open(Path(folder) / SAID, "w", encoding="utf-8") as said:
            os.dup2(said.fileno(), 2)
        try:
            run_in(Path(root), read_spec(spec))
            error = ""
        except Exception as found:
            traceback.print_exc()
            error = f"{type(found).__name__}: {found}".splitlines()[0]
        print(json.dumps(error), flush=True)
        gc.collect()  # cycles of a training hold its memory


if __name__ == "__main__":
    main()
