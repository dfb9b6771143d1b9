"""Frames from real files: a video that OpenCV wrote, folders of images."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import open_source
from sam2_ros.media.video_writer import VideoWriter


def shade(level: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A reddish frame, so that an exchange of channels shows."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, :, 0] = level
    return frame


def test_a_video_gives_its_frames_in_rgb_with_stamps(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "clip.mp4", 20.0)
    levels = [60, 120, 180, 240]
    for level in levels:
        writer.write(shade(level))
    writer.close()
    source = open_source(str(tmp_path / "clip.mp4"))
    frames = list(source)
    assert source.length == 4
    assert source.fps == pytest.approx(20)
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert [frame.name for frame in frames] == ["000000", "000001", "000002", "000003"]
    assert [frame.stamp for frame in frames] == [0, 50_000_000, 100_000_000, 150_000_000]
    for frame, level in zip(frames, levels, strict=True):
        assert frame.rgb.shape == (48, 64, 3) and frame.rgb.dtype == np.uint8
        assert abs(float(frame.rgb[:, :, 0].mean()) - level) < 12
        assert float(frame.rgb[:, :, 2].mean()) < 25
    assert [frame.index for frame in source] == [0, 1, 2, 3], "a source can be read again"


def test_images_come_in_numeric_order_and_keep_their_names(tmp_path: Path) -> None:
    for number, suffix in ((10, "png"), (9, "jpg"), (100, "png"), (1, "JPG")):
        cv2.imwrite(str(tmp_path / f"frame_{number}.{suffix.lower()}"), shade(number)[:, :, ::-1])
        (tmp_path / f"frame_{number}.{suffix.lower()}").rename(tmp_path / f"frame_{number}.{suffix}")
    (tmp_path / "notes.txt").write_text("not an image", encoding="utf-8")
    source = open_source(str(tmp_path), fps=10)
    frames = list(source)
    assert source.length == 4
    assert [frame.name for frame in frames] == ["frame_1", "frame_9", "frame_10", "frame_100"]
    assert [frame.stamp for frame in frames] == [0, 100_000_000, 200_000_000, 300_000_000]
    assert abs(int(frames[3].rgb[0, 0, 0]) - 100) <= 3 and frames[3].rgb[0, 0, 2] <= 3


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "text.mp4"
    text.write_text("no video", encoding="utf-8")
    for source, message in (
        (tmp_path / "gone.mp4", "no such file or folder; accepted: a video file"),
        (empty, "no images there; accepted: .jpg"),
        (text, "not a video"),
        ("97", "camera 97 can't be opened"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(str(source))


def test_frames_that_change_size_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), shade(1))
    cv2.imwrite(str(tmp_path / "1.png"), shade(1, width=32))
    with pytest.raises(UserError, match="32x48 pixels, but the frames before have 64x48"):
        list(open_source(str(tmp_path)))


def test_an_image_that_cannot_be_read_and_names_that_clash_are_refused(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"0\.png: not a readable image"):
        list(open_source(str(tmp_path)))
    cv2.imwrite(str(tmp_path / "0.jpg"), shade(1))
    with pytest.raises(UserError, match="two images differ only in the suffix"):
        open_source(str(tmp_path))


def test_a_video_cannot_be_written_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't write a video there"):
        VideoWriter(tmp_path / "no" / "folder.mp4", 10).write(shade(1))


@pytest.mark.parametrize("suffix", ["bmp", "tif", "tiff", "webp", "TIF"])
def test_other_formats(suffix: str, tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / f"1.{suffix}"), shade(200)[:, :, ::-1])
    (frame,) = open_source(str(tmp_path))
    assert abs(int(frame.rgb[0, 0, 0]) - 200) <= 4 and frame.rgb[0, 0, 2] <= 4


def test_hidden_files_are_no_frames(tmp_path: Path) -> None:
    """macOS leaves ``._1.jpg`` beside ``1.jpg``, Windows ``Thumbs.db``."""
    cv2.imwrite(str(tmp_path / "1.jpg"), shade(1))
    for name in ("._1.jpg", ".2.jpg", ".3.png", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / name).write_bytes(b"no image")
    assert [frame.name for frame in open_source(str(tmp_path))] == ["1"]


def test_a_pattern_takes_the_numbered_files_of_its_name(tmp_path: Path) -> None:
    for name in ("img_00002.png", "img_00010.png", "img_123456.png", "img_3.png", "img_00004b.png", "mask_00002.png"):
        cv2.imwrite(str(tmp_path / name), shade(1))
    frames = list(open_source(str(tmp_path / "img_%05d.png"), fps=10))
    assert [frame.name for frame in frames] == ["img_00002", "img_00010", "img_123456"]
    assert [frame.stamp for frame in frames] == [0, 100_000_000, 200_000_000]
    assert [frame.name for frame in open_source(str(tmp_path / "img_%d.png"))][:2] == ["img_00002", "img_3"]
    with pytest.raises(UserError, match=r"a pattern with one number, such as img_%05d\.jpg"):
        open_source(str(tmp_path / "img_%s.png"))
    with pytest.raises(UserError, match=r"cup_%d\.png: no images there"):
        open_source(str(tmp_path / "cup_%d.png"))


@pytest.mark.parametrize(("bits", "told"), [(8, 8), (9, 10), (12, 12), (16, 0)])
def test_16_bit_images_keep_the_bits_that_are_used(
    bits: int, told: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same for every frame, also where the first one is dark."""
    brightest = (1 << bits) - 1
    for number, peak in enumerate((brightest // 16, brightest, brightest // 2)):
        gray = np.linspace(0, peak, 48 * 64).reshape(48, 64).astype(np.uint16)
        cv2.imwrite(str(tmp_path / f"{number}.png"), gray)
    white = brightest * 255 // ((1 << (told or 16)) - 1)
    for expected, frame in zip((white // 16, white, white // 2), open_source(str(tmp_path)), strict=True):
        assert frame.rgb.dtype == np.uint8 and abs(int(frame.rgb.max()) - expected) <= 1
        assert np.ptp(frame.rgb, axis=2).max() == 0
    line = f"16-bit images with values up to {brightest}, read as images of {told} bits"
    assert (line in capsys.readouterr().err) == bool(told)


def test_pixels_of_other_types_and_odd_names_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.tif"), np.zeros((48, 64), np.float32))
    with pytest.raises(UserError, match=r"1\.tif: .*accepted: .*8 or 16 bits a channel"):
        list(open_source(str(tmp_path)))
    for name in ("a\0b", "x" * 5000, "\x1b[31m"):
        with pytest.raises(UserError) as caught:
            open_source(name)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 600
