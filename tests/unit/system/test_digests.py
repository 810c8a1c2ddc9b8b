from __future__ import annotations

import hashlib
from pathlib import Path

from scripts.system import digests


def test_a_files_digest_is_that_of_its_contents(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)

    expected = hashlib.sha512(b"x" * 3_000_000).hexdigest()
    assert digests.file_digest(tmp_path / "file", "sha512") == expected


def test_equal_trees_have_equal_digests_wherever_they_are(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub/file").write_text("text")
        (tmp_path / name / "link").symlink_to("sub/file")

    assert digests.tree_digest(tmp_path / "one") == digests.tree_digest(tmp_path / "two")


def test_a_trees_digest_knows_names_contents_links_and_executability(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("text")
    link.symlink_to("file")
    seen = {digests.tree_digest(tmp_path)}
    file.chmod(0o755)
    seen.add(digests.tree_digest(tmp_path))
    file.write_text("other")
    seen.add(digests.tree_digest(tmp_path))
    file.rename(tmp_path / "renamed")
    seen.add(digests.tree_digest(tmp_path))
    link.unlink()
    link.symlink_to("renamed")
    seen.add(digests.tree_digest(tmp_path))

    assert len(seen) == 5


def test_a_link_is_described_by_where_it_points_even_if_nothing_is_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/nowhere")

    assert digests.describe(tmp_path / "link") == "-> /nowhere"


def test_what_python_compiled_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "module.py").touch()
    before = digests.tree_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/module.pyc").touch()

    assert digests.tree_digest(tmp_path) == before
