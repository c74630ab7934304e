"""S4Former: semi-supervised semantic segmentation with vision transformers.

Letters used in every docstring of this package:

    B batch    K classes    C channels    D token width
    H, W       pixels down and across
    h, w       tokens (or feature cells) down and across
    N          tokens of one image, h * w, prefix tokens left out

Shapes are written ``(B, K, H, W)``. `labels` is ground truth, `pseudo` the teacher's word; `weak` and `strong` are
views of one unlabelled image; `confidence` is a probability, `valid` a bool mask, `order` a permutation of places.

Sources are cited as *paper* (Hu et al., "Training Vision Transformers for Semi-Supervised Semantic Segmentation",
CVPR 2024), *supplement* (its supplementary material) and *released code* (the authors' repository).
"""

__version__ = "0.1.0"
