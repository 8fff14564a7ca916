"""Lesson 16 equal to transformers' OneFormer, part by part, to CLIP's text model, and to loops."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModel

from lessons.kit.data import Category, Segments, empty_segments
from lessons.kit.data.scenes import CATEGORIES, Scenes
from lessons.kit.peers import oneformer as peer
from lessons.kit.training.recorded import recipe_of
from lessons.mask2former import Mask2Former
from lessons.oneformer import (
    OneFormer,
    TaskToken,
    TextEncoder,
    TextMapper,
    Tokeniser,
    contrastive_loss,
    draw_tasks,
    recipe,
    task_sentences,
)
from lessons.set_prediction import TASKS, task_targets

seeds = st.integers(0, 10**6)
NAMES = [category.name for category in CATEGORIES]
SMALL = {"num_queries": 9, "channels": 16, "hidden": 16, "heads": 2, "num_points": 50}


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


def small_model(**options):
    """A OneFormer that takes a moment."""
    return OneFormer(8, 4, **{"categories": CATEGORIES, "contexts": 2, **SMALL, **options})


def batch_of(count=2, size=64):
    samples = [Scenes.train(size=size)[i] for i in range(count)]
    return [sample.image for sample in samples], [sample.segments for sample in samples]


# ---------------------------------------------------------------- sentences


@given(seeds, st.integers(0, 9), st.sampled_from(TASKS), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_the_sentences_of_an_image(seed, n, task, count):
    generator = generator_of(seed)
    owner = torch.randint(n + 1, (8, 8), generator=generator)
    labels = torch.randint(8, (n,), generator=generator)
    crowd = torch.rand(n, generator=generator) < 0.3
    segments = Segments(owner == torch.arange(n)[:, None, None], labels, is_crowd=crowd)
    expected = []
    for k, category in enumerate(CATEGORIES):
        for label, is_crowd in zip(labels.tolist(), crowd.tolist(), strict=True):
            if task == "semantic" and label == k:
                expected.append(f"a photo with a {category.name}")
                break
            wanted = task == "panoptic" or (task == "instance" and category.is_thing)
            if wanted and label == k and not is_crowd:
                expected.append(f"a photo with a {category.name}")
    article = {"instance": "an", "semantic": "a", "panoptic": "a"}[task]
    expected = (expected + [f"{article} {task} photo"] * count)[:count]
    assert task_sentences(segments, task, CATEGORIES, count) == expected


def test_there_is_a_sentence_for_each_target():
    for sample in (Scenes.train()[i] for i in range(12)):
        for task in TASKS:
            said = task_sentences(sample.segments, task, CATEGORIES, 40)
            assert sum("with" in s for s in said) == len(task_targets(sample.segments, task, 4))


def test_all_tasks_are_drawn_alike_and_are_those_of_the_seed():
    torch.manual_seed(3)
    drawn = draw_tasks(3000)
    torch.manual_seed(3)
    assert draw_tasks(3000) == drawn
    for task in TASKS:
        assert abs(drawn.count(task) / 3000 - 1 / 3) < 0.03
    assert set(draw_tasks(50, ["instance"])) == {"instance"} and draw_tasks(0) == []


def test_numbers_stand_for_words():
    tokenise = Tokeniser(NAMES)
    rows = tokenise(["a photo with a sheep", "The task is: semantic", ""])
    assert rows.shape == (3, tokenise.length) and tokenise.length == 7
    last = len(tokenise.words) - 1
    for row, words in zip(rows.tolist(), (5, 4, 0), strict=True):
        assert row[0] == last - 1 and row[words + 1] == last == max(row)
        assert all(0 < number < last - 1 for number in row[1 : words + 1])
        assert not any(row[words + 2 :])
    assert rows.argmax(1).tolist() == [6, 5, 1]
    said = [tokenise.words[i] for i in rows[0, 1:6].tolist()]
    assert said == ["a", "photo", "with", "a", "sheep"]


def test_every_sentence_of_every_data_set_can_be_said(coco):
    for kinds in (CATEGORIES, coco.categories, [Category("nucleus", True, (0, 0, 0))]):
        tokenise = Tokeniser([kind.name for kind in kinds])
        sentences = [f"a photo with a {kind.name}" for kind in kinds]
        sentences += [f"{article} {task} photo" for task in TASKS for article in ("a", "an")]
        sentences += [f"the task is {task}" for task in TASKS]
        assert len(tokenise(sentences).unique(dim=0)) == len(sentences)


def test_the_task_token_is_the_mean_of_the_words_and_two_layers():
    torch.manual_seed(0)
    token, tokens = TaskToken(9, 4), torch.tensor([[7, 1, 2, 8, 0, 0], [7, 3, 8, 0, 0, 0]])
    for row, count, found in zip(tokens, (4, 3), token(tokens), strict=True):
        mean = sum(token.embedding.weight[i] for i in row[:count]) / count
        torch.testing.assert_close(found, token.layers(mean))


# ---------------------------------------------------------------- text


def text_mappers(causal, **sizes):
    """transformers' text mapper and ours with the same weights."""
    config = {"words": 24, "length": 7, "channels": 64, "contexts": 4, "text_layers": 2, **sizes}
    theirs = peer.their_text_mapper(**config)
    channels, heads = config["channels"], config["channels"] // 64
    encoder = TextEncoder(24, config["length"], channels, config["text_layers"], heads, causal)
    ours = TextMapper(encoder, channels, config["contexts"])
    peer.transplant_text_mapper(theirs, ours)
    return theirs, ours


