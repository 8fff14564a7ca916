"""Instance and panoptic segmentation, every part built from scratch in notebooks."""

__version__ = "0.1.0"
