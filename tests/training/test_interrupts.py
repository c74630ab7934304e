import pytest
import torch

from s4former.training.interrupts import FiniteCheck, NonFiniteLoss


def test_the_first_step_and_term_that_is_not_finite_is_named():
    check = FiniteCheck()
    good, bad = torch.tensor(1.0), torch.tensor(float("nan"))
    check.update(3, {"supervised": good, "total": good})
    check.raise_if_not_finite()
    check.update(4, {"supervised": good, "ncr_pasa": bad, "total": bad})
    check.update(5, {"supervised": bad, "ncr_pasa": bad, "total": bad})
    with pytest.raises(NonFiniteLoss, match=r"^step 4: ncr_pasa is not finite; lower optimizer.lr"):
        check.raise_if_not_finite()


def test_an_overflowing_gradient_is_left_to_a_gradient_scaler():
    check = FiniteCheck()
    check.update(0, {"total": torch.tensor(1.0), "gradient": torch.tensor(float("inf"))}, scaled=True)
    check.raise_if_not_finite()
    check = FiniteCheck()
    check.update(0, {"total": torch.tensor(1.0), "gradient": torch.tensor(float("inf"))})
    with pytest.raises(NonFiniteLoss, match="step 0: gradient is not finite"):
        check.raise_if_not_finite()
