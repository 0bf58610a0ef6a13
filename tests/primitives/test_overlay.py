"""Overlays: stacked, written to, read layer by layer, and taken down."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import nsbook
from needs import requires
from nsbook import Mount, MountTable, Overlay
from nsbook.errors import CleanupError, InvalidOption, NotFound, SetupError, StateError, Unsupported

from .conftest import AsUser

pytestmark = requires("root", "overlay")

Layers = Callable[..., list[Path]]


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    """Directories with these files (a trailing slash: an empty directory), top first."""

    def make(*contents: dict[str, str]) -> list[Path]:
        made = []
        for number, files in enumerate(contents):
            layer = tmp_path / f"layer{number}"
            layer.mkdir()
            for name, text in files.items():
                place = layer / name
                if name.endswith("/"):
                    place.mkdir(parents=True)
                else:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_text(text)
            made.append(layer)
        return made

    return make


def test_the_top_wins_and_the_layers_stay_as_they_were(layers: Layers) -> None:
    top, bottom = layers({"both": "top", "a": "a"}, {"both": "bottom", "b": "b", "gone": "x"})
    with Overlay.create([top, bottom]) as overlay:
        merged = Path(overlay.merged)
        assert {p.name: p.read_text() for p in merged.iterdir()} == {"both": "top", "a": "a", "b": "b", "gone": "x"}
        (merged / "b").write_text("changed")
        (merged / "new").write_text("new")
        (merged / "gone").unlink()
        assert [(c.kind, c.path) for c in overlay.changes()] == [("C", "/b"), ("D", "/gone"), ("A", "/new")]
        assert (Path(overlay.upperdir) / "b").read_text() == "changed"
        assert overlay.lowerdirs == (str(top), str(bottom))
        upper = overlay.upperdir
    assert (bottom / "b").read_text() == "b"
    assert (bottom / "gone").exists()
    assert not os.path.exists(upper)
    assert not os.path.exists(overlay.merged)
    assert not list(nsbook.ledger())
    overlay.close()
    for ask in (overlay.inspect, overlay.changes, overlay.sheet, lambda: overlay.origin("/a")):
        with pytest.raises(StateError, match="is closed"):
            ask()


def test_an_upper_directory_of_one_s_own_stays(layers: Layers, tmp_path: Path) -> None:
    (lower,) = layers({"file": "below"})
    upper, target = tmp_path / "upper", tmp_path / "target"
    upper.mkdir()
    target.mkdir()
    with Mount.create("tmpfs", upper):
        (upper / "up").mkdir()
        (upper / "up" / "before").touch()
        with Overlay.create([lower], upper=upper / "up", target=target) as overlay:
            assert overlay.merged == str(target)
            assert sorted(os.listdir(target)) == ["before", "file"]
            (target / "kept").write_text("kept")
            assert os.path.dirname(overlay.workdir) == str(upper)
        assert sorted(os.listdir(upper / "up")) == ["before", "kept"]
        assert os.listdir(upper) == ["up"], "the work directory was ours and is gone"
        assert os.listdir(target) == []
        (upper / "work").mkdir()
        with Overlay.create([lower], upper=upper / "up", work=upper / "work") as overlay:
            assert overlay.workdir == str(upper / "work")
        assert (upper / "work").exists(), "this one was not"


def test_read_only_stacks(layers: Layers) -> None:
    stack = layers({"a": "1"}, {"a": "2", "b": "2"}, {"c": "3"})
    with Overlay.create(stack, upper="") as overlay:
        assert sorted(os.listdir(overlay.merged)) == ["a", "b", "c"]
        with pytest.raises(OSError, match="Read-only"):
            (Path(overlay.merged) / "new").touch()
        assert len(overlay.changes()) == 0
        assert (overlay.upperdir, overlay.workdir) == ("", "")
        assert overlay.origin("/c").role == "lower 3"


def test_where_a_path_comes_from(layers: Layers) -> None:
    top, bottom = layers(
        {"both": "1", "dir/x": "1", "file-over-dir": "", "link": "", "dir-over-file/": ""},
        {"both": "2", "dir/y": "2", "dir/z": "2", "file-over-dir/in": "2", "opaque/old": "2", "dir-over-file": "2"},
    )
    (top / "link").unlink()
    (top / "link").symlink_to("dir")
    with Overlay.create([top, bottom]) as overlay:
        merged = Path(overlay.merged)
        (merged / "dir" / "z").unlink()
        (merged / "opaque" / "old").unlink()
        (merged / "opaque").rmdir()
        (merged / "opaque").mkdir()
        (merged / "opaque" / "new").touch()

        def of(path: str) -> tuple[str, int]:
            found = overlay.origin(path)
            assert found.layer == {"upper": overlay.upperdir, "lower 1": str(top), "lower 2": str(bottom)}[found.role]
            return found.role, len(found.merged_with)

        assert of("/both") == ("lower 1", 0)
        assert of("dir/x") == ("lower 1", 0)
        assert of("/dir/y") == ("lower 2", 0)
        assert of("/dir") == ("upper", 2)
        assert of("/opaque") == ("upper", 0)
        assert of("/link") == ("lower 1", 0)
        assert of("/dir-over-file") == ("lower 1", 0)
        assert of("/") == ("upper", 2)
        for gone in ("/dir/z", "/opaque/old", "/file-over-dir/in", "/never", "/dir-over-file/x", "/link/x"):
            assert not os.path.lexists(f"{merged}{gone}") or gone == "/link/x"
            with pytest.raises(NotFound):
                overlay.origin(gone)
        with pytest.raises(NotFound, match="whiteout"):
            overlay.origin("/dir/z")
        with pytest.raises(InvalidOption, match=r"no '\.\.'"):
            overlay.origin("/dir/../both")
        assert "lower 1" in str(overlay.origin("/both"))


def test_every_path_has_the_content_that_its_origin_has(layers: Layers) -> None:
    """Checked over all that the merged view shows."""
    stack = layers(
        {"a/b/one": "1", "t": "1"}, {"a/b/two": "2", "a/c/three": "2", "t/": ""}, {"a/b/one": "3", "a/d/four": "3", "u/v/w": "3"}
    )
    with Overlay.create(stack) as overlay:
        merged = Path(overlay.merged)
        (merged / "a" / "b" / "two").write_text("new")
        (merged / "u" / "v" / "w").unlink()
        seen = 0
        for path in merged.rglob("*"):
            inner = path.relative_to(merged)
            found = overlay.origin(inner)
            if path.is_file():
                assert (Path(found.layer) / inner).read_text() == path.read_text()
                seen += 1
        assert seen == 5


def test_adopting_one_that_is_there(layers: Layers, tmp_path: Path) -> None:
    stack = layers({"a": "1"}, {"b": "2"})
    with Overlay.create(stack) as made:
        found = Overlay.of(f"{made.merged}/a")
        assert found == made
        assert hash(found) == hash(made)
        assert (found.lowerdirs, found.upperdir, found.workdir) == (made.lowerdirs, made.upperdir, made.workdir)
        assert not found.explain().ops
        found.close()
        assert found.inspect().mounted
        assert found.origin("/b").role == "lower 2"
    assert not found.inspect().mounted
    assert "not to be seen from here" in str(found)
    with pytest.raises(StateError, match="to be seen here"):
        found.changes()
    with pytest.raises(NotFound, match="lies in no overlay"):
        Overlay.of("/proc")


def test_names_with_the_kernel_s_separators(tmp_path: Path) -> None:
    odd = tmp_path / "a:b,c\\d e"
    odd.mkdir()
    (odd / "file").write_text("odd")
    plain = tmp_path / "plain"
    plain.mkdir()
    with Overlay.create([odd, plain]) as overlay:
        assert (Path(overlay.merged) / "file").read_text() == "odd"
        assert overlay.lowerdirs[0] == str(odd)


def test_what_can_be_said_beforehand_is_said(layers: Layers, tmp_path: Path) -> None:
    (lower,) = layers({"a": "1"})
    for call, said in (
        (lambda: Overlay.create([]), "at least one layer"),
        (lambda: Overlay.create([lower], upper=""), "two without"),
        (lambda: Overlay.create([tmp_path / "nowhere"]), "is no directory"),
        (lambda: Overlay.create([lower / "a"]), "is no directory"),
        (lambda: Overlay.create(str(lower)), "is a list"),
        (lambda: Overlay.create([lower], work=tmp_path), "work goes with"),
        (lambda: Overlay.create([lower], target=tmp_path / "nowhere"), "is no directory"),
    ):
        with pytest.raises(InvalidOption, match=said):
            call()
    with Overlay.create([lower]) as overlay, pytest.raises(Unsupported, match="lies on an overlay itself"):
        Overlay.create([lower], upper=overlay.merged)


def test_the_data_root_on_an_overlay(layers: Layers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container: an upper directory can't lie there."""
    (lower,) = layers({"root/": ""})
    with Overlay.create([lower]) as outer:
        ledger = nsbook.ledger().entries
        monkeypatch.setenv("NSBOOK_ROOT", f"{outer.merged}/root")
        with pytest.raises(Unsupported, match="set NSBOOK_ROOT"):
            Overlay.plan([lower])
        with Mount.create("tmpfs", f"{outer.merged}/root"):
            os.makedirs(f"{outer.merged}/root/data")
            assert f"{outer.merged}/root/data/overlays/" in Overlay.plan([lower]).ops[0].path
        monkeypatch.undo()
        assert nsbook.ledger().entries == ledger


