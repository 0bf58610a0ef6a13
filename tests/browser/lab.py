"""A real JupyterLab, and a page of it in a real browser, with JupyterLab's own notions of ready, run and idle."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Page, expect

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = Path(__file__).parent / "artifacts"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
PATIENCE = 30_000  # ms, the ceiling of every wait; most take less than 4 s
expect.set_options(timeout=PATIENCE)

CHROMIUM_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # nothing but this JupyterLab can be reached
]

SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # every cell is in the page
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}


class Lab:
    """The server, with its settings, data and notebooks below one directory. ``url`` ends with a slash."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.root = home / "root"
        self.runtime = home / "runtime"
        directories = {
            "JUPYTER_CONFIG_DIR": home / "config",
            "JUPYTER_DATA_DIR": home / "data",
            "JUPYTER_RUNTIME_DIR": self.runtime,
            "JUPYTERLAB_SETTINGS_DIR": home / "settings",
            "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
            "IPYTHONDIR": home / "ipython",
            "HOME": home,
        }
        for directory in (*directories.values(), self.root):
            directory.mkdir(parents=True, exist_ok=True)
        # The same files that `make lab` and Binder use: what they ask of JupyterLab is tested, too.
        shutil.copytree(ROOT / "binder" / "jupyter", home / "config", dirs_exist_ok=True)
        (home / "config" / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY_"))}
        environment.update({k: str(v) for k, v in directories.items()})
        self.token = uuid.uuid4().hex
        self._log = (home / "lab.log").open("wb")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"),
                *("--ServerApp.port=0", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={self.root}"),
                f"--IdentityProvider.token={self.token}",
                "--LabApp.expose_app_in_browser=True",  # window.jupyterapp, for exact waits
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.url = self._wait()

    def _wait(self, limit: float = 60) -> str:
        end = time.monotonic() + limit
        info = self.runtime / f"jpserver-{self.process.pid}.json"
        while time.monotonic() < end and self.process.poll() is None:
            try:
                url = str(json.loads(info.read_text())["url"])
                with urllib.request.urlopen(f"{url}api/status?token={self.token}", timeout=5):
                    return url
            except (OSError, ValueError, KeyError):
                time.sleep(0.05)
        self.stop()
        raise RuntimeError("JupyterLab did not start:\n" + self.log()[-4000:])

    def log(self) -> str:
        """What the server has said."""
        return (self.home / "lab.log").read_text()

    def api(self, path: str, method: str = "GET") -> Any:
        """One request of the server's REST interface."""
        request = urllib.request.Request(f"{self.url}api/{path}", method=method, headers={"Authorization": f"token {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def write(self, name: str, *cells: Any) -> str:
        """A new notebook of these cells; text is a code cell."""
        made = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
        nbformat.write(new_notebook(cells=made, metadata={"kernelspec": kernel}), self.root / name)
        return name

    def add(self, path: Path) -> str:
        """A copy of a notebook of the book, with the pictures and modules beside it."""
        for beside in path.parent.iterdir():
            if beside.suffix != ".ipynb" and not beside.name.startswith("."):
                (shutil.copytree if beside.is_dir() else shutil.copy)(beside, self.root / beside.name)
        shutil.copy(path, self.root)
        return path.name

    def stop(self) -> None:
        """End it with its kernels."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._log.close()


class LabPage:
    """A notebook open in JupyterLab. ``outside`` are requests that left this machine, ``errors`` what the page complained of."""

    def __init__(self, page: Page, lab: Lab) -> None:
        self.page, self.lab = page, lab
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.kernel_id = ""
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.errors.append(f"pageerror {error}"))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        ours = (lab.url, "ws" + lab.url[4:], "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(ours) else self.outside.append(request.url))

    def open(self, name: str) -> LabPage:
        """Show the notebook and wait for its kernel; in a workspace of its own, so that no earlier tab comes back."""
        workspace = "t" + uuid.uuid4().hex[:8]
        where = f"{self.lab.url}lab/workspaces/{workspace}/tree/{urllib.parse.quote(name)}?token={self.lab.token}"
        self.page.goto(where, wait_until="domcontentloaded")
        self.page.wait_for_function("() => window.jupyterapp !== undefined")
        self.page.evaluate("() => window.jupyterapp.restored")
        # The toolbar's indicator can read idle before there is a session: ask the session itself.
        self.page.wait_for_function(
            """(name) => {
            const w = window.jupyterapp.shell.currentWidget;
            if (!(w && w.context && w.context.path === name && w.context.isReady && w.sessionContext.isReady)) return false;
            const k = w.sessionContext.session && w.sessionContext.session.kernel;
            return !!k && k.connectionStatus === 'connected' && k.status === 'idle' && w.content.widgets.length > 0;
        }""",
            arg=name,
        )
        current = "window.jupyterapp.shell.currentWidget"
        self.kernel_id = str(self.page.evaluate(f"() => {current}.sessionContext.session.kernel.id"))
        return self

    def command(self, name: str, **arguments: Any) -> Any:
        """Run one of JupyterLab's commands and wait for it."""
        return self.page.evaluate("([name, args]) => window.jupyterapp.commands.execute(name, args)", [name, arguments])

    def theme(self, name: str) -> None:
        """``light`` or ``dark``."""
        self.command("apputils:change-theme", theme=f"JupyterLab {name.title()}")
        self.page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=f"JupyterLab {name.title()}")

    def menu(self, top: str, command: str) -> None:
        """Click a menu entry by its command, which no translation or wording changes."""
        self.page.locator("#jp-MainMenu .lm-MenuBar-item").filter(has_text=top).first.click()
        self.page.locator(f".lm-Menu-item[data-command='{command}']").click()

    def run_all(self) -> LabPage:
        """Run all cells, as a reader does by the menu."""
        self.menu("Run", "runmenu:run-all")
        return self.wait_ran()

    def wait_ran(self, seconds: float = PATIENCE / 1000) -> LabPage:
        """Until every code cell has run and the kernel is idle, or one has failed (an AssertionError says which)."""
        self.page.wait_for_function(
            """() => {
            const w = window.jupyterapp.shell.currentWidget, k = w.sessionContext.session.kernel;
            const cells = w.content.widgets.filter(c => c.model.type === 'code' && c.model.sharedModel.getSource().trim());
            const outs = cells.flatMap(c => c.model.outputs.toJSON());
            if (outs.some(o => o.output_type === 'error')) return true;
            return k.status === 'idle' && cells.every(c => c.model.executionCount !== null && c.model.executionState !== 'running'
                && !c.promptNode?.textContent.includes('*'));
        }""",
            timeout=seconds * 1000,
        )
        errors = self.page.evaluate(
            """() => window.jupyterapp.shell.currentWidget.content.widgets
            .filter(c => c.model.type === 'code').flatMap(c => c.model.outputs.toJSON())
            .filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue)"""
        )
        assert not errors, errors
        return self

    def kernel(self, expression: str) -> Any:
        """Evaluate in the very kernel through a connection of its own: the browser has no part in the answer."""
        from jupyter_client.blocking import BlockingKernelClient

        client = BlockingKernelClient(connection_file=str(self.lab.runtime / f"kernel-{self.kernel_id}.json"))
        client.load_connection_file()
        client.start_channels(iopub=False, stdin=False, hb=False)
        try:
            asked = client.execute("", silent=True, store_history=False, user_expressions={"v": f"__import__('json').dumps({expression})"})
            while True:
                answer = client.get_shell_msg(timeout=20)
                if answer["parent_header"].get("msg_id") == asked:
                    value = answer["content"]["user_expressions"]["v"]
                    assert value["status"] == "ok", value
                    return json.loads(ast.literal_eval(value["data"]["text/plain"]))
        finally:
            client.stop_channels()
            client.context.term()

    def kernel_eventually(self, expression: str, want: Any, limit: float = 10) -> None:
        """Until the kernel says so."""
        end = time.monotonic() + limit
        while (got := self.kernel(expression)) != want and time.monotonic() < end:
            time.sleep(0.05)
        assert got == want, f"{expression}: {got!r}, wanted {want!r}"

    def shot(self, name: str, **options: Any) -> Path:
        """A picture of the page below ``artifacts``, for a person to look at."""
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        self.page.screenshot(path=path, animations="disabled", caret="hide", **options)
        assert path.stat().st_size > 5_000
        return path

    def long_shot(self, name: str, width: int = 1280) -> Path:
        """A picture of the whole notebook, without the frame around it: the window is made as tall as the notebook."""
        height = int(
            self.page.evaluate(
                "() => (document.querySelector('.jp-WindowedPanel-outer') ?? document.querySelector('.jp-Notebook')).scrollHeight"
            )
        )
        self.page.set_viewport_size({"width": width, "height": min(height + 120, 16_000)})
        self.page.evaluate("() => { for (const e of document.querySelectorAll('.jp-WindowedPanel-outer')) e.scrollTop = 0; }")
        try:
            return self.shot(name)
        finally:
            self.page.set_viewport_size({"width": width, "height": 1000})

    def quiet(self, ignore: Iterable[str] = ()) -> None:
        """Assert that nothing was asked of the world outside and that the page has not complained."""
        assert self.outside == []
        assert [error for error in self.errors if not any(word in error for word in ignore)] == []
