"""The maths under the mixers: fast forms, and the naive form of each in ``naive.py``."""
