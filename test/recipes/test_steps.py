"""``python -m recipes.embedded``: the list of steps, and a step's help."""

import pytest

from recipes.embedded.__main__ import STEPS, main


def test_without_a_step_it_lists_them() -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert all(f"\n  {name} " in str(ended.value.code) for name in STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_has_help(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([step, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m recipes.embedded {step} ")
