"""The embedded image: a small Linux, put together from this host's own files, without a network.

Where the host has a static busybox, that is all it takes: one file, and a symlink for each of its applets. Elsewhere
the host's own shell and tools are taken along, with the loader and the shared libraries that their ELF headers name
(:mod:`nsbook.images.elf`), each at the path where the loader looks for it. Around them stand the few files that
programmes expect: accounts, name resolution, ``/etc/os-release``.

The same files of the host give the same digest: names in order, ids 0, the time of ``SOURCE_DATE_EPOCH`` (else 0), no
setuid bits. The layer is stored; later processes know it by the stamps of the files that it was made of.
"""

from __future__ import annotations

import os
from zlib import crc32

from nsbook.errors import ImageError, Unsupported
from nsbook.images import store
from nsbook.images.config import PATH, ImageConfig
from nsbook.images.image import Image, Layer
from nsbook.images.sources import architecture
from nsbook.places import data_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PLACES = (
    "/bin",
    "/usr/bin",
    "/sbin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/lib/busybox",
    "/run/current-system/sw/bin",
)
TOOLS = """
sh bash ls cat cp mv ln rm mkdir rmdir touch chmod chown pwd stat readlink df du dd mknod mkfifo
echo printf env true false test [ expr sleep date seq yes tee head tail wc sort uniq cut tr nl od sha256sum
grep sed awk find xargs ps kill id whoami groups hostname uname nproc tty mount umount findmnt chroot
nsenter unshare setpriv capsh ip ping nice timeout nohup free dmesg more
"""
"""What is taken along where there is no static busybox; those that the host lacks are left out."""

ACCOUNTS = (
    ("root", 0, "/root", "/bin/sh"),
    ("nobody", 65534, "/nonexistent", "/bin/false"),
    ("reader", 1000, "/home/reader", "/bin/sh"),
)
FILES = {
    "etc/passwd": "".join(f"{name}:x:{n}:{n}:{name}:{home}:{shell}\n" for name, n, home, shell in ACCOUNTS),
    "etc/group": "root:x:0:\nnogroup:x:65534:\nreader:x:1000:\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/resolv.conf": "",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/os-release": 'NAME="nsbook base"\nID=nsbook-base\nPRETTY_NAME="nsbook base"\n',
}
DIRECTORIES = {
    "": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "home/reader": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "run": 0o755,
    "sys": 0o755,
    "tmp": 0o1777,
    "usr": 0o755,
    "var": 0o755,
    "var/tmp": 0o1777,
}


class Tree:
    """What the image is to hold: paths without a leading slash, each a directory's mode, a symlink's target or a file
    (of the host, or its content). ``sources`` are the files of the host that it depends on."""

    def __init__(self) -> None:
        self.directories = dict(DIRECTORIES)
        self.symlinks: dict[str, str] = {}
        self.contents: dict[str, bytes] = {path: text.encode() for path, text in FILES.items()}
        self.files: dict[str, str] = {}
        self.sources: set[str] = set()

    def bring(self, path: str) -> str:
        """Take along a file of the host at its own path, with every symlink on the way to it; its real path comes back."""
        parts = [part for part in path.split("/") if part]
        here = ""
        links = 0
        while parts:
            part = parts.pop(0)
            if part == "..":
                here = here.rpartition("/")[0]
                continue
            if part == ".":
                continue
            place = f"{here}/{part}".lstrip("/")
            if os.path.islink(f"/{place}"):
                links += 1
                if links > 40:
                    raise ImageError(f"{path}: a loop of symlinks")
                target = os.readlink(f"/{place}")
                self.symlinks[place] = target
                if target.startswith("/"):
                    here = ""
                parts = [piece for piece in target.split("/") if piece] + parts
                continue
            here = place
            if parts:
                self.directories.setdefault(here, 0o755)
        self.files[here] = f"/{here}"
        self.sources.add(f"/{here}")
        return f"/{here}"

    def tar(self, mtime: int) -> Iterator[bytes]:
        """The layer, in pieces."""
        from nsbook.images.pack import TRAILER, header
        from nsbook.images.tar import BLOCK, Entry

        kinds: dict[str, str] = dict.fromkeys(self.directories, "dir")
        kinds |= dict.fromkeys(self.files, "file") | dict.fromkeys(self.contents, "content") | dict.fromkeys(self.symlinks, "symlink")
        for path in sorted(kinds, key=lambda p: p.split("/")):
            kind, name = kinds[path], os.fsencode(path)
            if kind == "dir":
                owner = 1000 if path == "home/reader" else 0
                yield header(Entry(name + b"/" if name else b"./", "dir", self.directories[path], owner, owner, mtime=mtime))
            elif kind == "symlink":
                yield header(Entry(name, "symlink", 0o777, mtime=mtime, target=os.fsencode(self.symlinks[path])))
            else:
                mode, content = 0o644, self.contents.get(path)
                if content is None:
                    with open(self.files[path], "rb") as file:
                        content = file.read()
                        mode = 0o755 if os.fstat(file.fileno()).st_mode & 0o111 else 0o644
                yield header(Entry(name, "file", mode, size=len(content), mtime=mtime))
                yield content
                yield bytes(-len(content) % BLOCK)
        yield TRAILER


