"""Tables in Markdown."""

from src.markdown import markdown_table


def test_a_float_has_two_decimals() -> None:
    assert markdown_table(["norm", "ratio"], [["A", 0.5]]) == "| norm | ratio |\n| --- | --- |\n| A | 0.50 |"


def test_a_bar_in_a_name_is_no_column() -> None:
    assert markdown_table(["|grad|"], [["1"]]).splitlines() == ["| \\|grad\\| |", "| --- |", "| 1 |"]
