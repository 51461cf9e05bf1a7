"""Errors, registry, log, files, random state, layers, meters."""

import importlib
import io
import json
import os
import random
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch._utils import ExceptionWrapper

from dassl import utils
from dassl.utils import Registry, UserError

# Errors


def test_user_error_is_one_line():
    assert str(UserError("one\ntwo")) == "one two"


def test_user_error_out_of_a_worker_is_its_own_line():
    try:
        raise UserError("cannot read /a/b: c.jpg") from OSError("the cause")
    except UserError:
        sent = ExceptionWrapper(where="in DataLoader worker process 0")  # as a worker sends it
    with pytest.raises(UserError) as error:
        sent.reraise()
    assert str(error.value) == "cannot read /a/b: c.jpg"


def test_nearest():
    assert utils.nearest("coop", ["CoOp", "ZeroshotCLIP"]) == "did you mean CoOp?"
    assert utils.nearest("xyz", ["b", "A"]) == "known: A, b"
    assert utils.nearest("xyz", []) == "known: none"
    assert utils.nearest("MODEL", ["Model", "model"]) == "did you mean Model, model?"


# Registry


def test_registry():
    registry = Registry("THING")

    @registry.register()
    class Alpha:
        pass

    def beta():
        pass

    assert registry.register(beta) is beta
    assert registry.get("Alpha") is Alpha
    assert registry.registered_names() == ["Alpha", "beta"]
    with pytest.raises(UserError, match="Alpha.*THING"):
        registry.register(type("Alpha", (), {}))
    with pytest.raises(UserError, match="THING.*did you mean Alpha"):
        registry.get("alpa")
    newer = registry.register(type("Alpha", (), {}), force=True)
    assert registry.get("Alpha") is newer


# Log


def test_log_goes_to_console_and_file_once(tmp_path, capsys, closing_logger):
    utils.setup_logger(tmp_path / "other.log")
    utils.setup_logger(str(tmp_path / "run"))
    closing_logger.info("a line")
    print("printed", 1)
    closing_logger.debug("too fine")
    text = "a line\nprinted 1\n"
    assert (tmp_path / "run" / "log.txt").read_text() == text, "flushed without closing"
    assert capsys.readouterr().out == text
    assert (tmp_path / "other.log").read_text() == ""


def test_second_run_in_a_folder_gets_a_log_of_its_own(tmp_path, closing_logger):
    (tmp_path / "log.txt").write_text("first\n")
    utils.setup_logger(tmp_path)
    closing_logger.info("second")
    assert (tmp_path / "log.txt").read_text() == "first\n"
    (other,) = set(os.listdir(tmp_path)) - {"log.txt"}
    assert re.fullmatch(r"log\.txt-\d{4}(-\d\d){5}", other)
    assert (tmp_path / other).read_text() == "second\n"


def test_log_without_file_closes_the_last_one(tmp_path, capsys, closing_logger):
    utils.setup_logger(tmp_path)
    utils.setup_logger()
    closing_logger.info("shown")
    print("printed")
    assert capsys.readouterr().out == "shown\nprinted\n"
    assert (tmp_path / "log.txt").read_text() == ""


def test_logger_of_dassl(tmp_path, monkeypatch, capsys):
    for file in (tmp_path / "new" / "printed.txt", None):
        monkeypatch.setattr(sys, "stdout", utils.Logger(file))
        print("a line")
        sys.stdout.close()
        monkeypatch.undo()
        assert capsys.readouterr().out == "a line\n"
    assert (tmp_path / "new" / "printed.txt").read_text() == "a line\n"


def test_log_line_does_not_tear_a_progress_bar(tmp_path, monkeypatch, closing_logger):
    from tqdm import tqdm

    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    utils.setup_logger(tmp_path)
    with tqdm(total=3, file=sys.stderr, leave=False) as bar:
        closing_logger.info("a line")
        bar.update()
    before, _, after = terminal.getvalue().partition("a line\n")
    assert re.search(r"0/3.*\r +\r$", before), "the bar was wiped first"
    assert "0/3" in after, "and drawn again below"
    assert (tmp_path / "log.txt").read_text() == "a line\n"


# Files


