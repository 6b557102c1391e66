import torch

from t2ibench.nn import row_dropout
from t2ibench.nn.row_dropout import RowDropout


def test_a_share_of_values_is_dropped_and_the_mean_stays():
    torch.manual_seed(0)
    x = torch.ones(64, 1000)
    dropped = RowDropout(0.1)(x)
    assert set(dropped.unique().tolist()) == {0.0, x.new_tensor(1 / 0.9).item()}
    assert abs(float((dropped == 0).float().mean()) - 0.1) < 0.005
    assert torch.equal(RowDropout(0.1).eval()(x), x)
    assert torch.equal(RowDropout(0.0)(x), x)


def test_two_ranks_drop_what_one_process_drops(monkeypatch):
    x = torch.randn(4, 5, 3)
    torch.manual_seed(0)
    whole = RowDropout(0.5)(x)
    for rank in (0, 1):

        def own_rows(draw, count, rank=rank):
            return draw(2 * count)[rank * count : (rank + 1) * count]

        monkeypatch.setattr(row_dropout, "own_rows", own_rows)
        torch.manual_seed(0)
        rows = slice(2 * rank, 2 * rank + 2)
        assert torch.equal(RowDropout(0.5)(x[rows]), whole[rows])
