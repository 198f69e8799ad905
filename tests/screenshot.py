"""Open a notebook in a real JupyterLab, run it and take pictures: `python tests/screenshot.py NOTEBOOK OUT_DIR`.

Needs Chromium on the PATH (Debian: `apt-get install chromium`) and the `test` extra (playwright). The notebook is
copied to a temporary folder first, so nothing is written beside it; a py:percent source (.py) is converted.
`open_notebook` is what browser tests build on.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

WIDTH, HEIGHT = 1200, 1600
SCROLLER = ".jp-WindowedPanel-outer"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


@contextlib.contextmanager
def jupyter_lab(folder: Path, dark: bool = False) -> Iterator[str]:
    """A JupyterLab on loopback over `folder`, without a token: yields its address, and stops it afterwards."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as settings:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        choices = {
            "apputils-extension/themes": {"theme": "JupyterLab Dark" if dark else "JupyterLab Light"},
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            "notebook-extension/tracker": {"windowingMode": "none"},  # otherwise cells out of sight are not drawn
        }
        for name, values in choices.items():
            path = Path(settings, "@jupyterlab", f"{name}.jupyterlab-settings")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values), encoding="utf-8")
        free.close()
        options = [f"--ServerApp.root_dir={folder}", f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1"]
        options += ["--IdentityProvider.token=", "--no-browser", "--LabApp.expose_app_in_browser=True"]
        options += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        environment = os.environ | {"JUPYTERLAB_SETTINGS_DIR": settings, "JUPYTERLAB_WORKSPACES_DIR": settings}
        with tempfile.TemporaryFile() as log:
            command = [sys.executable, "-m", "jupyterlab", *options]
            server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            try:
                _wait_for(f"http://127.0.0.1:{port}/api", server, log)
                yield f"http://127.0.0.1:{port}"
            finally:
                server.terminate()
                server.wait(timeout=30)


@contextlib.contextmanager
def open_notebook(path: Path, dark: bool = False, run: bool = True, timeout: float = 300) -> Iterator:
    """A copy of a notebook open in JupyterLab, all cells run: yields playwright's page.

    RuntimeError where a cell fails or the run takes longer than `timeout` seconds.
    """
    from playwright.sync_api import sync_playwright

    if chromium() is None:
        raise RuntimeError("no Chromium on the PATH (Debian and Ubuntu: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        name = _copy(path, Path(folder))
        address = stack.enter_context(jupyter_lab(Path(folder), dark))
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=chromium(), args=["--no-sandbox"]
        )
        stack.callback(browser.close)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(f"{address}/doc/tree/{name}")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        page.wait_for_function("window.jupyterapp && document.querySelector('.jp-Notebook-ExecutionIndicator')")
        if run:
            run_all(page, timeout)
        page.wait_for_timeout(1000)  # widgets and formulas draw themselves after the kernel is idle
        yield page


def run_all(page, timeout: float = 300) -> None:
    """Run every cell of the notebook on the page. RuntimeError where one fails or they take longer than `timeout` s."""
    from playwright.sync_api import TimeoutError

    session = "window.jupyterapp.shell.currentWidget?.sessionContext?.session"
    page.wait_for_function(f"{session}?.kernel?.status === 'idle'", timeout=60_000)  # earlier, Lab asks for a kernel
    script = "() => { window.runIsOver = false; window.jupyterapp.commands.execute('notebook:run-all-cells')"
    page.evaluate(script + ".finally(() => { window.runIsOver = true; }); }")
    try:
        page.wait_for_function("window.runIsOver", timeout=timeout * 1000)
    except TimeoutError as error:
        raise RuntimeError(f"the run took more than {timeout:g} seconds, or JupyterLab waits for something") from error
    failed = page.query_selector(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']")
    if failed:
        failed.scroll_into_view_if_needed()
        raise RuntimeError("a cell failed:\n" + failed.inner_text()[-2000:])


def screenshots(page, folder: Path, stem: str) -> list[Path]:
    """Pictures of the whole notebook, one a screenful from top to bottom: stem-01.png, stem-02.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    page.evaluate("document.activeElement && document.activeElement.blur()")
    panel = page.locator(SCROLLER).first
    last = panel.locator(".jp-Cell").last  # below it Lab leaves room to scroll on
    height = last.bounding_box()["y"] + last.bounding_box()["height"] - panel.bounding_box()["y"]
    height, shown = (
        int(height + panel.evaluate("panel => panel.scrollTop")),
        panel.evaluate("panel => panel.clientHeight"),
    )
    paths = []
    for i, top in enumerate(range(0, height, shown - 40)):
        panel.evaluate("(panel, top) => { panel.scrollTop = top; }", top)
        page.wait_for_timeout(250)
        paths.append(folder / f"{stem}-{i + 1:02d}.png")
        panel.screenshot(path=paths[-1])
    return paths


def _copy(path: Path, folder: Path) -> str:
    if path.suffix == ".ipynb":
        shutil.copy(path, folder)
        return path.name
    import jupytext

    notebook = jupytext.read(path)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    jupytext.write(notebook, folder / f"{path.stem}.ipynb")
    return f"{path.stem}.ipynb"


def _wait_for(address: str, server: subprocess.Popen, log, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    log.seek(0)
    raise RuntimeError("JupyterLab did not start:\n" + log.read().decode(errors="replace")[-2000:])


def main() -> None:
    """Command line: see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path, help="an .ipynb, or a py:percent .py source")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("--theme", choices=("light", "dark", "both"), default="both")
    parser.add_argument("--no-run", action="store_true", help="show the outputs that the file holds")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for Run All")
    options = parser.parse_args()
    for theme in ("light", "dark") if options.theme == "both" else (options.theme,):
        with open_notebook(options.notebook, theme == "dark", not options.no_run, options.timeout) as page:
            for path in screenshots(page, options.out, f"{options.notebook.stem}-{theme}"):
                print(path)


if __name__ == "__main__":
    main()
