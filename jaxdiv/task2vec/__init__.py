"""Task2Vec: a probe and tasks -> embeddings (the Fisher's diagonal) -> distances and the diversity coefficient.

In: a `Probe` and images with labels, or an `ImageTable`. Out: NumPy embeddings, and an `Estimate` with its interval.
Imports `data`, `nets` and `probes`. `report` and `study` may import it.
"""
