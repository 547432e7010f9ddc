"""A process that computes one run after the other, so that torch is imported once: started by experiments.schedule.

It reads a line [spec file, folder of the run, folder of runs] on standard input for each run, and answers with a line: the
error in JSON, empty where there is none. What a run says on standard error goes into its folder, to output.txt. It ends
with the process at the other end of its standard input, however that ends.
"""

import gc
import json
import os
import traceback
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from etad.spec import read_spec

SAID = "output.txt"


def _read(lines: SimpleQueue[bytes]) -> None:
    """Reads on until the study's end of the pipe closes, then ends this process at once, whatever it is doing.

    A training goes on from its checkpoint next time.
    """
    with open(0, "rb", buffering=0, closefd=False) as study:  # unbuffered: it holds no lock that a fork would copy
        for line in study:
            lines.put(line)
    os._exit(1)


def main() -> None:
    from experiments.run import run_in

    lines: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_read, args=(lines,), daemon=True).start()
    while True:
        spec, folder, root = json.loads(lines.get())
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
