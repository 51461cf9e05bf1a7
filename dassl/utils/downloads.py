"""Files from the web: over https alone, where nobody on the way can change them."""

import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dassl.errors import UserError
from dassl.utils.files import atomic_path

HERE = {"localhost", "127.0.0.1", "::1"}
TIMEOUT = 60  # seconds
CHUNK = 2**20


def check_url(url: str) -> None:
    """Raises UserError where a url is neither https nor this machine's own: file, or a server here."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "file") and not (parts.scheme == "http" and parts.hostname in HERE):
        raise UserError(
            f"{url} is not an https address, so the file may be tampered with on the way: download it by hand if you "
            "trust it"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """The response of a url, to be read and closed, as `urllib.request.urlopen` gives it.

    Raises:
        UserError: it is not https, or leads to what is not.
        OSError, HTTPException: it cannot be had.
    """
    check_url(url)
    request = urllib.request.Request(url, headers=dict(headers or {}))
    return urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)


def download_url(url: str, dst: str | Path) -> None:
    """Download a file, whole or not at all, with a progress bar.

    Raises:
        UserError: it cannot be had, is not https, or ended early.
        WriteError: it cannot be written.
    """
    from tqdm import tqdm

    def received(get: Callable[..., Any], *args: Any) -> Any:
        try:
            return get(*args)
        except (OSError, HTTPException) as error:  # urllib's errors are OSErrors
            raise UserError(f"cannot download {url} to {dst}: {error}") from error

    with received(open_url, url) as response, atomic_path(dst) as temporary, open(temporary, "wb") as file:
        total = int(response.headers.get("Content-Length") or 0) or None
        with tqdm(total=total, unit="B", unit_scale=True, disable=None, leave=False) as bar:
            while chunk := received(response.read, CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if total not in (None, file.tell()):
            raise UserError(f"cannot download {url} to {dst}: {file.tell():,} of {total:,} bytes came")
