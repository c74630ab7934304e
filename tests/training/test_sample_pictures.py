"""sample_pictures.py: the map of wrong pixels, by hand."""

import torch

from s4former.training.sample_pictures import WRONG, wrong_pixels


def test_labelled_pixels_that_are_predicted_wrongly_are_red_and_all_others_grey():
    image = torch.tensor([30, 60, 90], dtype=torch.uint8)[:, None, None].expand(3, 1, 4)
    picture = wrong_pixels(image, torch.tensor([[0, 1, 255, 2]]), torch.tensor([[0, 2, 1, 0]]))
    grey = 0.45 * 60 + 140
    red = [round(0.25 * grey + 0.75 * channel) for channel in WRONG]
    assert picture[:, 0].T.tolist() == [[167] * 3, red, [167] * 3, red]
