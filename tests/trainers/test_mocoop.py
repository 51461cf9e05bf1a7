"""MoCoOp's formulas against loops over images, experts, classes and templates, in float64."""

import json
import math

import clip
import pytest
import torch
import torch.nn.functional as F

import train
from dassl.utils import UserError
from prompting.backbone import load_backbone
from prompting.prompts import encode_templates
from prompting.text_encoder import TextEncoder
from prompting.tokenizers import openai_tokenizer
from tests.conftest import TOY_CLASSES
from tests.reference import encode_in_full, in_double, relative_error, tiny_clip, written_in_full
from trainers import mocoop
from trainers.mocoop import MoCoOpCLIP, PromptLearner, auto_groups, template_ids

B, G, N, E = 5, 4, 6, 32
SCALE = 20.0


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.double, generator=generator), dim=-1)


def softmax(values):
    exps = [math.exp(v - max(values)) for v in values]
    return [e / sum(exps) for e in exps]


@pytest.fixture
def model():
    clip_model = tiny_clip()
    encoder = TextEncoder(clip_model)
    torch.manual_seed(3)
    learner = PromptLearner([[4, 1], [1, 2], [0, 3], [2, 0]], ["cat", "wild cat", "dog"], ["emu"], encoder, E)
    torch.nn.init.normal_(learner.ctx, std=0.2)
    return MoCoOpCLIP(clip_model, learner, encoder, top_k=2, renormalize=False)


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("renormalize", [False, True])
def test_mixture_of_chosen_experts(model, top_k, renormalize):
    model.top_k, model.renormalize = top_k, renormalize
    model.double()
    images, text = unit(B, E), unit(G, N, E, seed=1)
    got = model.logits(images, text)
    for b in range(B):
        router = model.prompt_learner.router(images[b]).tolist()
        chosen = sorted(range(G), key=lambda g: -router[g])[:top_k]
        weights = softmax([router[g] for g in chosen])
        for n in range(N):
            feature = sum(w * text[g, n] for w, g in zip(weights, chosen, strict=True))
            if renormalize:
                feature = feature / feature.norm()
            assert math.isclose(got[b, n].item(), (model.logit_scale * images[b] @ feature).item(), rel_tol=1e-9)


def test_router_loss_is_the_kl_of_the_paper():
    router, images, groups, temperature = unit(B, G, seed=2) * 3, unit(B, E), unit(G, E, seed=1) * 0.3, 0.5
    expected = 0.0
    for b in range(B):
        hard = softmax([F.cosine_similarity(images[b], groups[g], dim=0).item() / temperature for g in range(G)])
        routed = softmax(router[b].tolist())
        expected += sum(h * math.log(h / r) for h, r in zip(hard, routed, strict=True)) / B
    assert math.isclose(mocoop.router_loss(router, images, groups, temperature).item(), expected, rel_tol=1e-9)


def test_router_loss_vanishes_where_router_follows_hard_prompts():
    images, groups = unit(B, E), unit(G, E, seed=1)
    assert abs(mocoop.router_loss(images @ groups.t() / 0.1, images, groups, 0.1).item()) < 1e-12


def test_router_loss_of_the_release():
    router, images, features = unit(B, G, seed=2) * 3, unit(B, E), unit(G, N, E, seed=1)
    labels = torch.tensor([0, 5, 2, 2, 1])
    expected = 0.0
    for b in range(B):
        similarity = [(images[b] @ features[g, labels[b]]).item() for g in range(G)]
        for g in sorted(range(G), key=lambda g: -similarity[g])[:2]:
            similarity[g] += 10
        routed = softmax(router[b].tolist())
        expected -= sum(t * math.log(r) for t, r in zip(softmax(similarity), routed, strict=True)) / B
    assert math.isclose(mocoop.router_loss_class(router, images, features, labels).item(), expected, rel_tol=1e-9)


def test_text_loss():
    experts = unit(G, N, E)
    hard = [unit(n, N, E, seed=10 + n) for n in (1, 3, 2, 4)]
    expected = 0.0
    for g in range(G):
        for y in range(N):
            p = [softmax([SCALE * (experts[g, y] @ h[c]).item() for c in range(N)])[y] for h in hard[g]]
            expected -= math.log(sum(p) / len(p)) / (G * N)
    assert math.isclose(mocoop.text_loss(experts, hard, SCALE).item(), expected, rel_tol=1e-9)


