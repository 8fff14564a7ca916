"""JupyterLab in a folder of its own, and a Chromium that looks at one notebook at a time."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, TimeoutError, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is on the page
}
PLACES = ["CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR"]
PATIENCE_SECONDS, LOOK_SECONDS = 90, 6  # a machine may be busy


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """Serve `folder`, for this machine alone; the address. Nothing of the user's is touched."""
    own = folder.parent / "jupyter"
    places = {f"JUPYTER{'' if 'LAB' in p else '_'}{p}": str(own / p.lower()) for p in PLACES}
    places |= {"IPYTHONDIR": str(own / "ipython"), "LESSONS_MY": str(own / "my")}
    for name, values in SETTINGS.items():
        path = own / f"lab_settings_dir/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    options = {
        "ServerApp.root_dir": folder,
        "ServerApp.port": 0,  # a free one
        "ServerApp.allow_root": True,
        "LabApp.expose_app_in_browser": True,
        "IdentityProvider.token": "",
    }
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder.parent / "lab.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | places)
        try:
            yield _address(own / "runtime_dir", server, Path(log.name))
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()


def _address(runtime: Path, server: subprocess.Popen, log: Path) -> str:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and server.poll() is None:
        for found in runtime.glob("jpserver-*.json"):
            try:
                return json.loads(found.read_text())["url"]
            except ValueError:  # half-written
                pass
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@contextmanager
def browsed(address: str) -> Iterator[Page]:
    """JupyterLab at this address in a browser without a window; no notebook is open yet."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.set_default_timeout(1000 * PATIENCE_SECONDS)
            page.goto(f"{address}lab?reset")
            page.wait_for_function("window.jupyterapp")
            page.evaluate("async () => { await jupyterapp.restored }")
            yield page
        finally:
            browser.close()


class Notebook:
    """A notebook in JupyterLab: run it, look at its last cell, move what can be moved.

    `complaints` are the errors on the browser's console while it was open.
    """

    def __init__(self, page: Page, name: str):
        self.page, self.complaints = page, []
        page.on("pageerror", self._raised)
        page.on("console", self._heard)
        self._do("docmanager:open", path=name, factory="Notebook")
        page.evaluate("async () => { await jupyterapp.shell.currentWidget.context.ready }")
        self.last = page.locator(".jp-Notebook .jp-Cell").last
        self.last.wait_for()

    def _raised(self, error) -> None:
        self.complaints.append(str(error))

    def _heard(self, message) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _do(self, command: str, **arguments) -> None:
        """One of JupyterLab's own commands, until it is done."""
        execute = "async ([name, given]) => { await jupyterapp.commands.execute(name, given) }"
        self.page.evaluate(execute, [command, arguments])

    def close(self) -> None:
        """The notebook, saved, and its kernel, which takes seconds to end: that is not awaited."""
        self.page.evaluate("() => { jupyterapp.shell.currentWidget.sessionContext.shutdown() }")
        self._do("docmanager:save")
        self._do("application:close")
        self.last.wait_for(state="detached")
        self.page.remove_listener("pageerror", self._raised)
        self.page.remove_listener("console", self._heard)

    def run(self) -> None:
        """All cells, until the last has its controls; an error in any is an AssertionError."""
        self.page.evaluate(
            "async () => { await jupyterapp.shell.currentWidget.sessionContext.ready }"
        )
        self._do("notebook:run-all-cells")
        assert self.errors() == []
        self.controls.first.wait_for()

    @property
    def controls(self):
        """The controls of the last cell."""
        return self.last.locator(".noUi-handle, input[type=checkbox], select")

    def errors(self) -> list[str]:
        """What cells raised, and what a drawing says that failed."""
        raised = self.page.evaluate(
            "() => jupyterapp.shell.currentWidget.content.model.sharedModel.cells"
            ".flatMap(cell => cell.toJSON().outputs ?? [])"
            ".filter(output => output.output_type === 'error')"
            ".map(output => `${output.ename}: ${output.evalue}`)"
        )
        return raised + self.page.locator(".lessons-failed").all_inner_texts()

    def pictures(self) -> list[str]:
        """The pictures that can be seen below the last cell."""
        return self.last.locator("img").evaluate_all(
            "all => all.filter(one => one.offsetParent !== null).map(one => one.src)"
        )

    def move(self, control) -> float:
        """Move a control until the picture is another one; how many seconds that took."""
        before = self.pictures()
        for how in self._ways(control):
            start = time.perf_counter()
            how()
            try:
                self.page.wait_for_function(
                    "old => { const now = document.querySelector('.lessons-picture');"
                    " return now && now.complete && now.src !== old }",
                    arg=before[0],
                    polling="raf",
                    timeout=1000 * LOOK_SECONDS,
                )
            except TimeoutError:
                continue  # some values look the same
            return time.perf_counter() - start
        raise AssertionError(f"the picture stays the same; {self.errors()}")

    def _ways(self, control):
        kind = control.evaluate("one => one.tagName + (one.type || '')")
        if kind.startswith("SELECT"):
            count, at = control.evaluate("one => [one.options.length, one.selectedIndex]")
            others = [k for k in range(count) if k != at]
            return [lambda k=k: control.select_option(index=k) for k in others]
        if kind.startswith("INPUT"):
            return [control.click]
        return [lambda k=k: control.press(k) for k in ("End", "Home", "ArrowLeft")]
