"""Text from outside is shown on one line, cut, and without control characters."""

import pytest

from sam2_ros.text import printable


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