@pytest.mark.parametrize("target", ["template", "group_mean"])
def test_text_loss_of_a_run_and_its_gradient(target, tmp_path, toy_run, toy_backbone):
    """By loops over whole prompts; the released code's group_mean has no logit scale."""
    groups = [["a {} b."], ["the {}.", "my bad {}.", "art of the {}."]]
    keys = ("TRAINER.MOCOOP.GROUPS", str(groups), "TRAINER.MOCOOP.TEXT_TARGET", target, "TRAINER.MOCOOP.TOP_K", 1)
    keys += ("TRAINER.MOCOOP.ROUTER_WEIGHT", 0, "TRAINER.MOCOOP.TEXT_WEIGHT", 3.0, "DATASET.SUBSAMPLE_CLASSES", "base")
    trainer = toy_run("MoCoOp", tmp_path, *keys, "OPTIM.MAX_EPOCH", 1)
    learner, batch = in_double(trainer.model).prompt_learner, next(iter(trainer.train_loader_x))
    learner.router.float()  # like the features that it is given
    torch.manual_seed(1)
    torch.nn.init.normal_(learner.ctx, std=0.02)
    trainer.before_train()  # the hard features in double, too
    trainer.before_epoch()
    learner.zero_grad()
    batch["img"] = batch["img"].double()
    loss, told = trainer.loss(batch["img"], batch["label"])
    ce = trainer.cross_entropy(trainer.model(batch["img"]), batch["label"])[0]
    (loss - ce).backward()  # what is left is the text loss

    model = in_double(load_backbone(toy_backbone))
    assert learner.layout.tolist() == [[1, 2], [1, 1]]
    ctx = [v.detach().clone().requires_grad_(True) for v in learner.ctx]
    text = 0.0
    for (before, *after), group in zip((ctx[:3], ctx[3:]), groups, strict=True):
        hard = [[h / h.norm() for h in written_in_full(model, template, TOY_CLASSES)] for template in group]
        if target == "group_mean":
            means = [sum(h[c] for h in hard) / len(hard) for c in range(4)]
            hard = [[mean / mean.norm() for mean in means]]
        scale = 1.0 if target == "group_mean" else model.logit_scale.exp()
        for y, name in enumerate(TOY_CLASSES):
            tokens = clip.tokenize(f"X {name.replace('_', ' ')}")
            whole, end = model.token_embedding(tokens)[0], tokens.argmax().item()
            whole = torch.cat([whole[:1], before[None], whole[2:end], torch.stack(after), whole[end : 77 - len(after)]])
            t = encode_in_full(model, whole[None, None], torch.tensor([[end + len(after)]]))[0, 0]
            t = t / t.norm()
            p = []  # of y under each of the group's templates, or under their mean
            for h in hard:
                exps = [(scale * t @ h[c]).exp() for c in range(4)]
                p.append(exps[y] / sum(exps))
            text = text - (sum(p) / len(p)).log() / (2 * 4)
    (3 * text).backward()
    assert math.isclose(told["loss_text"], text.item(), rel_tol=1e-5)
    assert math.isclose((loss - ce).item(), 3 * text.item(), rel_tol=1e-5)
    assert relative_error(learner.ctx.grad, torch.stack([v.grad for v in ctx])) < 1e-4


@pytest.mark.parametrize("name", ["router_loss", "router_loss_class", "text_loss"])
def test_gradients_by_finite_differences(name):
    router, images = unit(B, G, seed=2).requires_grad_(True), unit(B, E)
    if name == "router_loss":
        arguments = (lambda r: mocoop.router_loss(r, images, unit(G, E, seed=1), 0.5)), router
    elif name == "router_loss_class":
        labels = torch.arange(B)
        arguments = (lambda r: mocoop.router_loss_class(r, images, unit(G, N, E, seed=1), labels)), router
    else:
        hard = [unit(n, N, E, seed=10 + n) for n in (1, 3)]
        arguments = (lambda t: mocoop.text_loss(t, hard, SCALE)), unit(2, N, E).requires_grad_(True)
    assert torch.autograd.gradcheck(*arguments)


