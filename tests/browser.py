"""Pages as headless Chromium sees them; tests skip where there is none."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

PROBE = """<body style="margin:0"><iframe id="f" src="{page}" style="width:{width}px;height:2000px;border:0"></iframe>
<script>addEventListener("load", () => {{
  const frame = document.getElementById("f"), doc = frame.contentDocument, win = frame.contentWindow;
  const out = [...doc.body.querySelectorAll("*")].filter(e => {{
    const box = e.getBoundingClientRect();
    return box.width && !e.closest(".scroll > *, pre > *, svg *") && (box.right > {width} + .5 || box.left < -.5);
  }}).map(e => e.tagName + "." + e.className);
  const seen = (() => {{ {act} }})();
  document.title = JSON.stringify({{width: doc.documentElement.scrollWidth, out, title: doc.title,
    requests: win.performance.getEntriesByType("resource").map(r => r.name), ...seen}});
}});</script>"""


def look(page: Path, width: int, folder: Path, act: str = "return {};") -> dict[str, Any]:
    """What Chromium sees of a page in a frame `width` pixels wide: its width, what sticks out, what it asked for.

    `act` is JavaScript with the page as `doc` and its window as `win`; what it returns is added.
    """
    browser = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    (folder / "probe.html").write_text(PROBE.format(page=page.as_uri(), width=width, act=act))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--hide-scrollbars", "--window-size=1500,2000", "--dump-dom"]
    command = [browser, *flags, (folder / "probe.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert found, done.stderr[-500:]
    seen: dict[str, Any] = json.loads(unescape(found.group(1)))
    return seen
