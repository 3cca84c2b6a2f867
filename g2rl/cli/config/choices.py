"""Where the configuration lives, and which choices its groups have."""

from __future__ import annotations

from pathlib import Path


def config_dir() -> Path:
    """The packaged conf/ of a wheel, or the sibling folder of a source checkout."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/ beside or inside {package}: the installation is incomplete")


def choices(group: str) -> list[str]:
    """The choices of a config group, as file names without suffix."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