def random_tokens(generator, *shape, length=7, words=24):
    """Sentences of random length, with start, end and padding."""
    tokens = torch.randint(1, words - 2, (*shape, length), generator=generator)
    end = torch.randint(1, length, (*shape, 1), generator=generator)
    place = torch.arange(length)
    tokens = torch.where(place < end, tokens, 0)
    tokens[..., 0] = words - 2
    return torch.where(place == end, words - 1, tokens)


@given(seeds, st.integers(1, 3), st.integers(1, 6), st.sampled_from([64, 128]))
@settings(max_examples=15, deadline=None)
def test_the_text_mapper_is_that_of_transformers(seed, b, n, channels):
    theirs, ours = text_mappers(causal=False, channels=channels)
    tokens = random_tokens(generator_of(seed), b, n)
    tokens[0, -1] = tokens[-1, 0]  # sentences come more than once
    found, expected = ours(tokens), theirs(tokens)
    assert found.shape == (b, n + 4, channels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    weight = torch.randn(found.shape, generator=generator_of(seed + 1))
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    pairs = (
        (ours.encoder.embedding.weight, theirs.text_encoder.token_embedding.weight),
        (ours.encoder.positions, theirs.text_encoder.positional_embedding),
        (ours.contexts, theirs.prompt_ctx.weight),
    )
    for own, their in pairs:
        torch.testing.assert_close(own.grad, their.grad, atol=1e-3, rtol=1e-3)


def test_with_the_mask_that_transformers_builds_and_forgets_it_is_ours_again():
    theirs, ours = text_mappers(causal=True)
    tokens = random_tokens(generator_of(0), 3, 5)
    assert (theirs(tokens) - ours(tokens)).abs().max() > 1e-2
    for layer in theirs.text_encoder.transformer.layers:
        assert layer.attn_mask is not None
        layer.self_attn.forward = partial(layer.self_attn.forward, attn_mask=layer.attn_mask)
    torch.testing.assert_close(ours(tokens), theirs(tokens), atol=1e-4, rtol=1e-4)


def test_the_causal_encoder_is_clip():
    config = CLIPTextConfig(
        vocab_size=24,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=7,
        eos_token_id=23,
        bos_token_id=22,
        pad_token_id=0,
    )
    clip = peer.randomised(CLIPTextModel(config)).eval()
    ours = TextEncoder(24, 7, 64, 2, heads=4)
    state = {name.removeprefix("text_model."): value for name, value in clip.state_dict().items()}
    names = {
        "embeddings.token_embedding": "embedding",
        "embeddings.position_embedding.weight": "positions",
        "encoder.layers": "layers",
        "self_attn.q_proj": "attention.to_query",
        "self_attn.k_proj": "attention.to_key",
        "self_attn.v_proj": "attention.to_value",
        "self_attn.out_proj": "attention.out",
        "mlp.fc1": "feed_forward.0",
        "mlp.fc2": "feed_forward.2",
        "layer_norm1": "norms.0",
        "layer_norm2": "norms.1",
        "final_layer_norm": "norm",
    }
    renamed = {}
    for name, value in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        if "position_ids" not in name:
            renamed[name] = value
    ours.load_state_dict(renamed)
    tokens = random_tokens(generator_of(4), 6)
    torch.testing.assert_close(ours(tokens), clip(tokens).pooler_output, atol=1e-4, rtol=1e-4)


def test_only_without_the_causal_mask_the_padding_is_heard():
    _, ours = text_mappers(causal=True)
    short = torch.tensor([[22, 5, 6, 23]])
    long = torch.tensor([[22, 5, 6, 23, 0, 0, 0]])
    torch.testing.assert_close(ours.encoder(short), ours.encoder(long))
    ours.encoder.causal = False
    assert (ours.encoder(short) - ours.encoder(long)).abs().max() > 1e-2


# ---------------------------------------------------------------- contrastive loss


def contrastive_by_loops(queries, texts, temperature):
    b = len(queries)

    def unit(x):
        numbers = x.flatten().tolist()
        length = math.sqrt(sum(v * v for v in numbers))
        return [v / length for v in numbers]

    images, sentences = [unit(x) for x in queries], [unit(x) for x in texts]
    scale = min(100, 1 / temperature)
    table = [
        [scale * sum(v * w for v, w in zip(i, s, strict=True)) for s in sentences] for i in images
    ]
    total = 0.0
    for k in range(b):
        row, column = table[k], [table[j][k] for j in range(b)]
        for numbers in (row, column):
            total += math.log(sum(math.exp(v - table[k][k]) for v in numbers)) / b
    return total


@given(seeds, st.integers(1, 6), st.integers(1, 5), st.floats(0.005, 2.0))
@settings(max_examples=30, deadline=None)
def test_the_contrastive_loss_is_that_of_transformers_and_of_loops(seed, b, q, temperature):
    generator = generator_of(seed)
    texts = torch.randn(b, q, 8, generator=generator)
    queries = texts + torch.randn(b, q, 8, generator=generator)
    theirs = peer.their_loss(temperature)
    leaves = [(queries.clone().requires_grad_(), texts.clone().requires_grad_()) for _ in range(2)]
    log_temperature = torch.tensor(math.log(temperature), requires_grad=True)
    found = contrastive_loss(*leaves[0], log_temperature.exp())
    expected = theirs.loss_contrastive(*leaves[1])["loss_contrastive"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    by_loops = contrastive_by_loops(queries, texts, temperature)
    assert found.item() == pytest.approx(by_loops, abs=1e-4, rel=1e-4)
    found.backward()
    expected.backward()
    for own, their in zip(*leaves, strict=True):
        torch.testing.assert_close(own.grad, their.grad, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(
        -log_temperature.grad.double(), theirs.logit_scale.grad.double(), atol=1e-4, rtol=1e-3
    )


def test_a_batch_of_one_gives_nothing():
    queries, texts = (torch.randn(1, 4, 8, requires_grad=True) for _ in range(2))
    temperature = torch.tensor(0.07, requires_grad=True)
    loss = contrastive_loss(queries, texts, temperature)
    loss.backward()
    assert loss == 0
    for leaf in (queries, texts, temperature):
        assert not leaf.grad.any()


def test_the_length_of_a_vector_says_nothing_and_the_scale_has_an_end():
    queries, texts = torch.randn(5, 3, 8), torch.randn(5, 3, 8)
    loss = contrastive_loss(queries, texts, 0.2)
    lengths = torch.rand(5, 1, 1) + 0.1
    torch.testing.assert_close(contrastive_loss(queries * lengths, 3 * texts, 0.2), loss)
    assert contrastive_loss(queries, texts, 1e-6) == contrastive_loss(queries, texts, 0.01)


def test_two_images_with_the_same_texts_have_a_floor():
    texts = torch.randn(4, 3, 8)
    texts[1] = texts[0]
    assert contrastive_loss(texts, texts, 0.01) == pytest.approx(math.log(2), abs=1e-3)


# ---------------------------------------------------------------- the model


class AnyToken(torch.nn.Module):
    """A task token that is always the same, one vector for each image."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = vectors

    def forward(self, sentences):
        return self.vectors


@pytest.mark.parametrize("swapped_back", [False, True])
@pytest.mark.parametrize("exchanged", [False, True])
def test_the_transformer_is_that_of_transformers(swapped_back, exchanged):
    """As published where values and positions are exchanged, as the paper says otherwise."""
    theirs = peer.their_transformer(num_queries=9, channels=16, hidden=32, heads=2)
    if swapped_back:
        peer.swap_back(theirs)
    generator = generator_of(1)
    sizes = [(2, 3), (4, 6), (8, 12)]
    maps = [torch.randn(2, 16, *size, generator=generator) for size in sizes]
    pixels = torch.randn(2, 16, 16, 24, generator=generator)
    tokens = torch.randn(2, 16, generator=generator)
    ours = small_model(hidden=32, task_token=AnyToken(tokens), exchanged=exchanged).eval()
    peer.transplant_transformer(theirs, ours)
    with torch.no_grad():
        said = theirs(maps, pixels, tokens)
        queries = ours.start(pixels, ["panoptic", "semantic"])
        answers, forbidden = ours.refine(queries, maps, pixels)
    if swapped_back == exchanged:
        assert (queries - said.contrastive_logits).abs().max() > 0.1
        return
    torch.testing.assert_close(queries, said.contrastive_logits, atol=1e-4, rtol=1e-4)
    classes, masks = answers[-1]
    torch.testing.assert_close(classes, said.prediction_class, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(masks, said.prediction_masks, atol=1e-3, rtol=1e-3)
    assert len(answers) == len(said.auxiliary_predictions) + 1 == len(forbidden) + 1
    for own, their in zip(answers, said.auxiliary_predictions, strict=False):
        torch.testing.assert_close(own[1], their["masks_queries_logits"], atol=1e-3, rtol=1e-3)


def test_the_last_query_is_the_task_token_and_the_others_have_seen_the_image():
    model = small_model().eval()
    pixels = torch.randn(2, 16, 8, 8)
    queries = model.start(pixels, ["panoptic", "panoptic"])
    assert queries.shape == (2, 9, 16)
    torch.testing.assert_close(queries[0, -1], queries[1, -1])
    assert (queries[0, :-1] - queries[1, :-1]).abs().amax(1).min() > 1e-4
    other = model.start(pixels, ["panoptic", "instance"])
    torch.testing.assert_close(other[0], queries[0])
    assert (other[1] - queries[1]).abs().amax(1).min() > 1e-4


def test_without_the_text_branch_the_answers_are_the_same():
    model, (images, _) = small_model().eval(), batch_of()
    methods = (model.predict_semantic, model.predict_panoptic, model.predict_instances)
    before = [method(images) for method in methods]
    model.text_mapper = model.log_temperature = None
    after = [method(images) for method in methods]
    for old, new in zip(before, after, strict=True):
        for one, other in zip(old, new, strict=True):
            if isinstance(one, Segments):
                assert torch.equal(one.masks, other.masks)
                assert torch.equal(one.scores, other.scores)
            else:
                assert torch.equal(one, other)


def test_each_prediction_asks_with_its_own_task():
    model, (images, _) = small_model(), batch_of(1)
    asked = []
    model.start = lambda pixels, tasks: asked.append(tasks) or OneFormer.start(model, pixels, tasks)
    model.predict_semantic(images)
    model.predict_panoptic(images)
    model.predict_instances(images)
    model.predict_instances(images, task="semantic")
    assert asked == [["semantic"], ["panoptic"], ["instance"], ["semantic"]]
    told, untold = small_model(), small_model(task_token=False, contrastive=False)
    for net, same in ((told, False), (untold, True)):
        answers = [net.predict(images, task=task)[0][1] for task in TASKS]
        assert torch.equal(answers[0], answers[1]) == same == torch.equal(answers[0], answers[2])


def test_the_losses_are_those_of_the_drawn_tasks():
    images, segments = batch_of(3)
    model = small_model()
    torch.manual_seed(5)
    losses = model(images, segments)
    torch.manual_seed(5)
    tasks = draw_tasks(3)
    assert len(set(tasks)) > 1
    maps, pixels = model.read_maps(
        model.backbone(torch.stack([(i - model.mean) / model.std for i in images]))
    )
    queries = model.start(pixels, tasks)
    targets = [task_targets(s, task, 4) for s, task in zip(segments, tasks, strict=True)]
    expected = {}
    for z in model.refine(queries, maps, pixels)[0]:
        for name, loss in model.losses(z, targets).items():
            expected[name] = expected.get(name, 0) + loss
    sentences = [
        task_sentences(s, task, CATEGORIES, 7) for s, task in zip(segments, tasks, strict=True)
    ]
    texts = model.text_mapper(torch.stack([model.tokenise(each) for each in sentences]))
    expected["contrastive"] = 0.5 * contrastive_loss(queries, texts, 0.07)
    assert losses.keys() == expected.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss)
    sum(losses.values()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert not silent


def test_switches():
    images, segments = batch_of(2)
    segments[0] = empty_segments((64, 64))
    no_text = small_model(contrastive=False)
    assert "contrastive" not in no_text(images, segments)
    assert not any("text" in name or "temperature" in name for name in no_text.state_dict())
    no_token = small_model(task_token=False)
    losses = no_token(images, segments)
    assert torch.isfinite(sum(losses.values()))
    assert no_token.start(torch.randn(1, 16, 8, 8), ["instance"]).shape == (1, 9, 16)
    assert small_model()(images[:1], segments[1:])["contrastive"] == 0


def test_the_recipe_makes_what_was_recorded():
    made = recipe_of("oneformer", "scenes", {"contrastive": False, "tasks": ["panoptic"]})
    model = made.model()
    assert model.text_mapper is None and model.tasks == ("panoptic",)
    assert set(made.metrics) == {"predict_panoptic", "predict_instances", "predict_semantic"}
    assert [kind.name for kind in model.categories] == NAMES
    whole = sum(p.numel() for p in recipe().model().parameters())
    alone = sum(p.numel() for p in Mask2Former(8, 4).parameters())
    assert alone < whole < 2e6
