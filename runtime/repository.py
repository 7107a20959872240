"""Where this project's files are: in a clone, or in the folder that it was installed into."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent  # the clone; site-packages where it is installed


def data_folder(name: str, repository: Path = REPOSITORY) -> Path:
    """The folder ``configs`` or ``plans``: at the top of a clone, inside the package ``transfer`` where installed."""
    installed = repository / "transfer" / name  # first: a ``configs`` in site-packages would be another project's
    return installed if installed.is_dir() else repository / name


def find_file(name: str | Path, folder: str, repository: Path = REPOSITORY) -> Path:
    """``name`` as it is where that file exists; else the file of that name, with or without .yaml, in ``folder``.

    ``folder`` is ``configs`` or ``plans``, which may also begin ``name`` (``plans/demo.yaml``). A name that is found
    nowhere is returned unchanged, for the caller's error message.
    """
    path = Path(name).expanduser()
    if path.exists() or (path.parent != Path() and path.parent != Path(folder)):
        return path
    place = data_folder(folder, repository)
    for candidate in (place / path.name, place / f"{path.name}.yaml"):
        if candidate.is_file():
            return candidate
    return path