def test_atomic_path_writes_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), utils.atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path and path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old"
    with utils.atomic_path(str(path)) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder"
    with pytest.raises(RuntimeError), utils.atomic_folder(path) as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with utils.atomic_folder(path) as temporary:
        (temporary / "a").touch()
        with utils.atomic_folder(path) as faster:
            (faster / "b").touch()
    assert list(tmp_path.iterdir()) == [path] and [file.name for file in path.iterdir()] == ["b"]
    with pytest.raises(utils.UserError, match="cannot write the folder .*whole"):
        with utils.atomic_folder(tmp_path / "whole"):
            raise OSError(28, "No space left on device")


def test_cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("MOCOOP_CACHE", str(tmp_path / "own"))
    assert utils.cache_dir("a", "b") == tmp_path / "own" / "a" / "b"
    assert (tmp_path / "own" / "a" / "b").is_dir()
    monkeypatch.delenv("MOCOOP_CACHE")
    assert utils.cache_dir() == tmp_path / "xdg" / "mocoop"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert utils.cache_dir("a") == tmp_path / "home" / ".cache" / "mocoop" / "a"


def test_json(tmp_path):
    path = tmp_path / "new" / "a.json"
    utils.write_json({"a": [1, "é"]}, str(path))
    assert utils.read_json(path) == json.loads(path.read_text()) == {"a": [1, "é"]}
    path.write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        utils.read_json(path)
    with pytest.raises(UserError, match=r"b\.json: No such file"):
        utils.read_json(path.with_name("b.json"))


def test_read_image(tmp_path):
    Image.new("L", (3, 2), 7).save(tmp_path / "gray.png")
    image = utils.read_image(tmp_path / "gray.png")
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (3, 2), (7, 7, 7))
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("missing.jpg", "cut.jpg", "text.jpg"):
        with pytest.raises(UserError, match=str(tmp_path / name)):
            utils.read_image(tmp_path / name)


def test_folders_and_lists(tmp_path, caplog):
    utils.mkdir_if_missing(tmp_path / "b" / "c")
    utils.mkdir_if_missing(tmp_path / "b" / "c")
    (tmp_path / ".hidden").touch()
    (tmp_path / "a").touch()
    assert utils.listdir_nohidden(tmp_path, sort=True) == ["a", "b"]
    with pytest.raises(UserError, match="nowhere"):
        utils.listdir_nohidden(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot create the folder"):
        utils.mkdir_if_missing(tmp_path / "a" / "below_a_file")
    assert utils.check_isfile(tmp_path / "a") and not caplog.records
    assert not utils.check_isfile(tmp_path / "b") and caplog.records
    assert utils.tolist_if_not("ab") == ["ab"] and utils.tolist_if_not([1]) == [1]


def test_dassls_modules_have_dassls_names():
    """What trainers written for Dassl import from its modules, and from the package."""
    tools = """mkdir_if_missing check_isfile read_json write_json set_random_seed download_url read_image
        collect_env_info
        listdir_nohidden get_most_similar_str_to_a_from_b check_availability tolist_if_not"""
    torchtools = """save_checkpoint load_checkpoint resume_from_checkpoint open_all_layers open_specified_layers
        count_num_param load_pretrained_weights init_network_weights"""
    others = {"logger": "Logger setup_logger", "meters": "AverageMeter MetricMeter", "registry": "Registry"}
    for module, names in {"tools": tools, "torchtools": torchtools, **others}.items():
        for name in names.split():
            found = getattr(importlib.import_module(f"dassl.utils.{module}"), name)
            assert callable(found) and found is getattr(utils, name)


def test_download(tmp_path):
    (tmp_path / "a").write_text("content")
    utils.download_url((tmp_path / "a").as_uri(), tmp_path / "b")
    assert (tmp_path / "b").read_text() == "content"
    with pytest.raises(UserError, match="cannot download file:.*nowhere"):
        utils.download_url((tmp_path / "nowhere").as_uri(), tmp_path / "c")
    for url in ("http://weights.example/a", "ftp://weights.example/a"):
        with pytest.raises(UserError, match=f"{url} is not an https address, so the file may be tampered with"):
            utils.download_url(url, tmp_path / "d")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_availability():
    assert utils.get_most_similar_str_to_a_from_b("resnet5", ["vit", "resnet50", "resnet101"]) == "resnet50"
    utils.check_availability("vit", ["vit", "resnet50"])
    with pytest.raises(UserError, match='no "resnet5": did you mean resnet50'):
        utils.check_availability("resnet5", ["vit", "resnet50"])


# Random state


def _draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()


def test_seed_decides_all_generators():
    utils.set_random_seed(3)
    first = _draw()
    utils.set_random_seed(3)
    assert _draw() == first
    utils.set_random_seed(4)
    assert all(a != b for a, b in zip(_draw(), first, strict=True))


def test_rng_state_goes_on_after_a_checkpoint(tmp_path):
    utils.set_random_seed(3)
    _draw()  # leaves half a pair of normal numbers in python's and numpy's generators
    torch.save(utils.get_rng_state(), tmp_path / "s")
    expected = [_draw() for _ in range(3)]
    utils.set_random_seed(4)
    utils.set_rng_state(torch.load(tmp_path / "s", weights_only=True))
    assert [_draw() for _ in range(3)] == expected


# Layers and meters


def test_open_layers():
    model = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 4)})
    utils.open_specified_layers(model, "b")
    assert not model["a"].training and model["b"].training
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    utils.open_specified_layers(nn.DataParallel(model), ["a"])
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, False]
    utils.open_all_layers(model)
    assert model["b"].training and all(p.requires_grad for p in model.parameters())
    with pytest.raises(UserError, match='"c"'):
        utils.open_specified_layers(model, ["c"])


