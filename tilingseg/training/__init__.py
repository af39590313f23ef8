"""Samples, augmentation, losses and the training loop."""
