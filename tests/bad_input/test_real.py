"""What a user is told when the real images are missing, broken or contradict one another."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lessons.kit.data.real import CocoPanoptic, Nuclei, PennFudan
from lessons.kit.errors import LessonsError

PNG = "coco/annotations/panoptic_val2017/1.png"
JSON = "coco/annotations/panoptic_val2017.json"
JPG = "coco/val2017/1.jpg"
IMAGE = "nuclei/stage1_train/x/images/x.png"
MASK = "nuclei/stage1_train/x/masks/b.png"
PEDESTRIAN = "PennFudanPed/PNGImages/a.png"
IDS = "PennFudanPed/PedMasks/a_mask.png"


@pytest.fixture
def root(tmp_path):
    """The three data sets with one image of 4×6 pixels each, none of them broken yet."""
    save(tmp_path / IMAGE, np.zeros((4, 6, 3)))
    save(tmp_path / MASK, np.full((4, 6), 255))
    save(tmp_path / PEDESTRIAN, np.zeros((4, 6, 3)))
    save(tmp_path / IDS, np.ones((4, 6)))
    save(tmp_path / JPG, np.zeros((4, 6, 3)))
    save(tmp_path / PNG, np.full((4, 6, 3), (7, 0, 0)))
    table = {
        "categories": [{"id": 1, "name": "person", "isthing": 1}],
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [segment(7)]}],
    }
    (tmp_path / JSON).write_text(json.dumps(table))
    return tmp_path


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def segment(number, category=1):
    return {"id": number, "category_id": category, "iscrowd": 0, "area": 1, "bbox": [0] * 4}


def list_segments(root, *segments):
    table = json.loads((root / JSON).read_text())
    table["annotations"][0]["segments_info"] = list(segments)
    (root / JSON).write_text(json.dumps(table))


def message(read):
    """The one sentence that `read` ends with."""
    with pytest.raises(LessonsError) as caught:
        read()
    text = str(caught.value)
    assert "\n" not in text
    return text


def nuclei(root):
    return Nuclei("all", root)[0]


def pedestrians(root):
    return PennFudan(root)[0]


def coco(root):
    return CocoPanoptic("val2017", root)[0]


READ = {"nuclei": nuclei, "PennFudanPed": pedestrians, "coco": coco}


def reader(file):
    return READ[Path(file).parts[0]]


@pytest.mark.parametrize("read", READ.values())
def test_the_unbroken_sets_are_read(root, read):
    assert len(read(root).segments) == 1


def test_nuclei_not_there(tmp_path):
    text = message(lambda: Nuclei(root=tmp_path))
    assert str(tmp_path / "nuclei" / "stage1_train") in text
    assert "`lessons download nuclei`" in text and "83 MB" in text and "$LESSONS_DATA" in text
    assert "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip" in text


def test_pedestrians_not_there(tmp_path):
    text = message(lambda: PennFudan(tmp_path))
    assert str(tmp_path / "PennFudanPed") in text
    assert "`lessons download pennfudan`" in text and "54 MB" in text
    assert "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip" in text


def test_coco_not_there(tmp_path):
    text = message(lambda: CocoPanoptic(root=tmp_path))
    assert "train2017.zip (18 GB)" in text and "panoptic_annotations_trainval2017.zip" in text
    assert "https://cocodataset.org/#download" in text and "$LESSONS_DATA" in text
    assert str(tmp_path / "coco") in text


def test_a_split_that_does_not_exist(root):
    text = message(lambda: Nuclei("validation", root))
    assert "'validation'" in text and "train, test or all" in text
    text = message(lambda: CocoPanoptic("test2017", root))
    assert "'test2017'" in text and "train2017 and val2017" in text


def test_missing_files_of_coco_are_found_at_once(root):
    for file in (PNG, JPG):
        (root / file).rename(root / "away")
        (root / file).with_name("another").touch()
        text = message(lambda: CocoPanoptic("val2017", root))
        assert f"{root / file} is missing" in text
        (root / "away").rename(root / file)


def test_a_nucleus_image_that_is_missing(root):
    (root / IMAGE).unlink()
    assert f"{root / IMAGE} is missing" in message(lambda: nuclei(root))


def test_listed_nuclei_that_are_missing(root):
    splits = Path(__file__).parents[2] / "lessons" / "kit" / "data" / "nuclei.json"
    first = json.loads(splits.read_text())["test"][0]
    text = message(lambda: Nuclei("test", root))
    assert first in text and "39 more are missing" in text


@pytest.mark.parametrize("file", [IMAGE, MASK, PEDESTRIAN, IDS, JPG, PNG])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut short", "one bit", "no image"])
def test_a_damaged_image_is_named(root, file, damage):
    path = root / file
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
        if file in (MASK, PEDESTRIAN):  # nothing else tells that there was one
            path = path.parent
        else:
            (path.parent / "another").touch()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut short":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "one bit":
        at = data.find(b"IDAT") + 10 if file.endswith(".png") else 1  # a JPEG has no checksums
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    else:
        path.write_text("<html>not found</html>")
    assert str(path) in message(lambda: reader(file)(root))


def test_a_wrong_bit_never_becomes_a_wrong_mask(root):
    noise = np.random.default_rng(0).integers(1, 4, (16, 16))
    save(root / PEDESTRIAN, np.zeros((16, 16)))
    save(root / IDS, noise)
    data = (root / IDS).read_bytes()
    masks = pedestrians(root).segments.masks
    refused = 0
    for at in range(len(data)):
        (root / IDS).write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        try:
            assert pedestrians(root).segments.masks.equal(masks), f"byte {at}"
        except LessonsError:
            refused += 1
    assert refused > 0.9 * len(data)


@pytest.mark.parametrize("file", [MASK, IDS, PNG])
def test_a_mask_of_another_size(root, file):
    with Image.open(root / file) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(root / file)
    text = message(lambda: reader(file)(root))
    assert str(root / file) in text and "6×4" in text and "4×6" in text


def test_an_image_of_16_bits(root):
    Image.fromarray(np.full((4, 6), 1000, dtype=np.uint16)).save(root / IMAGE)
    text = message(lambda: nuclei(root))
    assert str(root / IMAGE) in text and "8 bits" in text


def test_pedestrian_ids_in_colour(root):
    save(root / IDS, np.ones((4, 6, 3)))
    text = message(lambda: pedestrians(root))
    assert str(root / IDS) in text and "map of ids" in text


@pytest.mark.parametrize(
    "folder",
    [
        "nuclei/stage1_train",
        "nuclei/stage1_train/x/masks",
        "PennFudanPed",
        "PennFudanPed/PNGImages",
        "PennFudanPed/PedMasks",
        "coco/annotations",
        "coco/val2017",
        "coco/annotations/panoptic_val2017",
    ],
)
@pytest.mark.parametrize("state", ["missing", "empty", "a file", "forbidden"])
def test_a_folder_that_cannot_be_read(root, folder, state, monkeypatch):
    path = root / folder
    if state == "forbidden":  # chmod would not stop a test that runs as root
        iterdir = Path.iterdir

        def refuse(self):
            if self == path:
                raise PermissionError(13, "Permission denied", str(self))
            return iterdir(self)

        monkeypatch.setattr(Path, "iterdir", refuse)
    else:
        shutil.rmtree(path)
        if state == "empty":
            path.mkdir()
        elif state == "a file":
            path.write_text("")
    text = message(lambda: reader(folder)(root))
    assert str(path) in text
    expected = {"a file": "Not a directory", "forbidden": "Permission denied"}
    assert expected.get(state, "lessons download" if "coco" not in folder else "unpack") in text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe\x00",
        b'{"categories": [], "images": [], "annotations": [{}]}',
        b'{"categories": [{"id": 1}], "images": [], "annotations": []}',
        b'{"categories": [], "images": [], "annotations": '
        b'[{"image_id": 3, "file_name": "3.png", "segments_info": []}]}',
    ],
)
def test_a_corrupt_json(root, content):
    (root / JSON).write_bytes(content)
    text = message(lambda: coco(root))
    assert str(root / JSON) in text and "cannot be read as panoptic annotations" in text


def test_a_folder_in_the_place_of_the_json(root):
    (root / JSON).unlink()
    (root / JSON).mkdir()
    assert str(root / JSON) in message(lambda: coco(root))


def test_a_json_cut_short(root):
    data = (root / JSON).read_bytes()
    for length in range(0, len(data) - 1, 7):
        (root / JSON).write_bytes(data[:length])
        assert str(root / JSON) in message(lambda: coco(root))


@pytest.mark.parametrize(
    ("segments", "complaint"),
    [
        ([segment(7), segment(8)], "lists segment 8, of which no pixel is in"),
        ([], "does not list segment 7, of which 24 pixels are in"),
        ([segment(8)], "lists segment 8, of which no pixel is in"),
        ([segment(7), segment(7)], "gives two segments one id"),
        ([segment(7), segment(0)], "the id 0 of void"),
        ([segment(7), segment(-1)], "lists segment -1"),
        ([segment(7), segment(2**40)], f"lists segment {2**40}"),
    ],
)
def test_a_json_that_contradicts_its_png(root, segments, complaint):
    list_segments(root, *segments)
    text = message(lambda: coco(root))
    assert complaint in text and str(root / PNG) in text and str(root / JSON) in text


@pytest.mark.parametrize(
    ("segments", "complaint"),
    [
        ([segment(7, category=2)], r"segment 7 of 1\.png the category 2"),
        ([segment("seven")], "cannot be read as panoptic annotations"),
        ([segment(2**70)], "cannot be read as panoptic annotations"),
        ([{"id": 7}], "cannot be read as panoptic annotations"),
    ],
)
def test_a_json_that_contradicts_itself(root, segments, complaint):
    list_segments(root, *segments)
    text = message(lambda: CocoPanoptic("val2017", root))
    assert re.search(complaint, text) and str(root / JSON) in text


def test_a_slice_is_no_index(root):
    with pytest.raises(TypeError, match="slice"):
        Nuclei("all", root)[0:1]