def test_experts_start_as_their_first_templates():
    clip_model = tiny_clip()
    encoder, names = TextEncoder(clip_model), ["cat", "yin_yang", "crocodile head"]
    templates = ["a photo of a {} texture.", "{} in a video game.", "a photo of many {}."]
    ids = [template_ids(t, openai_tokenizer()) for t in templates]
    learner = PromptLearner([[len(a), len(b)] for a, b in ids], names, [], encoder, E)
    words = torch.tensor([i for a, b in ids for i in a + b])
    with torch.no_grad():
        learner.ctx.copy_(encoder.token_embedding.weight[words])
        got = encoder(*learner())
    assert relative_error(got, encode_templates(encoder, templates, names)) < 1e-5


def test_extra_names_serve_the_text_loss_alone(model):
    assert model.encode_text().shape == (G, 3, E)
    both = model.encode_text(with_extra=True)
    assert both.shape == (G, 4, E) and relative_error(both[:, :3], model.encode_text()) < 1e-5


def test_auto_groups():
    """Clear clusters of templates come out as such, the same way every time."""
    encoder = TextEncoder(tiny_clip())
    templates = ["a photo of a {}.", "a b c d e f g h {}!!", "a photo of the {}.", "a b c d e f g i {}!!"]
    groups = auto_groups(encoder, templates, ["cat", "dog"], 2)
    assert [set(g) for g in groups] == [{templates[0], templates[2]}, {templates[1], templates[3]}]
    assert groups == auto_groups(encoder, templates, ["cat", "dog"], 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"GROUPS": "automatic"}, "auto"),
        ({"GROUPS": [["a photo of a {}."], []]}, "none of them empty"),
        ({"GROUPS": [["a photo of a dog."]]}, "one {}"),
        ({"TOP_K": 5}, "1 to 4"),
        ({"ROUTER_TARGET": "papers"}, "did you mean paper"),
        ({"GROUPS": "auto", "N_GROUPS": 99}, "1 to 80"),
        ({"PREC": "fp8"}, "fp"),
    ],
)
def test_mistakes_in_the_config(options, message):
    import datasets  # noqa: F401  the templates are those of one
    from dassl.config import get_cfg_default
    from trainers import extend_cfg

    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.DATASET.NAME = "Caltech101"
    cfg.TRAINER.MOCOOP.update(options)
    with pytest.raises(UserError, match=message.replace("{}", r"\{\}")):
        mocoop.MoCoOp.check_cfg(object.__new__(mocoop.MoCoOp), cfg)