def base(*, way: str = "") -> Image:
    """The image. ``way`` forces one of the two: ``busybox`` or ``tools``.

    Unsupported where the host has neither a static busybox nor a shell of this machine's kind.
    """
    root = data_root()
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    mtime = int(epoch) * 1_000_000_000 if epoch.isdigit() else 0
    key = f"{root}\n{mtime}\n{way}"
    image = _made.get(key)
    if image is not None and os.path.exists(image.layers[0].path):
        return image
    first = [f"{mtime} {os.environ.get('PATH', '')}", *store.stamps(__file__, "config.py", "image.py", "pack.py")]
    name = f"base-{way or 'any'}-{crc32(os.fsencode(first[0])):08x}"
    config = ImageConfig(
        env=(PATH,), cmd=("/bin/sh",), architecture=architecture(), labels=(("org.opencontainers.image.title", "nsbook base"),)
    )
    image = _remembered(root, store.seen(root, name), first, config)
    if image is None:
        tree = _busybox_tree() if way in ("", "busybox") else None
        if tree is None and way in ("", "tools"):
            tree = tools_tree()
        if tree is None:
            raise Unsupported("Image.base()", "this host has no static busybox and no shell", "apt install busybox-static")
        stamps = [store.stamp(path) for path in sorted(tree.sources)]
        digest, size = store.keep(root, tree.tar(mtime))
        image = Image.of("base", config, (Layer(digest, size, store.blob(root, digest), size),))
        store.note(root, name, [*first, digest, str(size), image.image_id, image.digest, *stamps])
    _made[key] = image
    return image


_made: dict[str, Image] = {}


def _remembered(root: str, lines: list[str], first: list[str], config: ImageConfig) -> Image | None:
    """The image of an earlier process, if every file that it was made of is still the same."""
    n = len(first)
    if len(lines) <= n + 4 or lines[:n] != first:
        return None
    diff_id, length, image_id, digest, *stamps = lines[n:]
    path, size = store.blob(root, diff_id), int(length)
    try:
        if os.stat(path).st_size != size or any(store.stamp(line.split("\t", 1)[0]) != line for line in stamps):
            return None
    except OSError:
        return None
    return Image("base", config, (Layer(diff_id, size, path, size),), image_id, digest)


def _searched() -> list[str]:
    """The usual places first: the image should not depend on whose PATH it is, if it can be helped."""
    return [path for path in (*PLACES, *os.environ.get("PATH", "").split(":")) if os.path.isabs(path)]