def test_weights_anew():
    def model():
        layers = [nn.Conv2d(8, 64, 5), nn.BatchNorm2d(64), nn.InstanceNorm2d(64), nn.Linear(64, 64), nn.LayerNorm(64)]
        for layer in layers:
            for p in layer.parameters():
                nn.init.constant_(p, 7.0)
        return nn.Sequential(*layers)

    torch.manual_seed(0)
    fan_in, fan_out = 8 * 25, 64 * 25
    spread = {"normal": 0.5, "xavier": 0.5 * (2 / (fan_in + fan_out)) ** 0.5, "kaiming": (2 / fan_in) ** 0.5}
    for kind in (*spread, "orthogonal"):
        conv, norm, _, linear, layernorm = changed = model()
        utils.init_network_weights(changed, kind, gain=0.5)
        for p, value in ((conv.bias, 0), (linear.bias, 0), (norm.weight, 1), (norm.bias, 0), (layernorm.weight, 7)):
            assert (p == value).all()
        if kind == "orthogonal":
            assert torch.allclose(linear.weight @ linear.weight.t(), 0.25 * torch.eye(64), atol=1e-5)
        else:
            assert conv.weight.std().item() == pytest.approx(spread[kind], rel=0.05)
    with pytest.raises(UserError, match="did you mean kaiming"):
        utils.init_network_weights(model(), "kaimin")


def test_count_num_param():
    model = nn.Linear(2, 3)
    assert utils.count_num_param(model) == utils.count_num_param(params=model.parameters()) == 9
    assert utils.count_num_param(params=[{"params": [model.weight]}, {"params": model.bias}]) == 9


def test_meters():
    meter = utils.AverageMeter()
    meter.update(2.0)
    meter.update(torch.tensor(5.0), n=2)
    assert (meter.val, meter.avg, meter.sum, meter.count) == (5.0, 4.0, 12.0, 3)
    meter = utils.AverageMeter(ema=True)
    meter.update(10)
    meter.update(20)
    assert meter.avg == pytest.approx(0.9 * 1 + 0.1 * 20)
    metrics = utils.MetricMeter()
    metrics.update({"loss": torch.tensor(1.0), "acc": 50.0})
    metrics.update({"loss": 3.0})
    metrics.update(None)
    assert str(metrics) == "loss 3.0000 (2.0000) acc 50.0000 (50.0000)"


def test_environment_names_the_versions():
    info = utils.collect_env_info()
    assert f"numpy: {np.__version__}\n" in info and f"CPU threads: {torch.get_num_threads()}\n" in info
