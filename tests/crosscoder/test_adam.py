"""Our Adam is PyTorch's."""

import torch

from rlgen.crosscoder.adam import Adam


def test_the_same_bits_as_pytorchs() -> None:
    torch.manual_seed(0)
    mine = torch.nn.Parameter(torch.randn(50, 7))
    theirs = torch.nn.Parameter(mine.detach().clone())
    ours, reference = Adam([mine]), torch.optim.Adam([theirs], fused=True)
    for step in range(6):
        gradient = torch.randn(50, 7)
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        reference.param_groups[0]["lr"] = 0.1 / (step + 1)
        ours.step(0.1 / (step + 1))
        reference.step()
        if step == 3:
            again = Adam([mine])
            again.load_state_dict(ours.state_dict())
            ours = again
    assert torch.equal(mine, theirs)
