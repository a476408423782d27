"""Results of equal content, which DVC links to one inode."""

from .conftest import REPOSITORY


def test_every_result_gets_an_inode_of_its_own(tmp_path, monkeypatch):
    folder = tmp_path / "results"
    (folder / "deep").mkdir(parents=True)
    cached = tmp_path / "cached"
    cached.write_text("same")
    cached.chmod(0o444)
    linked = [folder / "a.csv", folder / "deep" / "b.csv", folder / "deep" / "c.csv"]
    for path in linked:
        path.hardlink_to(cached)
    other = folder / "other.csv"
    other.symlink_to(cached)
    monkeypatch.syspath_prepend(REPOSITORY / "workflow" / "scripts")
    from restore import unshare

    unshare(folder)
    assert len({path.stat().st_ino for path in linked}) == 3
    assert {path.read_text() for path in linked} == {"same"}
    assert {path.stat().st_mode for path in linked} == {cached.stat().st_mode}
    assert other.is_symlink()
    assert sorted(path.name for path in folder.rglob("*")) == ["a.csv", "b.csv", "c.csv", "deep", "other.csv"]
