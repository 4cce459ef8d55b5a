"""The models of a study: pretrained, post-trained, adopted or perturbed."""
