"""Models of self-supervised training: masks, quantisers, negatives, losses."""
