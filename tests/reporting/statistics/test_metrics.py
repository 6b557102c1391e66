from t2ibench.reporting.statistics.metrics import in_order, metric_of


def test_metrics_are_printed_to_three_digits_and_stand_in_order():
    assert metric_of("fd[x]").text(0.2612) == "0.261" and metric_of("fd[x]").text(54.52) == "54.5"
    assert metric_of("grader_size[x]").text(0.5) == "50.0"
    assert in_order(["kid[b]", "fd[a]", "kid[a]"]) == ["kid[b]", "fd[a]", "kid[a]"]
    assert in_order(["recall[b]", "kid[b]", "fd[b]"]) == ["fd[b]", "kid[b]", "recall[b]"]
