"""What an executable needs, against the loader itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from needs import requires
from nsbook.images import elf


def build(directory: Path, name: str, text: str, *options: str) -> Path:
    (directory / f"{name}.c").write_text(text)
    out = directory / name
    subprocess.run(["gcc", "-o", out, directory / f"{name}.c", *options], check=True, timeout=60)
    return out


def loaded_by(path: Path | str) -> dict[str, str]:
    """{name: path} as the loader itself says."""
    listed = subprocess.run(["ldd", path], stdout=subprocess.PIPE, check=True, text=True, timeout=20).stdout
    found = {}
    for line in listed.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if arrow:
            found[name] = rest.split(" (")[0]
    return found


@pytest.mark.parametrize("tool", ["sh", "ls", "bash", "ip", "mount", "tar", "python3"])
def test_the_host_s_tools_need_what_the_loader_says(tool: str) -> None:
    path = shutil.which(tool, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if path is None or shutil.which("ldd") is None:
        pytest.skip(f"needs {tool} and ldd")
    headers = elf.read(path)
    if headers is None or headers.static:
        pytest.skip(f"needs a dynamic {tool}: here it is a script or static")
    found, missing = elf.Loader().libraries(path)
    assert not missing
    loader = os.path.basename(headers.interpreter)
    ours = {library.name: os.path.realpath(library.path) for library in found if library.name != loader}
    assert ours == {name: os.path.realpath(there) for name, there in loaded_by(path).items() if there.startswith("/")}
    assert os.path.exists(headers.interpreter)


@requires("busybox-static")
def test_static() -> None:
    path = shutil.which("busybox")
    assert path is not None
    headers = elf.read(path)
    assert headers is not None
    assert headers.static
    assert headers.machine == os.uname().machine


@requires("gcc")
@pytest.mark.parametrize("flags", ["--enable-new-dtags", "--disable-new-dtags"], ids=["runpath", "rpath"])
def test_origin(flags: str, tmp_path: Path) -> None:
    """$ORIGIN, and a library that only its own library's path finds: an RPATH is handed down, a RUNPATH is not."""
    (tmp_path / "lib").mkdir()
    build(tmp_path / "lib", "libinner.so", "int inner(void) { return 7; }", "-shared", "-fPIC")
    build(
        tmp_path / "lib",
        "libouter.so",
        "int inner(void); int outer(void) { return inner(); }",
        "-shared",
        "-fPIC",
        f"-L{tmp_path}/lib",
        "-linner",
    )
    program = build(
        tmp_path,
        "program",
        "int outer(void); int main(void) { return outer(); }",
        f"-L{tmp_path}/lib",
        "-louter",
        f"-Wl,-rpath-link,{tmp_path}/lib",
        f"-Wl,{flags},-rpath,$ORIGIN/lib",
    )
    headers = elf.read(program)
    assert headers is not None
    assert (headers.runpath if flags.startswith("--enable") else headers.rpath) == ("$ORIGIN/lib",)
    found, missing = elf.Loader().libraries(str(program))
    ran = subprocess.run([program], check=False, stderr=subprocess.DEVNULL, timeout=20).returncode
    paths = {library.name: library.path for library in found}
    assert paths["libouter.so"] == f"{tmp_path}/lib/libouter.so"
    if flags.startswith("--enable"):
        assert ran == 127
        assert missing == ("libinner.so",)
    else:
        assert ran == 7
        assert missing == ()
        assert paths["libinner.so"] == f"{tmp_path}/lib/libinner.so"


@requires("gcc")
def test_fields(tmp_path: Path) -> None:
    library = build(tmp_path, "libx.so.1", "int x;", "-shared", "-fPIC", "-Wl,-soname,libx.so.1")
    headers = elf.read(library)
    assert headers is not None
    assert headers.soname == "libx.so.1"
    assert headers.interpreter == ""


def test_what_is_no_elf_file(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    (tmp_path / "empty").touch()
    whole = Path(os.path.realpath(sys.executable)).read_bytes()[:4096]
    (tmp_path / "foreign").write_bytes(whole[:18] + b"\xf3\x00" + whole[20:])
    assert [elf.read(tmp_path / name) for name in ("script", "empty", "foreign")] == [None, None, None]
    with pytest.raises(FileNotFoundError):
        elf.read(tmp_path / "absent")


@pytest.mark.parametrize("seed", range(30))
def test_a_broken_elf_file_is_none_or_read(seed: int, tmp_path: Path) -> None:
    import random

    content = bytearray(Path("/proc/self/exe").read_bytes()[:100_000])
    rng = random.Random(seed)
    for _ in range(20):
        content[rng.randrange(6, 2000)] = rng.randrange(256)
    (tmp_path / "f").write_bytes(bytes(content))
    elf.read(tmp_path / "f")
    elf.cache("x86_64", str(tmp_path / "f"))


def test_the_cache_is_ldconfig_s(tmp_path: Path) -> None:
    ldconfig = shutil.which("ldconfig", path="/sbin:/usr/sbin")
    if ldconfig is None or not os.path.exists(elf.CACHE):
        pytest.skip("needs ldconfig and its cache")
    listed = subprocess.run([ldconfig, "-p"], stdout=subprocess.PIPE, check=True, text=True, timeout=20).stdout
    wanted: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, rest = line.strip().partition(" ")
        flags, arrow, path = rest.partition(" => ")
        word = {"x86_64": "x86-64", "aarch64": "AArch64"}[os.uname().machine]
        if arrow and word in flags and "hwcap" not in flags:
            wanted.setdefault(name, path)
    assert elf.cache(os.uname().machine) == wanted
