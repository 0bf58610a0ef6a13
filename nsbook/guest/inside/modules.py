"""Loading kernel modules as modprobe(8) does, where there may be no modprobe. modules.dep(5)."""

from __future__ import annotations

import os

from nsbook.linux.kernel import finit_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MODULE_INIT_COMPRESSED_FILE = 4  # finit_module(2)


def plain(name: str) -> str:
    """A module's name: dash and underscore are the same."""
    return name.replace("-", "_")


def stem(path: str) -> str:
    """The module's name from its file's."""
    return plain(path.rpartition("/")[2].partition(".ko")[0])


def load(directory: str, name: str) -> None:
    """Load ``name`` (a module or one of its aliases) from a kernel's module directory, after all that it needs.

    What is built in or loaded already counts as loaded. LookupError: there is no such module.
    """
    files, needs = _dependencies(directory)
    wanted = [plain(name)] if plain(name) in files else _aliased(directory, name)
    if not wanted and not _built_in(directory, name):
        raise LookupError(f"no module {name!r} in {directory}")
    for module in wanted:
        for path in [*reversed(needs[module]), files[module]]:
            _insert(f"{directory}/{path}")


def closure(directory: str, names: Iterable[str]) -> list[str]:
    """The files of these modules and of all that they need, in the order in which to load them; without what is built in."""
    files, needs = _dependencies(directory)
    order: list[str] = []
    for name in names:
        if name in files:
            order += [p for p in [*reversed(needs[name]), files[name]] if p not in order]
    return [f"{directory}/{path}" for path in order]


def _insert(path: str) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        finit_module(file, "", 0 if path.endswith(".ko") else MODULE_INIT_COMPRESSED_FILE)
    except FileExistsError:
        pass
    finally:
        os.close(file)


def _dependencies(directory: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    files: dict[str, str] = {}
    needs: dict[str, list[str]] = {}
    with open(f"{directory}/modules.dep") as file:
        for line in file:
            path, _, rest = line.partition(":")
            files[stem(path)] = path
            needs[stem(path)] = rest.split()
    return files, needs


def _aliased(directory: str, name: str) -> list[str]:
    from fnmatch import fnmatchcase

    found = []
    with open(f"{directory}/modules.alias") as file:
        for line in file:
            words = line.split()
            if len(words) == 3 and words[0] == "alias" and plain(words[2]) not in found:
                pattern = words[1]
                if name == pattern or plain(name) == plain(pattern) or ("*" in pattern and fnmatchcase(name, pattern)):
                    found.append(plain(words[2]))
    return found


def _built_in(directory: str, name: str) -> bool:
    try:
        with open(f"{directory}/modules.builtin") as file:
            return any(stem(line.strip()) == plain(name) for line in file)
    except FileNotFoundError:
        return False


def modprobe(words: list[str]) -> int:
    """The program that the kernel runs when it wants a module: ``modprobe [-q] [-a] [--] NAME...``."""
    directory = f"/lib/modules/{os.uname().release}"
    status = 0
    for name in words:
        if name.startswith("-"):
            continue
        try:
            load(directory, name)
        except (LookupError, OSError) as error:
            status = 1
            if "-q" not in words:
                os.write(2, f"modprobe: {error}\n".encode())
    return status
