"""Every error that nsbook raises on purpose::

    NsbookError
    ├ SetupError        an op of a plan failed          .op .transcript .diagnosis (its cause: the OSError)
    ├ CleanupError      something could not be undone   .original (never hidden)
    ├ StateError        closed, or in the wrong state   .expected .actual
    ├ NotFound
    │ ├ ImageNotFound  ContainerNotFound  NetworkNotFound  VolumeNotFound
    ├ Conflict          the name or place is taken
    ├ InvalidReference  InvalidSpec  InvalidOption      (each also a ValueError)
    ├ ImageError
    │ ├ DigestMismatch  UnsafeArchive  UnknownMediaType
    ├ RegistryError     .status .diagnostics
    │ └ Unauthorized
    ├ BuildError        .instruction .line
    │ └ DockerfileSyntaxError
    └ Unsupported       this host can't                 .feature .reason .fix

None of them knows of HTTP or of exit codes: those who speak to a client map classes to what it expects. ``linux``
raises plain :class:`OSError` (so that ``FileNotFoundError`` and its kin stay what Python's users expect); the floors
above wrap it, and the OSError stays as the cause.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class NsbookError(Exception):
    """The root: catches all that nsbook raises on purpose."""


class SetupError(NsbookError):
    """An op of a plan failed. ``op`` is that op, ``transcript`` what had been done, ``diagnosis`` who refused and why."""

    def __init__(self, message: str, *, op: Any = None, transcript: Any = None, diagnosis: Any = None) -> None:
        super().__init__(message)
        self.op = op
        self.transcript = transcript
        self.diagnosis = diagnosis


class CleanupError(NsbookError):
    """Something could not be undone. ``original`` is the error that made the clean-up necessary, if there was one."""

    def __init__(self, message: str, *, original: BaseException | None = None) -> None:
        super().__init__(message)
        self.original = original


class StateError(NsbookError):
    """The object is closed, or not in the state that the call needs."""

    def __init__(self, message: str, *, expected: str = "", actual: str = "") -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class NotFound(NsbookError, LookupError):
    """Nothing of that name."""


class ImageNotFound(NotFound):
    """No such image."""


class ContainerNotFound(NotFound):
    """No such container."""


class NetworkNotFound(NotFound):
    """No such network."""


class VolumeNotFound(NotFound):
    """No such volume."""


class Conflict(NsbookError):
    """The name or the place is already taken, or the thing is in use."""


class InvalidReference(NsbookError, ValueError):
    """Not an image reference."""


class InvalidSpec(NsbookError, ValueError):
    """An OCI runtime configuration that says something impossible or is incomplete."""


class InvalidOption(NsbookError, ValueError):
    """An option's value makes no sense, or does not go together with another."""


class ImageError(NsbookError):
    """An image's content is not what it should be."""


class DigestMismatch(ImageError):
    """The bytes do not have the digest by which they were asked for."""


class UnsafeArchive(ImageError):
    """An archive tried to write outside of its root, or is broken."""


class UnknownMediaType(ImageError):
    """A media type that nsbook does not know how to read."""


class RegistryError(NsbookError):
    """A registry refused or failed."""

    def __init__(self, message: str, *, status: int = 0, diagnostics: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.diagnostics = diagnostics


class Unauthorized(RegistryError):
    """The registry wants credentials, or other ones."""


class BuildError(NsbookError):
    """A Dockerfile's instruction failed."""

    def __init__(self, message: str, *, instruction: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.instruction = instruction
        self.line = line


class DockerfileSyntaxError(BuildError):
    """Not a Dockerfile."""


class Unsupported(NsbookError):
    """This host can't. ``feature`` names what was asked for, ``reason`` who refuses it, ``fix`` how to get it."""

    def __init__(self, feature: str, reason: str, fix: str = "") -> None:
        super().__init__(f"{feature}: {reason}" + (f" Fix: {fix}" if fix else ""))
        self.feature = feature
        self.reason = reason
        self.fix = fix
