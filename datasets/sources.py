"""Where a dataset's files can be downloaded: what its reader lists for `python -m datasets prepare`."""

import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

COOP = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"


@dataclass(frozen=True)
class Source:
    """A file on the web: one of the dataset's, or an archive of many.

    Attributes:
        url: where it is downloaded; "" where a site asks for a login or clicks: then the user puts `path` there.
        path: where it goes, in the dataset's folder; "" for the url's last part.
        gives: {path in the dataset's folder: path in the archive} of what is unpacked; empty where the file itself is
            what is wanted.
        md5: its checksum; "" where none is published.
        page: the web page where people find it.
        inner: of an archive of archives, the path of the one that holds the rest.
        unpack: unpack(archive, folder), where an archive needs more than moving its files where `gives` says.
    """

    url: str = ""
    path: str = ""
    gives: dict[str, str] = field(default_factory=dict)
    md5: str = ""
    page: str = ""
    inner: str = ""
    unpack: Callable[[str, str], None] | None = None

    def __post_init__(self) -> None:
        if not self.path:
            object.__setattr__(self, "path", posixpath.basename(urlsplit(self.url).path))


def coops(path: str, drive_id: str) -> Source:
    """A small file that CoOp's authors keep on Google Drive, under the id that CoOp's DATASETS.md gives."""
    return Source(f"https://drive.google.com/uc?export=download&id={drive_id}", path, page=COOP)
