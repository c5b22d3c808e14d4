"""Muon against its definition and PyTorch's own for matrices, and against Adam for vectors."""

import pytest
import torch

from sr_deploy.errors import UsageError
from sr_deploy.training.objective.losses import ComposedLoss
from sr_deploy.training.run.muon import Muon, orthogonalised
from sr_deploy.training.run.phase import PhaseRun
from tests.training.conftest import ONE_PHASE, tiny_recipe


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_all_directions_become_about_equally_long_and_stay_what_they_were(shape):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    lengths = torch.logspace(0, -1.5, min(shape))
    made = orthogonalised(u @ torch.diag(lengths) @ v)
    along = u.T @ made @ v.T
    assert torch.all((along.diagonal() > 0.6) & (along.diagonal() < 1.3))
    assert (along - torch.diag(along.diagonal())).abs().max() < 1e-4


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
def test_a_matrix_is_updated_as_by_the_muon_of_pytorch():
    torch.manual_seed(0)
    ours = torch.randn(24, 60, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    muon = Muon([ours], 0.02)
    reference = torch.optim.Muon(
        [theirs], lr=0.02, weight_decay=0.0, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    start = ours.detach().clone()
    for _ in range(4):
        gradient = torch.randn(24, 60)
        ours.grad, theirs.grad = gradient, gradient.clone()
        muon.step()
        reference.step()
    moved, expected = (ours - start).detach(), (theirs - start).detach()
    assert (moved - expected).norm() < 0.03 * expected.norm()  # PyTorch's own computes in bfloat16


def test_a_convolution_is_the_matrix_of_its_rows_in_any_memory_layout():
    torch.manual_seed(0)
    weight, gradient = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    results = []
    for shape, layout in [
        ((8, 36), torch.contiguous_format),
        ((8, 4, 3, 3), torch.contiguous_format),
        ((8, 4, 3, 3), torch.channels_last),
    ]:
        kept = weight.reshape(shape).clone(memory_format=layout).requires_grad_()
        kept.grad = gradient.reshape(shape).clone(memory_format=layout)
        Muon([kept], 0.1).step()
        results.append(kept.detach().reshape(8, 36))
    assert not torch.allclose(results[0], weight.reshape(8, 36))
    for other in results[1:]:
        assert torch.allclose(other, results[0], atol=1e-6)


def test_a_vector_goes_by_adam():
    torch.manual_seed(0)
    ours = torch.randn(7, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    muon, adam = Muon([ours], torch.tensor(0.01)), torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99))
    for _ in range(5):
        gradient = torch.randn(7)
        ours.grad, theirs.grad = gradient, gradient.clone()
        muon.step()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_decay_falls_on_matrices_only():
    matrix, vector = torch.ones(3, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    matrix.grad, vector.grad = torch.zeros(3, 3), torch.zeros(3)
    Muon([matrix, vector], 0.1, weight_decay=0.5).step()
    assert torch.allclose(matrix, torch.full((3, 3), 0.95))
    assert torch.equal(vector, torch.ones(3))


def test_a_recipe_names_its_optimiser_and_training_by_muon_lowers_the_loss():
    recipe = tiny_recipe(ONE_PHASE, optimiser="muon")
    torch.manual_seed(0)
    run = PhaseRun(recipe, recipe.phases[0], ComposedLoss({"l2": 1.0}))
    assert isinstance(run.optimiser, Muon)
    generator = torch.Generator().manual_seed(2)
    large = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator)
    values = [run.step(large[:, :, ::2, ::2], large, 1e-2)[0].item() for _ in range(30)]
    assert values[-1] < values[0]
    with pytest.raises(UsageError, match="optimiser = 'sgd', expected one of adamw, muon"):
        tiny_recipe(ONE_PHASE, optimiser="sgd")
