"""One record to one item, on cases worked out by hand, and the messages for images that cannot be used."""

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.errors import UserError
from transfer.data.mapper import DetectionMapper, read_image
from transfer.data.random_geometry import Draw, RandomGeometry, resized_shape


def mapper(image_format="RGB", **changes):
    masks = {"masks": changes.pop("masks")} if "masks" in changes else {}
    geometry = RandomGeometry(**{"min_sizes": (40,), "max_size": 1000, "flip": "horizontal", **changes})
    return DetectionMapper(train=True, image_format=image_format, geometry=geometry, **masks)


@pytest.fixture
def record(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return {
        "file_name": str(tmp_path / "a.png"),
        "height": 20,
        "width": 30,
        "image_id": 5,
        "annotations": [
            {
                "bbox": [3.0, 4.0, 6.0, 8.0],
                "bbox_mode": 1,
                "category_id": 2,
                "iscrowd": 0,
                "segmentation": [np.array([3.0, 4, 9, 4, 9, 12])],
            },
            {"bbox": [25.0, 15.0, 45.0, 19.5], "bbox_mode": 0, "category_id": 1, "iscrowd": 0},
            {"bbox": [1.0, 1.0, 5.0, 5.0], "bbox_mode": 0, "category_id": 0, "iscrowd": 1},
            {"bbox": [31.0, 1.0, 35.0, 5.0], "bbox_mode": 0, "category_id": 0, "iscrowd": 0},
        ],
    }


def test_boxes_follow_resize_flip_and_clipping(record):
    item = mapper()(record, Draw(40, True))
    assert item["image"].shape == (3, 40, 60)
    assert item["image"].dtype == torch.uint8
    assert (item["height"], item["width"], item["image_id"]) == (20, 30, 5)
    # doubled, mirrored in 60 columns, clipped; the crowd and the box outside the image are gone
    assert item["instances"]["boxes"].tolist() == [[42.0, 8.0, 54.0, 24.0], [0.0, 30.0, 10.0, 39.0]]
    assert item["instances"]["classes"].tolist() == [2, 1]


def test_pixels_are_pil_bilinear_and_mirrored(record):
    pixels = np.asarray(Image.open(record["file_name"]))
    item = mapper()(record, Draw(0, False))
    assert np.array_equal(item["image"].numpy(), pixels.transpose(2, 0, 1))
    bgr = mapper(image_format="BGR")(record, Draw(40, True))["image"].numpy()
    expected = np.asarray(Image.open(record["file_name"]).resize((60, 40), Image.BILINEAR))[:, ::-1, ::-1]
    assert np.array_equal(bgr, expected.transpose(2, 0, 1))


def test_polygons_and_bitmasks_cover_the_same_pixels(record):
    record["annotations"] = record["annotations"][:1]
    polygon = mapper(masks="polygon")(record, Draw(40, True))["instances"]["masks"]
    assert polygon[0][0].tolist() == [54.0, 8.0, 42.0, 8.0, 42.0, 24.0]
    bits = mapper(masks="bitmask")(record, Draw(40, True))["instances"]["masks"]
    assert bits.shape == (1, 40, 60)
    rows, columns = np.nonzero(bits[0].numpy())
    assert np.allclose((rows.min(), rows.max(), columns.min(), columns.max()), (8, 23, 42, 53), atol=1)


def test_annotations_of_the_record_are_not_changed(record):
    before = [np.array(a["bbox"]) for a in record["annotations"]]
    record["annotations"] = record["annotations"][:1]
    mapper(masks="polygon")(record, Draw(40, True))
    assert record["annotations"][0]["segmentation"][0].tolist() == [3, 4, 9, 4, 9, 12]
    assert np.array_equal(before[0], record["annotations"][0]["bbox"])


def test_rotated_photos_are_turned_upright(tmp_path):
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(str(tmp_path / "a.jpg"), "BGR").shape == (30, 20, 3)


def test_sizes_round_half_up_and_respect_the_cap():
    assert resized_shape(333, 500, 640, 1333) == (640, 961)
    assert resized_shape(480, 640, 704, 1333) == (704, 939)
    assert resized_shape(100, 1000, 800, 1333) == (133, 1333)


def test_a_wrong_size_in_the_annotation_is_named(record):
    record["width"] = 31
    with pytest.raises(UserError, match=r"a\.png is 30 x 20, its annotation says 31 x 20"):
        mapper()(record, Draw(40, False))


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n broken"])
def test_an_unreadable_image_is_named(record, content):
    with open(record["file_name"], "wb") as file:
        file.write(content)
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        mapper()(record, Draw(40, False))


def test_a_truncated_image_is_named(record, tmp_path):
    Image.effect_noise((300, 200), 50).convert("RGB").save(tmp_path / "big.jpg")
    content = (tmp_path / "big.jpg").read_bytes()
    record.update(file_name=str(tmp_path / "cut.jpg"))
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.jpg cannot be read"):
        mapper()(record, Draw(40, False))


def test_missing_masks_are_named(record):
    with pytest.raises(UserError, match="no segmentation"):
        mapper(masks="polygon")(record, Draw(40, False))
    record["annotations"][1]["segmentation"] = {"size": [20, 30], "counts": b"x"}
    with pytest.raises(UserError, match="MASK_FORMAT bitmask"):
        mapper(masks="polygon")(record, Draw(40, False))


def test_run_lengths_that_cannot_be_read_are_named(record):
    record["annotations"][0]["segmentation"] = {"size": [20, 30], "counts": "%%%"}
    with pytest.raises(UserError, match=r"a\.png: a run-length mask cannot be read"):
        mapper(masks="bitmask")(record, Draw(40, False))


@pytest.mark.parametrize("change", [{"flip": "both"}, {"masks": "rle"}, {"sampling": "range"}])
def test_unknown_settings_are_refused(change):
    with pytest.raises(UserError, match="INPUT"):
        mapper(**change)
