"""Finds the weights that a model's name means, and names them by a hash. Free of torch."""

from __future__ import annotations

from pathlib import Path

from sam2_ros.model.download import CHECKPOINTS, DownloadError, checkpoint_path, file_sha256
from sam2_ros.model.graph_folder import folder_digest, is_graph_folder

EMBEDDED = Path(__file__).parent.parent / "weights" / "embedded.pt"
EMBEDDED_INT8 = EMBEDDED.with_name("embedded_int8.json")
"""Between which limits the inputs of its image encoder's layers lie, for int8."""


def find_weights(source: str | Path) -> Path:
    """The file that ``source`` names; an existing path takes precedence over an official name.

    Raises:
        FileNotFoundError: no such file, with the command that gets it.
    """
    path = Path(source).expanduser()
    hint = f"give the path of a file, or one of: embedded, {', '.join(CHECKPOINTS)}"
    if source == "embedded":
        path, hint = EMBEDDED, "reinstall sam2_ros"
    elif not path.is_file():
        try:
            path, hint = checkpoint_path(str(source)), f"give a path, or run: sam2_ros download {source}"
        except DownloadError:
            if path.is_dir():
                hint = "that is a folder; " + hint
    if not path.is_file():
        raise FileNotFoundError(f"no weights for model '{source}' (looked for {path}); {hint}")
    return path


def digest_of_weights(source: str | Path) -> str:
    """SHA-256 of the weights that ``source`` names: of a file, or of a folder of ``sam2_ros export``.

    Raises:
        FileNotFoundError: there are none, with the command that gets them.
    """
    path = Path(source).expanduser()
    return content_digest(path) if is_graph_folder(path) else file_sha256(find_weights(source))


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder of ``sam2_ros export``; empty for anything else."""
    if is_graph_folder(path):
        return folder_digest(path)
    return file_sha256(path) if path.is_file() else ""
