"""MODEL.WEIGHTS as a local file: paths, http(s):// and detectron2:// addresses through iopath's cache."""

from __future__ import annotations

import os
import socket
import urllib.error
from pathlib import Path
from urllib.parse import urlparse

from runtime.errors import UserError

DETECTRON2_PREFIX = "detectron2://"
DETECTRON2_BUCKET = "https://dl.fbaipublicfiles.com/detectron2/"
TIMEOUT_SECONDS = 30


def web_address(address: str) -> str | None:
    """The http(s) address that ``address`` stands for, or None for a local path."""
    if address.startswith(DETECTRON2_PREFIX):
        return DETECTRON2_BUCKET + address[len(DETECTRON2_PREFIX) :]
    if address.startswith(("http://", "https://")):
        return address
    if "://" in address:
        raise UserError(f"weights {address}: only paths, detectron2://, http:// and https:// are supported")
    return None


def cached_path(url: str) -> Path:
    """Where iopath, and so Detectron2, stores the download of ``url``."""
    from iopath.common.file_io import get_cache_dir

    return Path(get_cache_dir()) / urlparse(url).path.lstrip("/")


def local_weights(address: str) -> Path:
    """A local file with the content of ``address``, downloaded once.

    Raises UserError for a missing file; if the download fails, it says what to download and where to put it.
    """
    url = web_address(address)
    if url is None:
        path = Path(address).expanduser()
        if not path.is_file():
            raise UserError(
                f"weights {address}: no such file; give a backbone made by convert/to_d2.py or --init random"
            )
        return path
    target = cached_path(url)
    return target if target.is_file() and target.stat().st_size else _download(url, target)


def _download(url: str, target: Path) -> Path:
    from iopath.common.file_io import HTTPURLHandler, PathManager

    manager = PathManager()
    manager.register_handler(HTTPURLHandler())
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        downloaded = Path(manager.get_local_path(url))
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise UserError(
            f"cannot download {url} ({error}). Download it elsewhere and put it at {target}"
            f" (the cache; $FVCORE_CACHE moves it, now {os.environ.get('FVCORE_CACHE', 'not set')})"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    if not downloaded.stat().st_size:
        downloaded.unlink()
        raise UserError(f"{url} gave an empty file; try again")
    return downloaded
