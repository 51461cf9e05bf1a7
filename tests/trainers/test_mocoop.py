"""MoCoOp's formulas against loops over images, experts, classes and templates, in float64."""

import json
import math
from functools import partial

import clip
import pytest
import torch
import torch.nn.functional as F

import train
from benchmark.facts import method_of
from dassl.utils import UserError
from prompting import routing
from prompting.backbone import load_backbone
from prompting.prompts import encode_templates
from prompting.text_encoder import TextEncoder
from prompting.tokenizers import openai_tokenizer
from tests.conftest import TOY_CLASSES
from tests.reference import encode_in_full, in_double, relative_error, tiny_clip, written_in_full
from trainers import mocoop
from trainers.mocoop import MoCoOpCLIP, PromptLearner, auto_groups, template_ids

B, G, N, E, SCALE = 5, 4, 6, 32, 20.0


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
    assert math.isclose(routing.router_loss(router, images, groups, temperature).item(), expected, rel_tol=1e-9)


def test_router_loss_vanishes_where_router_follows_hard_prompts():
    images, groups = unit(B, E), unit(G, E, seed=1)
    assert abs(routing.router_loss(images @ groups.t() / 0.1, images, groups, 0.1).item()) < 1e-12


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
    assert math.isclose(routing.router_loss_class(router, images, features, labels).item(), expected, rel_tol=1e-9)


def test_text_loss():
    experts = unit(G, N, E)
    hard = [unit(n, N, E, seed=10 + n) for n in (1, 3, 2, 4)]
    expected = 0.0
    for g in range(G):
        for y in range(N):
            p = [softmax([SCALE * (experts[g, y] @ h[c]).item() for c in range(N)])[y] for h in hard[g]]
            expected -= math.log(sum(p) / len(p)) / (G * N)
    assert math.isclose(mocoop.text_loss(experts, hard, SCALE).item(), expected, rel_tol=1e-9)


FORMS = {"released": [[1, 1], [1, 0]], "paper": [[1, 2], [1, 1]]}
"""Form -> words before and behind the class name of "a {} b." and "the {}." that are learned."""