def test_a_refusal_leaves_nothing(layers: Layers, tmp_path: Path) -> None:
    """The work directory lies in another file system than the upper one."""
    (lower,) = layers({"a": "1"})
    upper, other, target = tmp_path / "upper", tmp_path / "other", tmp_path / "target"
    for directory in (upper, other, target):
        directory.mkdir()
    with Mount.create("tmpfs", other), Mount.create("tmpfs", target):
        with pytest.raises(SetupError) as refused:
            Overlay.create([lower], upper=upper, work=other, target=target)
        assert refused.value.op.name == "HostOverlay"
        assert MountTable.of().find(target).fstype == "tmpfs", "what was there before is still there"
        assert len(nsbook.ledger()) == 2


def test_in_use_is_said_and_taken_back_later(layers: Layers) -> None:
    (lower,) = layers({"a": "1"})
    overlay = Overlay.create([lower])
    with open(f"{overlay.merged}/a") as held:
        with pytest.raises(CleanupError, match="busy"):
            overlay.close()
        assert held.read() == "1"
    assert len(nsbook.ledger()) == 1
    nsbook.ledger().clean(force=True)
    assert not os.path.exists(overlay.merged)
    assert not list(nsbook.ledger())


def test_snapshot_plan_and_drawing(layers: Layers) -> None:
    stack = layers({"a": "1"}, {"b": "2"})
    with Overlay.create(stack) as overlay:
        before = overlay.inspect()
        assert json.loads(json.dumps(before.to_dict())) == before.to_dict()
        (Path(overlay.merged) / "new").touch()
        assert [c.where for c in before.diff(overlay.inspect()).changes] == ["changes[A]"]
        assert [op.name for op in overlay.explain().ops] == [*["MakeDirectory"] * 4, "HostOverlay", "Barrier"]
        ran = [c.name for c in overlay.transcript.ops]
        assert ran == [op.name for op in overlay.explain().ops][: len(ran)]
        masked = overlay.sheet().text(mask=True)
        assert "1 change" in masked
        assert "/" not in masked


@requires("setpriv")
def test_an_ordinary_user_is_told_what_helps(as_user: AsUser) -> None:
    out = as_user("""
from nsbook.errors import Unsupported
os.mkdir("lower")
try:
    nsbook.Overlay.create(["lower"])
except Unsupported as error:
    out.update(feature=error.feature, reason=error.reason, fix=error.fix, cause=type(error.__cause__).__name__)
out["left"] = os.listdir(os.environ["NSBOOK_ROOT"] + "/data/overlays")
""")
    assert "CAP_SYS_ADMIN" in out["reason"]
    assert "Container" in out["fix"]
    assert (out["cause"], out["left"], out["ledger"]) == ("SetupError", [], 0)
