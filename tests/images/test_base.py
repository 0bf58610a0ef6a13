"""The embedded image: both ways to make it, the same each time, and it runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from needs import requires
from nsbook.errors import Unsupported
from nsbook.images import Image, base, unpacked
from nsbook.images.base import base as make

WAYS = [pytest.param("busybox", marks=requires("busybox-static")), "tools"]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data of its own, and nothing remembered in this process."""
    monkeypatch.setenv("NSBOOK_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.setattr(base, "_made", {})
    return tmp_path


def inside(root: str, script: str) -> str:
    """What a shell says whose root it is."""
    apart = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    done = subprocess.run(
        ["unshare", *apart, "--mount", "chroot", root, "/bin/sh", "-c", script],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@requires("userns")
@pytest.mark.parametrize("way", WAYS)
def test_it_runs(way: str, elsewhere: Path) -> None:
    image = make(way=way)
    root = unpacked(image)
    assert inside(root, "echo $((6*7)); ls -d /proc /sys /dev /tmp /run /root /home/reader /etc/hosts; id -u") == (
        "42\n/dev\n/etc/hosts\n/home/reader\n/proc\n/root\n/run\n/sys\n/tmp\n0\n"
    )
    assert "nsbook base" in inside(root, "cat /etc/os-release")
    assert inside(root, "id -u reader; /usr/bin/env echo hi; hostname >/dev/null; sleep 0; mkdir -p /tmp/x; rmdir /tmp/x") == "1000\nhi\n"
    assert oct(os.stat(f"{root}/tmp").st_mode) == "0o41777"
    assert oct(os.stat(f"{root}/root").st_mode) == "0o40700"
    assert image.config.argv() == ("/bin/sh",)
    assert image.config.argv(("true",)) == ("true",)


@pytest.mark.parametrize("way", ["tools"])
def test_every_tool_finds_its_libraries(way: str, elsewhere: Path) -> None:
    """The loader itself says so, for every executable in the image, from within it."""
    root = Path(unpacked(make(way=way)))
    from nsbook.images import elf

    programmes = [p for p in root.rglob("*") if p.is_file() and not p.is_symlink() and os.access(p, os.X_OK)]
    checked = 0
    for path in programmes:
        headers = elf.read(path)
        if headers is None or not headers.interpreter or ".so" in path.name:
            continue
        name = f"/{path.relative_to(root)}"
        assert "not found" not in inside(str(root), f"{headers.interpreter} --list {name} 2>&1")
        checked += 1
    assert checked > 10


@pytest.mark.parametrize("way", WAYS)
def test_the_same_host_gives_the_same_image(way: str, tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(way=way)
    for i, changed in enumerate(({}, {"PATH": "/nowhere:" + os.environ["PATH"]}, {"SOURCE_DATE_EPOCH": "86400"})):
        monkeypatch.setattr(base, "_made", {})
        monkeypatch.setenv("NSBOOK_ROOT", str(tmp_path / f"root{i}"))
        for name, value in changed.items():
            monkeypatch.setenv(name, value)
        again = make(way=way)
        if "SOURCE_DATE_EPOCH" in changed:
            assert again != first
            assert os.stat(f"{unpacked(again)}/etc/passwd").st_mtime == 86400
        else:
            assert again == first
            assert again.layers == first.layers
            assert Path(again.layers[0].path).read_bytes() == Path(first.layers[0].path).read_bytes()
            assert os.stat(f"{unpacked(again)}/etc/passwd").st_mtime == 0


@requires("busybox-static")
def test_another_busybox_makes_another_image(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by the file's stamp, in this process and in the next."""
    found = base.static_busybox()
    assert found is not None
    (elsewhere / "bin").mkdir()
    mine = elsewhere / "bin/busybox"
    shutil.copy(found, mine)
    monkeypatch.setattr(base, "PLACES", (str(elsewhere / "bin"),))
    first = make()
    assert os.path.realpath(mine) == base.static_busybox()
    with open(mine, "ab") as file:
        file.write(b"\0")
    monkeypatch.setattr(base, "_made", {})
    second = make()
    assert second != first
    assert os.stat(f"{unpacked(second)}/bin/busybox").st_size == os.stat(f"{unpacked(first)}/bin/busybox").st_size + 1


def test_without_busybox_the_tools(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced = make(way="tools")
    monkeypatch.setattr(base, "static_busybox", lambda: None)
    assert make() == forced


def test_without_anything_it_says_so(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "bin").mkdir()
    (elsewhere / "bin/sh").write_text("#!/no/elf\n")
    (elsewhere / "bin/sh").chmod(0o755)
    monkeypatch.setattr(base, "PLACES", (str(elsewhere / "bin"),))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unsupported, match="busybox-static"):
        make()


def test_a_library_that_only_the_cache_knows(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets a symlink where the loader looks without a cache; here libc itself is said to be such a one."""
    from nsbook.images import elf

    real = elf.Loader.libraries

    def unknown(self: elf.Loader, path: str) -> tuple[tuple[elf.Library, ...], tuple[str, ...]]:
        found, missing = real(self, path)
        moved = tuple(x.replace(known=False, path=f"{elsewhere}/{x.name}") if x.name in copied else x for x in found)
        return moved, missing

    found, _ = elf.Loader().libraries(os.path.realpath(base.find("ls") or ""))
    copied = {x.name for x in found if not x.name.startswith(("libc.", "ld-"))}
    if not copied:
        pytest.skip("needs an ls with a library besides libc")
    for x in found:
        if x.name in copied:
            shutil.copy(x.path, elsewhere / x.name)
    monkeypatch.setattr(elf.Loader, "libraries", unknown)
    root = unpacked(make(way="tools"))
    for name in copied:
        assert os.path.exists(f"{root}{elsewhere}/{name}")
    assert "passwd" in inside(root, "ls /etc")


def test_the_next_process_reads_little_and_is_quick(elsewhere: Path) -> None:
    """It knows the image by the stamps of its sources: nothing is hashed, no JSON parsed, no programme run."""
    script = (
        "import sys, time; from nsbook.images import Image, unpacked; start = time.perf_counter(); "
        "image = Image.base(); path = unpacked(image); first = time.perf_counter(); Image.base(); unpacked(image); "
        "end = time.perf_counter(); heavy = {'json', 'hashlib', 're', 'subprocess', 'tarfile', 'ctypes', 'enum', 'typing'}; "
        "after = heavy & set(sys.modules); import json; print(json.dumps([image.digest, path, end - first, sorted(after)]))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def run() -> list[object]:
        done = subprocess.run([sys.executable, "-S", "-c", script], env=env, stdout=subprocess.PIPE, check=True, timeout=60)
        answer = json.loads(done.stdout)
        assert isinstance(answer, list)
        return answer

    cold, warm = run(), run()
    assert cold[:2] == warm[:2]
    assert warm[3] == []
    assert min(float(str(run()[2])) for _ in range(3)) < 0.001


@pytest.mark.parametrize("way", WAYS)
def test_it_is_there_in_a_second(way: str, elsewhere: Path) -> None:
    """Processor time, since the machine may be busy with other things."""
    start = time.process_time()
    make(way=way)
    assert time.process_time() - start < 1


def test_what_it_says_of_itself(elsewhere: Path) -> None:
    image = Image.base()
    text = str(image)
    assert "Image base" in text
    assert image.digest in text
    assert image.digest not in image._repr_mimebundle_()["text/plain"], "it differs from host to host"
    snapshot = image.inspect()
    assert snapshot.layers[0].diff_id == image.layers[0].diff_id
    assert not snapshot.diff(image.inspect())
    json.dumps(snapshot.to_dict())
    names = [entry.path for entry in image.layers[0].entries()]
    assert names[0] == "./"
    assert "etc/os-release" in names
    assert names == sorted(names, key=lambda p: p.strip("./").split("/"))