@pytest.mark.parametrize("batch", [4, 3])
@pytest.mark.parametrize("form", FORMS)
def test_the_losses_of_a_run_and_their_gradients(form, batch, tmp_path, toy_run, toy_backbone):
    """By loops over whole prompts, of a base-to-new run: the released form has its full stops in L_text alone and, in
    batches below 4, no part of L_text from experts that no image chose.
    """
    groups = [["a {} b."], ["the {}.", "my bad {}.", "art of the {}."]]
    keys = ("TRAINER.MOCOOP.GROUPS", str(groups), "TRAINER.MOCOOP.FORM", form, "TRAINER.MOCOOP.TOP_K", 1)
    keys += ("TRAINER.MOCOOP.ROUTER_WEIGHT", 2.0, "TRAINER.MOCOOP.TEXT_WEIGHT", 3.0, "OPTIM.MAX_EPOCH", 1)
    if form == "paper":
        keys += ("TRAINER.MOCOOP.ROUTER_TEMPERATURE", 0.1)
    trainer = toy_run("MoCoOp", tmp_path, *keys, "DATASET.SUBSAMPLE_CLASSES", "base")
    learner = in_double(trainer.model).prompt_learner
    learner.router.float()  # like the features that it is given
    images = torch.randn(batch, 3, 32, 32, dtype=torch.double, generator=torch.Generator().manual_seed(5))
    labels = torch.tensor([0, 1, 1, 0][:batch])
    trainer.before_train()  # the hard features in double, too; and the run's weights
    torch.manual_seed(1)
    torch.nn.init.normal_(learner.ctx, std=0.02)
    if learner.offset is not None:
        torch.nn.init.normal_(learner.offset, std=0.1)
    with torch.no_grad():  # one expert chosen by all, the other by none
        learner.router.bias.copy_(torch.tensor([0.0, 9.0]))
    trainer.before_epoch()
    learner.zero_grad()
    loss, told = trainer.loss(images, labels)
    loss.backward()

    model = in_double(load_backbone(toy_backbone)).requires_grad_(False)
    norms = [m for name, m in model.visual.named_modules() if name.endswith((".ln_1", ".ln_2"))]
    for norm, tuned in zip(norms, learner.layernorms if form == "released" else norms, strict=True):
        norm.load_state_dict(tuned.state_dict())
        norm.requires_grad_(True)
    ctx = [v.detach().clone().requires_grad_(True) for v in learner.ctx]
    w = torch.zeros(learner.router.in_features, dtype=torch.double)
    if learner.offset is not None:
        w = learner.offset.detach().clone().requires_grad_(True)
    router = [t.detach().double().requires_grad_(True) for t in (learner.router.weight, learner.router.bias)]
    s, normal = model.logit_scale.exp(), partial(F.normalize, dim=-1)
    features = [normal(model.visual(image[None])[0]) for image in images]
    hard = [[[normal(h) for h in written_in_full(model, t, TOY_CLASSES)] for t in group] for group in groups]
    means = [[sum(h[c] for h in group) / len(group) for c in range(4)] for group in hard]

    def soft(g, name, stop):
        before, behind = FORMS[form][g]
        vectors = ctx[sum(map(sum, FORMS[form][:g])) :]
        tokens = clip.tokenize(f"X {name.replace('_', ' ')}" + (" ." if stop else ""))
        whole, end = model.token_embedding(tokens)[0], tokens.argmax().item()
        last = end - stop  # the full stop's place, or the end token's
        parts = [whole[:1], *(v[None] for v in vectors[:before]), whole[2:last]]
        parts += [*(v[None] for v in vectors[before : before + behind]), whole[last : 77 - behind]]
        return normal(encode_in_full(model, torch.cat(parts)[None, None], torch.tensor([[end + behind]]))[0, 0] + w)

    ce = sum(
        torch.stack([s * f @ soft(1, name, False) for name in TOY_CLASSES[:2]]).logsumexp(0)
        - s * f @ soft(1, TOY_CLASSES[y], False)
        for f, y in zip(features, labels.tolist(), strict=True)
    )
    guide = 0.0
    for f, y in zip(features, labels.tolist(), strict=True):
        log_r = (router[0] @ f + router[1]).log_softmax(0)
        if form == "released":  # both of two groups are the largest two
            q = torch.stack([(f @ normal(mean[y]) + 10).exp() for mean in means])
            guide = guide - (q / q.sum() * log_r).sum()
        else:
            q = torch.stack([(f @ normal(sum(mean)) / 0.1).exp() for mean in means])
            q = q / q.sum()
            guide = guide + (q * (q.log() - log_r)).sum()
    text = 0.0
    for g in range(2):
        if form == "released" and batch < 4 and g == 0:
            text = text + 4 * math.log(4)
            continue
        for y, name in enumerate(TOY_CLASSES):
            t = soft(g, name, form == "released")
            told_by, scale = (hard[g], s) if form == "paper" else ([[normal(mean) for mean in means[g]]], 1.0)
            text = text - (sum((scale * t @ torch.stack(h).t()).softmax(0)[y] for h in told_by) / len(told_by)).log()
    expected = ce / batch + 2 * guide / batch + 3 * text / 8
    expected.backward()
    assert [told[f"loss_{name}"] for name in ("ce", "router", "text")] == pytest.approx(
        [ce.item() / batch, guide.item() / batch, text.item() / 8], rel=1e-5
    )
    assert math.isclose(loss.item(), expected.item(), rel_tol=1e-5)
    for v in ctx:
        v.grad = torch.zeros_like(v) if v.grad is None else v.grad
    compared = [(learner.ctx.grad, torch.stack([v.grad for v in ctx])), (learner.router.weight.grad, router[0].grad)]
    if form == "released":
        compared.append((learner.offset.grad, w.grad))
        for norm, tuned in zip(norms, learner.layernorms, strict=True):  # through f, on both sides of L_router
            compared += [(tuned.weight.grad, norm.weight.grad), (tuned.bias.grad, norm.bias.grad)]
    for found, reference in compared:
        assert relative_error(found, reference) < 1e-3


def test_without_further_names_no_prompt_has_a_full_stop(tmp_path, toy_run):
    """In runs over all classes the released form's L_text has the prompts to classify with."""
    learner = toy_run("MoCoOp", tmp_path, "OPTIM.MAX_EPOCH", 1).model.prompt_learner
    assert learner.alike and learner.text_loss_prompts is learner.prompts


@pytest.mark.parametrize("name", ["router_loss", "router_loss_class", "text_loss"])
def test_gradients_by_finite_differences(name):
    router, images = unit(B, G, seed=2).requires_grad_(True), unit(B, E).requires_grad_(True)
    if name == "router_loss":
        arguments = (lambda r, v: routing.router_loss(r, v, unit(G, E, seed=1), 0.5)), (router, images)
    elif name == "router_loss_class":
        labels = torch.arange(B)
        arguments = (lambda r, v: routing.router_loss_class(r, v, unit(G, N, E, seed=1), labels)), (router, images)
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
        ({"FORM": "article"}, "known: paper, released"),
        ({"TEXT_OFFSET": "yes"}, 'unknown TRAINER.MOCOOP.TEXT_OFFSET "yes": known: False, True'),
        ({"ROUTER_TEMPERATURE": 0.1}, "ROUTER_TEMPERATURE 0.1 goes with ROUTER_TARGET paper, not class"),
        ({"FORM": "paper", "ROUTER_TARGET": "class", "ROUTER_TEMPERATURE": 0.1}, "goes with ROUTER_TARGET paper"),
        ({"FORM": "paper", "ROUTER_TEMPERATURE": 0.0}, "ROUTER_TEMPERATURE is 0.0: give a number above 0"),
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
        {"FORM": "paper"},
        {"FORM": "paper", "ROUTER_TARGET": "class", "TEXT_TARGET": "group_mean", "TEXT_CLASSES": "train"},
        {"TEXT_OFFSET": False, "TUNE_LAYERNORM": False, "RENORMALIZE": True},
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
    assert trainer.model.prompt_learner.layout.tolist() == [[4, 0], [3, 0], [1, 4]]
    assert trainer.mixture().names == ["", "", ""], "not the first templates of this config's groups"