@pytest.mark.parametrize(
    "options",
    [
        {"ROUTER_TARGET": "class", "TEXT_TARGET": "group_mean", "TEXT_CLASSES": "train"},
        {"TEXT_OFFSET": True, "TUNE_LAYERNORM": True, "RENORMALIZE": True},
        {"GROUPS": "auto", "N_GROUPS": 3, "TEMPLATES": "['a {}.', 'the {}.', 'my {}.', 'a bad {}.']", "TOP_K": 1},
        {"ROUTER_WEIGHT": 0.0, "TEXT_WEIGHT": 0.0, "GRAD_CLIP": 0.0, "PREC": "bf16"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_whole_runs_with_options(options, tmp_path, toy_run):
    """They train, and evaluated alone, on the same and on other classes, the weights say the same."""
    keys = [x for key, value in options.items() for x in (f"TRAINER.MOCOOP.{key}", value)]
    trained = toy_run("MoCoOp", tmp_path / "train", "DATASET.SUBSAMPLE_CLASSES", "base", *keys)
    assert trained.epoch == 2
    flags = ["--eval-only", "--model-dir", str(tmp_path / "train")]
    alone = toy_run("MoCoOp", tmp_path / "base", "DATASET.SUBSAMPLE_CLASSES", "base", *keys, flags=flags)
    batch = next(iter(alone.test_loader))["img"]
    with torch.no_grad():
        assert torch.equal(trained.model(batch), alone.model(batch))
    toy_run("MoCoOp", tmp_path / "new", "DATASET.SUBSAMPLE_CLASSES", "new", *keys, flags=flags)


def test_experts_of_other_groups_come_with_the_weights(tmp_path, toy_run):
    """As in cross-dataset evaluation: the other data set's config has groups of its own."""
    keys = ("TRAINER.MOCOOP.GROUPS", "[['a photo of a {}.'], ['art of the {}.'], ['a {} in a video game.']]")
    toy_run("MoCoOp", tmp_path / "train", *keys)
    flags = ["--eval-only", "--model-dir", str(tmp_path / "train")]
    trainer = toy_run("MoCoOp", tmp_path / "eval", flags=flags)
    assert trainer.model.prompt_learner.layout.tolist() == [[4, 1], [3, 1], [1, 5]]
    assert trainer.mixture().names == ["", "", ""], "not the first templates of this config's groups"


def test_experts_are_known_by_their_first_templates_where_the_weights_are_of_these_groups(tmp_path, toy_run):
    """In a run and in one that evaluates it on other classes; not under groups that only look alike."""

    def names(name, groups, flags=(), *keys):
        toy_run("MoCoOp", tmp_path / name, "TRAINER.MOCOOP.GROUPS", groups, "OPTIM.MAX_EPOCH", 1, *keys, flags=flags)
        return json.loads((tmp_path / name / "metrics.json").read_text()).get("expert_names")

    ours, theirs = (f"[['{word} photo of a {{}}.', 'a {{}}.'], ['art of the {{}}.']]" for word in ("a", "my"))
    base, new = ("DATASET.SUBSAMPLE_CLASSES", "base"), ("DATASET.SUBSAMPLE_CLASSES", "new")
    flags = ["--eval-only", "--model-dir", str(tmp_path / "train")]
    expected = ["a photo of a {}.", "art of the {}."]
    assert names("train", ours, (), *base) == expected == names("new", ours, flags, *new)
    assert names("other", theirs, flags, *base) is None
    templates = ("TRAINER.MOCOOP.TEMPLATES", "['a {}.', 'the {}.', 'my {}.']", "TRAINER.MOCOOP.N_GROUPS", 2)
    flags[-1] = str(tmp_path / "auto")
    found = names("auto", "auto", (), *templates, *base)
    assert len(found) == 2 and found == names("auto new", "auto", flags, *templates, *new)
    assert names("auto other", "auto", flags, *base, "TRAINER.MOCOOP.N_GROUPS", 2) is None


def test_gate_weights_of_an_evaluation_batch_by_batch(tmp_path, toy_run):
    """As where images come in another way than from the cache of features."""
    trainer = toy_run("MoCoOp", tmp_path, "OPTIM.MAX_EPOCH", 1)
    expected = trainer.extra_metrics()

    class Other(type(trainer)):
        def parse_batch_test(self, batch):
            return batch["img"], batch["label"]

    trainer.__class__ = Other
    with torch.no_grad():
        trainer.test()
        trainer.model(next(iter(trainer.test_loader))["img"])  # which is no evaluation
    found = trainer.extra_metrics()
    assert found["expert_usage"] == expected["expert_usage"] and found["expert_names"] == expected["expert_names"]
    assert found["expert_weight"] == pytest.approx(expected["expert_weight"], abs=1e-5)
    assert len(trainer.mixture().weights) == 12


def test_layernorms_learn_at_a_tenth_of_the_rate(tmp_path, toy_run):
    trainer = toy_run("MoCoOp", tmp_path, "TRAINER.MOCOOP.TUNE_LAYERNORM", True, "OPTIM.MAX_EPOCH", 8)
    rest, norms = trainer._optims["prompt_learner"].param_groups
    assert norms["initial_lr"] == pytest.approx(0.1 * rest["initial_lr"])
    assert {id(p) for p in norms["params"]} == {id(p) for p in trainer.layernorms.parameters()}
    assert any((m.weight != 1).any() for m in trainer.layernorms), "they moved"
    tuned = {name for name, p in trainer.model.image_encoder.named_parameters() if p.requires_grad}
    blocks = {f"transformer.resblocks.{i}.ln_{k}.{p}" for i in (0, 1) for k in (1, 2) for p in ("weight", "bias")}
    assert tuned == blocks, "not ln_pre, not ln_post"


def test_a_run_of_other_groups_is_not_resumed_nor_short_of_experts(tmp_path, toy_args, toy_run, capsys):
    keys = ("TRAINER.MOCOOP.GROUPS", "[['a photo of a {}.'], ['art of the {}.']]")
    toy_run("MoCoOp", tmp_path / "two", *keys)
    assert train.run(toy_args("MoCoOp", tmp_path / "five", flags=["--resume", str(tmp_path / "two")])) == 1
    assert "experts of other groups" in capsys.readouterr().err
    args = toy_args(
        "MoCoOp", tmp_path / "k", "TRAINER.MOCOOP.TOP_K", 3, flags=["--eval-only", "--model-dir", tmp_path / "two"]
    )
    assert train.run(args) == 1
    assert "TOP_K is 3: give 1 to 2" in capsys.readouterr().err
