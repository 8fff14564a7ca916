"""What a user is told when the real images are missing, broken or contradict one another."""

import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lessons.kit.data.download import data_root, download
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
    return PennFudan("all", root)[0]


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
    text = message(lambda: PennFudan(root=tmp_path))
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
    assert first in text and "lacks 40 of the 40 images of the split test" in text
    assert "nuclei:all or nuclei:PATH" in text


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


@pytest.mark.parametrize("file", [IMAGE, PEDESTRIAN, JPG, PNG])
def test_an_image_of_16_bits(root, file):
    values = np.full((4, 6), 1000, dtype=np.uint16)
    Image.fromarray(values).save(root / file, format="PNG")
    text = message(lambda: reader(file)(root))
    assert str(root / file) in text and "more than 8 bits" in text and "save it with 8" in text


@pytest.mark.parametrize("file", [IMAGE, PEDESTRIAN, JPG])
def test_an_image_that_is_transparent_in_places(root, file):
    values = np.full((4, 6, 4), 255)
    values[2, 3, 3] = 254
    Image.fromarray(values.astype(np.uint8)).save(root / file, format="PNG")
    text = message(lambda: reader(file)(root))
    assert f"{root / file} is transparent in places" in text


def soft(mode="L"):
    values = np.zeros((4, 6), dtype=np.uint8)
    values[1:3, 1:3], values[1:3, 3] = 255, 120
    image = Image.fromarray(values)
    if mode != "alpha":
        return image.convert(mode)
    white = Image.new("RGBA", (6, 4), (255, 255, 255, 0))
    white.putalpha(image)
    return white


def noisy():
    values = np.zeros((4, 6), dtype=np.uint8)
    values[:, 3:] = 255
    buffer = io.BytesIO()
    noise = Image.fromarray(np.kron(values, np.ones((9, 9), dtype=np.uint8)))
    noise.crop((4, 0, 54, 36)).resize((6, 4)).save(buffer, format="JPEG", quality=5)
    return Image.open(buffer)


UNCLEAR = {
    "a soft edge": (soft(), "has 3 values"),
    "a soft edge in colour": (soft("RGB"), "has 3 values"),
    "a soft edge of the alpha channel": (soft("alpha"), "has 3 degrees of transparency"),
    "the noise of a JPEG": (noisy(), "values"),
    "no background": (Image.fromarray(np.tile(np.uint8([1, 2, 1]), (4, 2))), "has 2 values"),
    "ids": (Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)), "has 24 values"),
    "16-bit ids": (Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6)), "24 values"),
    "nothing": (Image.new("RGBA", (6, 4), (255, 255, 255, 0)), "is wholly transparent"),
}


@pytest.mark.parametrize("mask, complaint", UNCLEAR.values(), ids=UNCLEAR.keys())
def test_a_mask_that_is_not_clear_is_refused_by_name(root, mask, complaint):
    mask.save(root / MASK, format="PNG")
    text = message(lambda: nuclei(root))
    assert str(root / MASK) in text and complaint in text
    if "transparent" not in complaint:
        assert "a mask is 0 outside and has one value inside" in text


@pytest.mark.parametrize("ending", [".tif", ".jpg", ".BMP", ".gif", ".jpeg", ".webp"])
def test_a_mask_of_another_format_is_not_overlooked(root, ending):
    other = (root / MASK).with_name("other" + ending)
    other.write_bytes((root / MASK).read_bytes())
    text = message(lambda: nuclei(root))
    assert f"{other} is an image, but no .png" in text


def test_an_orientation_of_the_image_alone_is_seen_by_its_size(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(root / IMAGE, exif=exif)
    text = message(lambda: nuclei(root))
    assert str(root / MASK) in text and "4×6" in text and "6×4" in text


@pytest.mark.parametrize("file", [IMAGE, MASK, IDS, PNG])
def test_a_folder_in_the_place_of_an_image(root, file):
    (root / file).unlink()
    (root / file).mkdir()
    assert f"{root / file} cannot be read" in message(lambda: reader(file)(root))


def test_a_link_to_nothing(root):
    (root / IMAGE).unlink()
    (root / IMAGE).symlink_to(root / "nowhere.png")
    assert f"{root / IMAGE} is missing" in message(lambda: nuclei(root))


@pytest.mark.parametrize("file", [IMAGE, MASK, PEDESTRIAN, IDS, JPG, PNG])
def test_an_image_that_may_not_be_read(root, file, monkeypatch):
    read_bytes = Path.read_bytes

    def refuse(self):
        if self == root / file:
            raise PermissionError(13, "Permission denied", str(self))
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    text = message(lambda: reader(file)(root))
    assert f"{root / file} cannot be read as an image (Permission denied)" in text


def test_no_advice_destroys_a_user_s_images(root):
    """Neither where the original lies nor where something else does."""
    (root / IMAGE).unlink()
    (root / IDS).write_bytes(b"")
    (root / JPG).write_bytes(b"")
    texts = [message(lambda read=read: read(root)) for read in READ.values()]
    texts.append(message(lambda: Nuclei("train", root)))
    texts.append(message(lambda: nuclei(root / "nowhere")))
    for text in texts:
        assert not re.search("remove|delete|overwrite|rm ", text)
    assert "with $LESSONS_DATA naming another folder `lessons download nuclei`" in texts[0]


def test_ids_in_fractions(root):
    Image.fromarray(np.ones((4, 6), dtype=np.float32)).save(root / IDS, format="TIFF")
    text = message(lambda: pedestrians(root))
    assert f"{root / IDS} is of fractions, not a map of ids" in text


def test_a_folder_of_one_s_own(root, tmp_path):
    text = message(lambda: Nuclei("all", folder=tmp_path / "cells"))
    assert text.startswith(f"{tmp_path / 'cells'} is missing: a folder of nuclei has NAME/images/")
    text = message(lambda: PennFudan("all", folder=root / "nuclei"))
    assert f"{root / 'nuclei/PNGImages'} is missing: a folder of pennfudan has PNGImages/" in text
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "x.png").write_bytes((root / IMAGE).read_bytes())
    text = message(lambda: Nuclei("all", folder=tmp_path / "flat"))
    assert f"{tmp_path / 'flat'} has no folders of images in it" in text


