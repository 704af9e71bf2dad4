"""Looks: a 3D LUT learnt from pairs, or given; and its way over a picture."""
