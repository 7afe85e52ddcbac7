"""Other mixers in models that are built already."""
