"""From what can be downloaded to what training reads: `s4former prepare voc|cityscapes|coco`."""
