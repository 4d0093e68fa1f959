"""Messages between processes, and who they are."""

import pytest
import torch

from sklearn_ssl._distributed.team import ALONE, present_team
from sklearn_ssl._together import run_together

pytestmark = pytest.mark.usefixtures("sent_by_value")


def messages():
    """Return what each kind of message gives on each process."""
    with present_team() as team:
        team.connect(torch.device("cpu"))
        x = torch.arange(10.0).view(5, 2)
        own = team.share(x).clone().requires_grad_()
        whole = team.gather(own, 5)
        (whole**2).sum().backward()
        tensors = [torch.full((2, 3), float(team.rank)), torch.full((1,), 3.0, dtype=torch.float64)]
        team.average(tensors)
        return {
            "gathered": whole.detach(),
            "gradient": own.grad / team.size,  # which the average over the processes does
            "average": tensors,
            "sums": team.sums(1.0, team.rank),
            "from first": team.from_first(lambda: ("rank", team.rank)),
            "everyones": team.everyones(team.rank),
        }


def test_messages():
    first, second = run_together(messages, 2)
    x = torch.arange(10.0).view(5, 2)
    for rank, results in enumerate((first, second)):
        assert torch.equal(results["gathered"], x)
        assert torch.equal(results["gradient"], 2 * x[rank::2])
        assert torch.equal(results["average"][0], torch.full((2, 3), 0.5))
        assert results["average"][1].item() == 3.0
        assert results["sums"] == [2.0, 1.0]
        assert results["from first"] == ("rank", 0)
        assert results["everyones"] == [0, 1]


def test_a_process_alone_is_a_team_of_one():
    x = torch.randn(3, 2)
    with present_team() as team:
        assert team is ALONE
    assert ALONE.share(x) is x
    assert ALONE.gather(x, 3) is x
    assert ALONE.from_first(lambda: 5) == ALONE.all_or_none(lambda: 5) == 5


def test_torchrun_without_a_group_is_told(monkeypatch, embedder, images):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.warns(UserWarning, match=r"4 processes.*init_process_group\(\)"):
        embedder().fit(images)
