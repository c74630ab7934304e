"""The model files saved beside the weights are self-contained; what they repeat of each other stays the same text."""

import inspect

import pytest

from s4former.networks import deeplab, dpt, setr


@pytest.mark.parametrize("method", ["encode", "run_encoder", "forward"])
def test_setr_and_dpt_have_the_same_method(method):
    setr_method, dpt_method = (
        inspect.getsource(getattr(network, method))
        for network in (setr.SetrForSemanticSegmentation, dpt.DinoDptForSemanticSegmentation)
    )
    assert setr_method == dpt_method


def test_dpt_and_deeplab_resize_alike():
    body_of_dpt, body_of_deeplab = (inspect.getsource(module.enlarge).splitlines()[1:] for module in (dpt, deeplab))
    assert body_of_dpt == body_of_deeplab
