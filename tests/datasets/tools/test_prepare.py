"""python -m datasets prepare: downloads from a server on this machine and from file:// urls, unpacked and laid out."""

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import imagenet as torchvisions
from torchvision.datasets.utils import calculate_md5

import datasets.__main__ as command
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UserError, download_url
from datasets.dtd import DescribableTextures
from datasets.imagenet import ImageNet
from datasets.sources import Source
from datasets.tools.prepare import download, fetch, unpack


class Server(BaseHTTPRequestHandler):
    """Gives `content`, at most `limit` bytes of it a request, or leads where it `moved`; keeps the Range headers."""

    content, limit, ranges, moved = b"", None, [], ""

    def do_GET(self):
        if self.moved:
            self.send_response(302)
            self.send_header("Location", self.moved)
            return self.end_headers()
        wanted = self.headers["Range"]
        self.ranges.append(wanted)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if start >= len(self.content):
            return self.send_error(416)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:][: self.limit])

    def log_message(self, *args):
        """Nothing."""


@pytest.fixture
def server(monkeypatch):
    """(the url of a server on this machine, its class)."""
    monkeypatch.setattr(Server, "content", bytes(range(256)) * 40)
    monkeypatch.setattr(Server, "ranges", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/file.bin", Server
        running.shutdown()
        thread.join()


def tar_of(path, **files):
    """A tar archive of {name: bytes}, with __ for / in the names."""
    with tarfile.open(path, "w:gz" if str(path).endswith("gz") else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_download_goes_on_where_it_stopped(server, tmp_path, monkeypatch):
    url, at_server = server
    path = tmp_path / "there" / "file.bin"
    monkeypatch.setattr(at_server, "limit", 5000)
    with pytest.raises(UserError, match="cannot download .*: try again to resume it, or put the file at"):
        download(Source(url), str(path))
    assert [p.name for p in path.parent.iterdir()] == ["file.bin.part"]
    monkeypatch.setattr(at_server, "limit", None)
    download(Source(url), str(path))
    assert below(path.parent) == {"file.bin": at_server.content}
    assert at_server.ranges == [None, "bytes=5000-"]

    path.rename(f"{path}.part")  # killed after the last byte
    download(Source(url), str(path))
    assert below(path.parent) == {"file.bin": at_server.content}


def test_a_wrong_file_is_not_kept(server, tmp_path, monkeypatch):
    url, at_server = server
    with pytest.raises(UserError, match="did not give the published file .its md5 is not 0123"):
        download(Source(url, md5="0123"), str(tmp_path / "file.bin"))
    monkeypatch.setattr(at_server, "content", b"\n <!DOCTYPE html><html>sign in</html>")
    with pytest.raises(UserError, match="gave a web page, not the file: put it at .*file.bin .from https://page"):
        download(Source(url, page="https://page"), str(tmp_path / "file.bin"))
    with pytest.raises(UserError, match="cannot download"):
        download(Source("http://127.0.0.1:1/file.bin"), str(tmp_path / "file.bin"))
    assert below(tmp_path) == {}


def test_what_no_checksum_tells_is_said(server, tmp_path, capsys):
    url, at_server = server
    md5 = hashlib.md5(at_server.content).hexdigest()
    for name, source in (("a", Source(url)), ("b", Source(url, md5=md5))):
        download(source, str(tmp_path / name))
    digest = hashlib.sha256(at_server.content).hexdigest()
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not checked")]
    assert found == [f"not checked: {tmp_path}/a, of which no checksum is published; its SHA-256 is {digest}"]


@pytest.mark.parametrize("get", [lambda url, path: download(Source(url), path), download_url], ids=["prepare", "dassl"])
def test_a_download_stays_on_https(server, get, tmp_path, monkeypatch):
    """From a server on this machine that leads elsewhere."""
    url, at_server = server
    monkeypatch.setattr(at_server, "moved", "http://data.example/file.bin")
    with pytest.raises(UserError, match="http://data.example/file.bin is not an https address"):
        get(url, str(tmp_path / "file.bin"))
    with pytest.raises(UserError, match="http://data.example/other is not an https address"):
        get("http://data.example/other", str(tmp_path / "file.bin"))
    assert below(tmp_path) == {}


def test_half_a_download_is_not_taken_for_the_whole(server, tmp_path, monkeypatch):
    url, at_server = server
    monkeypatch.setattr(at_server, "limit", 5000)
    with pytest.raises(UserError, match="cannot download .*5,?000"):
        download_url(url, tmp_path / "file.bin")
    assert below(tmp_path) == {}


def test_all_sources_are_https():
    readers = [DATASET_REGISTRY.get(name) for name in DATASET_REGISTRY.registered_names()]
    sources = [source for reader in readers for source in getattr(reader, "sources", ())]
    assert len(sources) > 25
    assert all(not source.url or source.url.startswith("https://") for source in sources)


def test_archives_and_files_are_laid_out(tmp_path):
    inner = tar_of(tmp_path / "inner.tar.gz", **{"images__cat__1.jpg": b"cat", "junk.txt": b"junk"})
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(inner, "outer/inner.tar.gz")
    (tmp_path / "list.txt").write_bytes(b"list")
    folder = tmp_path / "data" / "set"
    outer = Source((tmp_path / "outer.zip").as_uri(), gives={"photos": "images"}, inner="outer/inner.tar.gz")
    file = Source((tmp_path / "list.txt").as_uri(), "lists/all.txt", md5=calculate_md5(tmp_path / "list.txt"))
    for _ in range(2):  # the second time there is nothing to do
        fetch(outer, str(folder))
        fetch(file, str(folder))
        assert below(folder) == {"photos/cat/1.jpg": b"cat", "lists/all.txt": b"list"}
        for name in ("outer.zip", "list.txt"):
            (tmp_path / name).unlink(missing_ok=True)


def test_what_must_be_had_by_hand(tmp_path):
    folder = tmp_path / "set"
    source = Source(path="photos.tar", gives={"a": "a", "b": "x/b"}, page="https://page")
    message = f"photos.tar must be downloaded by hand: put it at {folder}/photos.tar .from"
    with pytest.raises(UserError, match=message):
        fetch(source, str(folder))
    folder.mkdir()
    tar_of(folder / "photos.tar", a__1=b"1")
    with pytest.raises(UserError, match="photos.tar holds no x/b"):
        fetch(source, str(folder))
    (folder / "photos.tar").write_bytes(b"half an archive")
    with pytest.raises(UserError, match="cannot unpack .*photos.tar .*: it is damaged"):
        fetch(source, str(folder))
    with pytest.raises(UserError, match="photos.tar is not the published file"):
        fetch(Source("http://127.0.0.1:1/photos.tar", gives={"a": "a"}, md5="0"), str(folder))
    assert list(below(folder)) == ["photos.tar"], "nothing half-written"
    tar_of(folder / "photos.tar", a__1=b"1", x__b=b"2", c=b"3")
    fetch(source, str(folder))
    files = below(folder)
    assert files.pop("photos.tar") and files == {"a/1": b"1", "b": b"2"}, "what the user put there stays"


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/../../escaped"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_no_path_leaves_the_folder(tmp_path, name, kind):
    path = tmp_path / f"evil.{kind}"
    if kind == "tar":
        tar_of(path, **{name: b"evil"})
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"evil")
    (tmp_path / "into").mkdir()
    with pytest.raises(UserError, match=f'evil.{kind} names "{name}", which is outside .*into: refused'):
        unpack(path, {"": ""}, tmp_path / "into")
    assert list(below(tmp_path)) == [path.name]


def test_links_are_left_out(tmp_path):
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        link = tarfile.TarInfo("images")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        info = tarfile.TarInfo("images/1.jpg")
        archive.addfile(info)
    (tmp_path / "into").mkdir()
    unpack(tmp_path / "links.tar", {"images": "images"}, tmp_path / "into")
    assert below(tmp_path).keys() == {"links.tar", "into/images/1.jpg"}


def test_the_command(tmp_path, monkeypatch, capsys):
    png = io.BytesIO()
    Image.new("RGB", (2, 2)).save(png, "PNG")
    archive = tar_of(
        tmp_path / "dtd.tar.gz",
        **{f"dtd__images__{name}__{i}.png": png.getvalue() for name in ("banded", "dotted") for i in range(3)},
    )
    monkeypatch.setattr(DescribableTextures, "counts", (2, 2, 2, 2))
    monkeypatch.setattr(
        DescribableTextures,
        "sources",
        (
            Source(archive.as_uri(), gives={"images": "dtd/images"}, md5=calculate_md5(archive)),
            Source((tmp_path / "no.json").as_uri(), DescribableTextures.split_file, page="https://page"),
        ),
    )
    root = tmp_path / "data"
    assert command.main(["prepare", "dtd", "--root", str(root)]) == 0
    told = capsys.readouterr()
    assert "dtd: all is well" in told.out and "split_zhou_DescribableTextures.json is not there; made here" in told.out
    assert f"not done: cannot download {tmp_path.as_uri()}/no.json" in told.err
    assert len(below(root / "dtd")) == 6
    assert command.main(["prepare", "folder", "--root", str(root / "dtd" / "images"), "--quick"]) == 0
    assert command.main(["prepare", "oxford_pet"]) == 1


def test_imagenets_archives(tmp_path, monkeypatch):
    images = tmp_path / "imagenet" / "images"
    images.mkdir(parents=True)
    inner = tar_of(tmp_path / "n01440764.tar", **{"n01440764_1.JPEG": b"tench"})
    tar_of(images / "ILSVRC2012_img_train.tar", **{"n01440764.tar": inner.read_bytes()})
    tar_of(images / "ILSVRC2012_img_val.tar", **{"ILSVRC2012_val_1.JPEG": b"a tench"})
    (images / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"devkit")
    names = {part: f"ILSVRC2012_{rest}" for part, rest in (("train", "img_train.tar"), ("val", "img_val.tar"))}
    md5 = {part: (name, calculate_md5(images / name)) for part, name in names.items()}
    monkeypatch.setattr(torchvisions, "ARCHIVE_META", md5)
    meta = images / torchvisions.META_FILE
    monkeypatch.setattr(torchvisions, "parse_devkit_archive", lambda root: meta.touch())  # its .mat is torchvision's
    monkeypatch.setattr(torchvisions, "load_meta_file", lambda root: ({}, ["n01440764"]))
    for source in ImageNet.sources[:2]:
        fetch(source, str(tmp_path / "imagenet"))
    files = below(images)
    assert files["train/n01440764/n01440764_1.JPEG"] == b"tench"
    assert files["val/n01440764/ILSVRC2012_val_1.JPEG"] == b"a tench"
    assert len(files) == 5, "and the three archives"
