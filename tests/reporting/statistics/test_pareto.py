"""Quality against cost, from run folders."""

from run_folders import changed_scores, write_run

from t2ibench.reporting import analyse, gather


def three(tmp_path, *changes):
    """Three models with chosen costs and distances."""
    models = ("diffusion/ldm", "gan/gan_int_cls", "autoregressive/vqgan_gpt")
    free = {"parts_flops": 0, "parts_seconds": 0}
    runs = [
        changed_scores(write_run(tmp_path, model, 0), **(free | change))
        for model, change in zip(models, changes, strict=True)
    ]
    return analyse(*gather(runs)).pareto_fronts


def test_the_front_holds_what_nothing_cheaper_beats(tmp_path):
    found = three(
        tmp_path,
        {"train_flops": 8e12, "seconds_per_image_best": 0.05, "fd": (50.0, 1.0)},
        {"train_flops": 4e12, "seconds_per_image_best": 0.01, "fd": (80.0, 1.0)},
        {"train_flops": 8.1e12, "seconds_per_image_best": 0.08, "fd": (50.5, 1.0)},
    )
    by_flops, by_time = found
    assert (by_flops.cost, by_time.cost) == ("train_flops", "seconds_per_image_best")
    assert [p.label for p in by_flops.points] == ["gan_int_cls", "ldm", "vqgan_gpt"]
    assert {p.label: p.standing for p in by_time.points} == {
        "gan_int_cls": "on the front",
        "ldm": "on the front",
        "vqgan_gpt": "not distinguishable from it",
    }
    assert {p.label for p in by_flops.points if p.on_front} == {"gan_int_cls", "ldm"}


def test_costs_within_two_percent_are_equal(tmp_path):
    found = three(
        tmp_path,
        {"train_flops": 8.08e12, "fd": (50.0, 1.0)},
        {"train_flops": 8.0e12, "fd": (80.0, 1.0)},
        {"train_flops": 8.3e12, "fd": (60.0, 1.0)},
    )
    standing = {point.label: point.standing for point in found[0].points}
    assert standing["gan_int_cls"] == "behind ldm", "1% dearer counts as equal"
    assert standing["vqgan_gpt"] == "behind ldm"
