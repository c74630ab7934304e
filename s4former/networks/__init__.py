"""Segmentation networks: an encoder of transformers or timm with a decoder, built, loaded and saved."""
