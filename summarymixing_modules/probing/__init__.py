"""What frozen encoders hold: the probes of MP3S (arXiv 2308.14456), and every layer by itself."""
