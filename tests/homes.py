"""A home → what in it others than its owner could open."""

from pathlib import Path


def open_to_others(home: Path) -> list[str]:
    """Files and folders of a home, itself included, that its group or everybody may read, write or enter."""
    paths = [home, *home.rglob("*")]
    return [str(path) for path in paths if not path.is_symlink() and path.stat().st_mode & 0o077]