@pytest.mark.parametrize(
    "said, complaint",
    [
        ("", "LESSONS_DATA is empty"),
        ("  ", "LESSONS_DATA is empty"),
        ('"/images"', "leave out what is around the path"),
        ("'/images'", "leave out what is around the path"),
        ("/images ", "leave out what is around the path"),
        (" /images", "leave out what is around the path"),
        ("images", "would be another folder in each program"),
        ("../images", "would be another folder in each program"),
        ("~nobody_of_this_name/images", "LESSONS_DATA is '~nobody_of_this_name/images'"),
    ],
)
def test_a_data_root_that_cannot_be(said, complaint, monkeypatch):
    monkeypatch.setenv("LESSONS_DATA", said)
    for call in (data_root, Nuclei, PennFudan, CocoPanoptic, lambda: download("nuclei")):
        text = message(call)
        assert complaint in text and text.startswith("LESSONS_DATA is ")


def test_a_data_root_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path / "file"))
    assert message(Nuclei) == (
        f"LESSONS_DATA is '{tmp_path / 'file'}', a file: name the folder of the images"
    )


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
        listdir = os.listdir

        def refuse(folder):
            if Path(folder) == path:
                raise PermissionError(13, "Permission denied", str(folder))
            return listdir(folder)

        monkeypatch.setattr(os, "listdir", refuse)
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


def change_json(root, change):
    table = json.loads((root / JSON).read_text())
    change(table)
    (root / JSON).write_text(json.dumps(table))


CONTRADICTIONS = {
    "no annotations": (lambda t: t.pop("annotations"), "annotations, it has no annotations"),
    "none of them": (lambda t: t.update(annotations=[]), "annotations, it has no annotations"),
    "no images": (lambda t: t.update(images=[]), "annotations, it has no images"),
    "no categories": (lambda t: t.update(categories=[]), "annotations, it has no categories"),
    "an instances JSON": (
        lambda t: t.update(annotations=[{"id": 1, "image_id": 1, "category_id": 1, "bbox": []}]),
        "cannot be read as panoptic annotations, it has no segments_info",
    ),
    "another image": (lambda t: t["annotations"][0].update(image_id=5), "lists no image 5, which"),
    "twice": (lambda t: t["annotations"].append(t["annotations"][0]), "two annotations of the"),
    "two categories of an id": (
        lambda t: t["categories"].append(t["categories"][0]),
        "gives two categories one id",
    ),
}


@pytest.mark.parametrize("change, complaint", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_json_that_is_of_another_kind_or_not_whole(root, change, complaint):
    change_json(root, change)
    text = message(lambda: coco(root))
    assert text.startswith(f"{root / JSON} ") and complaint in text


def test_a_json_that_is_nested_without_end(root):
    (root / JSON).write_text("[" * 100_000)
    assert "cannot be read as panoptic annotations" in message(lambda: coco(root))


def test_a_file_that_is_missing_in_a_folder_of_its_own(root):
    change_json(root, lambda table: table["images"][0].update(file_name="sub/1.jpg"))
    assert f"{root / 'coco/val2017/sub'} is missing" in message(lambda: coco(root))
    (root / "coco/val2017/sub").mkdir()
    (root / "coco/val2017/sub/2.jpg").touch()
    assert f"{root / 'coco/val2017/sub/1.jpg'} is missing" in message(lambda: coco(root))


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


# The command line


@pytest.mark.parametrize("said", ["", " ", '"/images"', "'~/images'", "/images "])
@pytest.mark.parametrize("command", ["doctor", "download nuclei", "train mask_rcnn --data nuclei"])
def test_a_data_root_that_cannot_be_is_one_line(lessons, monkeypatch, said, command):
    monkeypatch.setenv("LESSONS_DATA", said)
    code, _, errors = lessons(*command.split())
    assert code == 1 and errors.count("\n") == 1
    assert errors.startswith("lessons: LESSONS_DATA is ")


def test_a_command_without_images_does_not_mind(lessons, monkeypatch):
    monkeypatch.setenv("LESSONS_DATA", '"images"')
    assert lessons("build", "--check")[0] == 0
