"""What a user reads who asks the spatial embedding for something that cannot be."""

import pytest
import torch

from lessons.kit.data import empty_segments
from lessons.kit.data.scenes import scene
from lessons.spatial_embedding import (
    SpatialEmbeddingNet,
    cluster_pixels,
    embedding_losses,
    membership,
    recipe,
)

E, SIGMA, SEEDS = torch.zeros(2, 4, 5), torch.ones(1, 4, 5), torch.rand(4, 5)
NAN, INF = float("nan"), float("inf")

MAPS = {
    "embeddings of three numbers": (
        (torch.zeros(3, 4, 5), SIGMA, SEEDS),
        r"embeddings must be float \(2, h, w\), not float \(3, 4, 5\)",
    ),
    "embeddings of another size": (
        (torch.zeros(2, 5, 4), SIGMA, SEEDS),
        r"sigma must be float .* = \(1 or 2, 5, 4\) as embeddings, not float \(1, 4, 5\)",
    ),
    "a sigma for no axis": (
        (E, SIGMA[:0], SEEDS),
        r"sigma must be float .* = \(1 or 2, 4, 5\) as embeddings, not float \(0, 4, 5\)",
    ),
    "one sigma for all": (
        (E, torch.ones(1), SEEDS),
        r"sigma must be float .* = \(1 or 2, 4, 5\) as embeddings, not float \(1,\)",
    ),
    "the seeds of several classes": (
        (E, SIGMA, torch.rand(3, 4, 5)),
        r"seeds must be float \(h, w\) = \(4, 5\) as embeddings, not float \(3, 4, 5\)",
    ),
    "NaN in the embeddings": (
        (E * NAN, SIGMA, SEEDS),
        r"embeddings must be finite, not nan at \(0, 0, 0\)",
    ),
    "an infinite sigma": ((E, SIGMA * INF, SEEDS), "sigma must be positive and finite, not inf"),
    "NaN in the seeds": ((E, SIGMA, SEEDS * NAN), r"seeds must be finite, not nan at \(0, 0\)"),
    "no sigma": ((E, SIGMA * 0, SEEDS), "sigma must be positive and finite, not 0.0"),
    "a negative sigma": ((E, -SIGMA, SEEDS), "sigma must be positive and finite, not -1.0"),
    "a sigma that is NaN": ((E, SIGMA * NAN, SEEDS), "sigma must be positive .*, not nan"),
}
NUMBERS = {
    "everything is foreground": ({"foreground": -0.1}, "foreground must be .* not -0.1"),
    "nothing is foreground": ({"foreground": 1.0}, "foreground must be .* below 1, not 1.0"),
    "no seed is enough": ({"threshold": 1}, "threshold must be .* below 1, not 1"),
    "a threshold that is NaN": ({"threshold": NAN}, "threshold must be .* not nan"),
    "instances without pixels": ({"smallest": 0}, "smallest must be .* not 0"),
}


@pytest.mark.parametrize("maps, message", MAPS.values(), ids=MAPS.keys())
def test_maps_that_cannot_be_clustered(maps, message):
    with pytest.raises(ValueError, match=message):
        cluster_pixels(*maps)


@pytest.mark.parametrize("options, message", NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        cluster_pixels(E, SIGMA, SEEDS, **options)
    with pytest.raises(ValueError, match=message):  # at once, not at the first prediction
        SpatialEmbeddingNet(4, **options)


@pytest.mark.parametrize(
    ("embeddings", "centre", "sigma", "message"),
    [
        (
            E[0],
            torch.zeros(2),
            torch.ones(1),
            r"embeddings must be float \(2, h, w\), not .*\(4, 5\)",
        ),
        (E[:1], torch.zeros(2), torch.ones(1), r"embeddings must be .*, not float \(1, 4, 5\)"),
        (E, torch.zeros(3), torch.ones(1), r"centre must be float .*, not float \(3,\)"),
        (E, torch.tensor(0.0), torch.ones(1), r"centre must be float \(\*n, 2\), not one"),
        (E, torch.zeros(2), torch.ones(3), r"sigma must be float \(\*n, 1 or 2\) .*, not .*\(3,\)"),
        (E, torch.zeros(3, 2), torch.ones(2), r"sigma .* = \(3, 1 or 2\) as centre, not .*\(2,\)"),
        (E, torch.zeros(2), torch.tensor(1.0), r"sigma must be .*, not one float number"),
    ],
)
def test_membership_needs_a_sigma_for_each_centre(embeddings, centre, sigma, message):
    with pytest.raises(ValueError, match=message):
        membership(embeddings, centre, sigma)


def test_losses_need_targets_of_the_maps():
    maps, counted = (E[None], SIGMA[None], SEEDS[None, None]), torch.ones(1, 4, 5).bool()
    with pytest.raises(ValueError, match="targets must have one entry for each of 1 images, not 2"):
        embedding_losses(*maps, [empty_segments((4, 5))] * 2, counted, 4.0)
    with pytest.raises(ValueError, match="targets must be padded .* maps, 4×5"):
        embedding_losses(*maps, [empty_segments((3, 5))], counted, 4.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": "square"}, "sigma must be one of ellipse, circle, shared, fixed, not 'square'"),
        ({"radius": 0}, "radius must be positive and finite, not 0"),
        ({"radius": -3.0}, "radius must be positive and finite, not -3.0"),
        ({"unit": NAN}, "unit must be positive and finite, not nan"),
        ({"unit": INF}, "unit must be positive and finite, not inf"),
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1, not 0"),
    ],
)
def test_networks_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        SpatialEmbeddingNet(**{"num_classes": 4, **options})


def test_unknown_keyword_is_named():
    wanted = r"SpatialEmbeddingNet.__init__\(\) got an unexpected keyword argument 'bandwith'"
    with pytest.raises(TypeError, match=wanted):
        SpatialEmbeddingNet(4, bandwith=2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"centre": "middle"}, "centre must be one of embedding, centroid, not 'middle'"),
        (
            {"loss": "focal"},
            "loss must be one of lovasz, cross_entropy, balanced, dice, not 'focal'",
        ),
    ],
)
def test_unknown_variant(options, message):
    with pytest.raises(ValueError, match=message):
        recipe(**options)


def test_images_and_segments_that_do_not_belong_together():
    net, sample = SpatialEmbeddingNet(4), scene(0, 0, 64)
    with pytest.raises(ValueError, match="no images"):
        net([], [])
    with pytest.raises(ValueError, match="no images"):
        net.predict_instances([])
    with pytest.raises(ValueError, match="segments of 1 images for 2 images"):
        net([sample.image] * 2, [sample.segments])
    with pytest.raises(ValueError, match="image 0 is 32×64 pixels, but its segments are 64×64"):
        net([sample.image[:, :32]], [sample.segments])
