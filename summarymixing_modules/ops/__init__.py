"""The maths under the mixers: each fast path stands beside a naive reference in the same file."""
