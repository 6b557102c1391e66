from t2ibench.reporting import count_text, flops_text, seconds_text
from t2ibench.reporting.render.numbers import p_text, share_text


def test_numbers_are_printed_to_three_digits():
    assert [flops_text(v) for v in (8e12, 2.5e9, None, 0)] == ["8.00e12", "2.50e9", "–", "–"]
    assert [seconds_text(v) for v in (0.003, 5.0, 300.0, 8000.0)] == [
        "3 ms", "5 s", "5 min", "2.22 h",
    ]  # fmt: skip
    assert [count_text(v) for v in (12.0, 1234567.0, None)] == ["12", "1.23 M", "–"]
    assert [share_text(v) for v in (0.256, None)] == ["26 %", "–"]
    assert [p_text(v) for v in (0.0009, 0.05)] == ["< 0.001", "0.050"]
