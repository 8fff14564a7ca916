"""What a user reads who asks Mask R-CNN for something that cannot be."""

import pytest

from lessons.mask_rcnn import MaskRCNN, recipe


def test_odd_mask_size():
    with pytest.raises(ValueError, match="mask_size must be even, not 27"):
        MaskRCNN(4, mask_size=27)


def test_unknown_keyword_is_named():
    with pytest.raises(TypeError, match="mask_sise"):
        MaskRCNN(4, mask_sise=28)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"roi": "crop"}, "roi must be align or pool"), ({"mask": "tanh"}, "sigmoid or softmax")],
)
def test_unknown_variant(options, message):
    with pytest.raises(ValueError, match=message):
        recipe(**options)