def test_weights_of_another_form_say_what_they_said(tmp_path, toy_run):
    """As those of before there were forms."""
    trained = toy_run("MoCoOp", tmp_path / "train", "TRAINER.MOCOOP.FORM", "paper")
    flags = ["--eval-only", "--model-dir", str(tmp_path / "train")]
    alone = toy_run("MoCoOp", tmp_path / "eval", flags=flags)
    batch = next(iter(alone.test_loader))["img"]
    with torch.no_grad():
        assert relative_error(alone.model(batch), trained.model(batch)) < 1e-5
    assert alone.mixture().names[0] == "{} texture."


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


def test_routing_of_an_evaluation_goes_into_metrics_and_the_figures_that_the_report_draws(tmp_path, toy_run):
    trainer = toy_run("MoCoOp", tmp_path, "OPTIM.MAX_EPOCH", 1)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert set(method_of("MoCoOp").figures) <= set(found)
    assert found["routing_names"] == ["router entropy", "class and expert"], "all images are of one style"
    bits = routing.mutual_information(torch.tensor([0] * 3 + [1] * 3 + [2] * 3 + [3] * 3), trainer.mixture().weights)
    assert found["expert_class_bits"] == pytest.approx(bits[0], abs=1e-5)
    assert found["expert_class_chance"] == pytest.approx(bits[1], abs=1e-5)
    for i, item in enumerate(trainer.test_loader.dataset.data_source):
        item.domain = i % 2
    trainer.test()
    bits = routing.mutual_information(torch.arange(12) % 2, trainer.mixture().weights)[0]
    assert trainer.extra_metrics()["expert_style_bits"] == pytest.approx(bits, abs=1e-5)


def test_layernorms_learn_at_a_tenth_of_the_rate(tmp_path, toy_run, toy_args, capsys):
    trainer = toy_run("MoCoOp", tmp_path, "TRAINER.MOCOOP.TUNE_LAYERNORM", True, "OPTIM.MAX_EPOCH", 8)
    rest, norms = trainer._optims["prompt_learner"].param_groups
    assert norms["initial_lr"] == pytest.approx(0.1 * rest["initial_lr"])
    assert {id(p) for p in norms["params"]} == {id(p) for p in trainer.layernorms.parameters()}
    assert any((m.weight != 1).any() for m in trainer.layernorms), "they moved"
    tuned = {name for name, p in trainer.model.image_encoder.named_parameters() if p.requires_grad}
    blocks = {f"transformer.resblocks.{i}.ln_{k}.{p}" for i in (0, 1) for k in (1, 2) for p in ("weight", "bias")}
    assert tuned == blocks, "not ln_pre, not ln_post"
    keys, flags = ("TRAINER.MOCOOP.TUNE_LAYERNORM", False), ["--eval-only", "--model-dir", tmp_path]
    assert train.run(toy_args("MoCoOp", tmp_path / "without", *keys, flags=flags)) == 1
    assert "set TRAINER.MOCOOP.TUNE_LAYERNORM True, as it was" in capsys.readouterr().err


def test_a_run_of_other_groups_is_not_resumed_nor_short_of_experts(tmp_path, toy_args, toy_run, capsys):
    toy_run("MoCoOp", tmp_path / "two", "TRAINER.MOCOOP.GROUPS", "[['a photo of a {}.'], ['art of the {}.']]")
    assert train.run(toy_args("MoCoOp", tmp_path / "five", flags=["--resume", str(tmp_path / "two")])) == 1
    assert "experts of other groups" in capsys.readouterr().err
    keys, flags = ("TRAINER.MOCOOP.TOP_K", 3), ["--eval-only", "--model-dir", tmp_path / "two"]
    assert train.run(toy_args("MoCoOp", tmp_path / "k", *keys, flags=flags)) == 1
    assert "TOP_K is 3: give 1 to 2" in capsys.readouterr().err
