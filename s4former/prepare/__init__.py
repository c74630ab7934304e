"""From what can be downloaded to what training reads: `python -m s4former.prepare voc|cityscapes|coco`."""