def find(name: str) -> str | None:
    """The path of a programme of the host."""
    for directory in _searched():
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def static_busybox() -> str | None:
    """A busybox that runs on this machine without any library, told by its headers."""
    from nsbook.images.elf import read

    for directory in _searched():
        for name in ("busybox", "busybox.static", "busybox-static"):
            path = os.path.join(directory, name)
            try:
                elf = read(path) if os.access(path, os.X_OK) and os.path.isfile(path) else None
            except OSError:
                continue
            if elf is not None and elf.static and elf.machine == os.uname().machine:
                return path
    return None


def _busybox_tree() -> Tree | None:
    path = static_busybox()
    if path is None:
        return None
    import subprocess  # the one programme that this floor runs: only busybox itself knows its applets

    try:
        done = subprocess.run([path, "--list"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # a seccomp filter or noexec: the tools may still do
    tree = Tree()
    real = os.path.realpath(path)
    # One directory holds them all, and every customary path leads there.
    tree.directories["usr/bin"] = 0o755
    tree.symlinks |= {"bin": "usr/bin", "sbin": "usr/bin", "usr/sbin": "bin"}
    tree.files["usr/bin/busybox"] = real
    tree.sources.add(real)
    for applet in done.stdout.split():
        if applet != "busybox" and "/" not in applet:
            tree.symlinks[f"usr/bin/{applet}"] = "busybox"
    return tree


def tools_tree() -> Tree | None:
    """The host's shell and tools, with their loader and libraries."""
    from nsbook.images import elf

    loader = elf.Loader()
    shell = find("sh")
    if shell is None or loader.read(shell) is None:
        return None
    tree = Tree()
    # A tool that comes or goes changes its directory.
    tree.sources |= {path for path in (elf.CACHE, *_searched()) if os.path.exists(path)}
    libraries: dict[str, elf.Library] = {}
    for tool in TOOLS.split():
        path = find(tool)
        headers = loader.read(path) if path else None
        if path is None or headers is None or headers.machine != os.uname().machine:
            continue
        found, missing = loader.libraries(path)
        if missing:
            continue  # it does not run here, either
        tree.bring(path)
        for place in ("bin", "usr/bin"):  # where scripts look for it, wherever the host has it
            _link(tree, place, tool, path)
        if headers.interpreter:
            tree.bring(headers.interpreter)
        for library in found:
            libraries.setdefault(library.name, library)
    if not any(path.rpartition("/")[2] == "sh" for path in (*tree.files, *tree.symlinks)):
        return None
    libc = next((library.path for name, library in libraries.items() if name.startswith("libc.")), "")
    beside = os.path.dirname(libc)
    for library in libraries.values():
        tree.bring(library.path)
        if not library.known and beside:
            # Found by the host's ld.so.cache, which is not taken along: a symlink where the loader looks without it.
            tree.bring(libc)
            tree.symlinks.setdefault(f"{_real(tree, beside)}/{library.name}", library.path)
    files = os.path.join(beside, "libnss_files.so.2") if beside else ""
    if files and os.path.exists(files):
        tree.bring(files)  # before glibc 2.34 it is loaded by name, which no header tells
    return tree


def _link(tree: Tree, place: str, tool: str, path: str) -> None:
    """A symlink at /bin and /usr/bin for a tool that the host has elsewhere."""
    where = f"{_real(tree, place)}/{tool}"
    if where not in tree.files and where not in tree.symlinks:
        tree.symlinks[where] = path


def _real(tree: Tree, place: str) -> str:
    """A directory of the image, its symlinks followed as the host has them (``bin`` is often ``usr/bin``)."""
    real = os.path.realpath(f"/{place.lstrip('/')}").lstrip("/")
    here = place.strip("/")
    if real != here and os.path.islink(f"/{here}"):
        tree.symlinks.setdefault(here, os.readlink(f"/{here}"))
    parts = real.split("/")
    for i in range(len(parts)):
        tree.directories.setdefault("/".join(parts[: i + 1]), 0o755)
    return real
