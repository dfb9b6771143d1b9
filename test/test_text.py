"""Text from outside is shown on one line, cut, and without control characters."""

import pytest

from sam2_ros.text import counted, printable, without_password


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rgb8", "rgb8"),
        ("Tasse, grün 杯", "Tasse, grün 杯"),
        ("\x1b[31mX\n[ERROR] fake", "\\x1b[31mX\\n[ERROR] fake"),
        ("a\u202eb\ud800", "a\\u202eb\\ud800"),
        ("e" * 1_000_000, "e" * 100 + "… (1000000 characters)"),
        ("\x00" * 100, "\\x00" * 25 + "… (100 characters)"),
        (7, "7"),
    ],
)
def test_text_is_made_printable(text: object, shown: str) -> None:
    assert printable(text) == shown


def test_one_thing_is_named_in_the_singular() -> None:
    assert [counted(number, "label image") for number in (0, 1, 2)] == [
        "0 label images",
        "1 label image",
        "2 label images",
    ]


def test_a_password_in_an_address_is_not_shown() -> None:
    assert without_password("rtsp://user:p%40ss@camera:554/a@b") == "rtsp://camera:554/a@b"
    for source in ("http://camera/user@host", "clips/a@b.mp4", "//a@b", "0"):
        assert without_password(source) == source
