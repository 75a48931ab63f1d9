"""Statistics of a finished study: correlations with intervals, what else could explain them, the controlled experiment.

In: points, as rows of numbers. Out: frozen rows of numbers, enums for every verdict and reason, and never a sentence.
NumPy and SciPy alone: nothing here knows images, networks or jax.
Imports only the foot of the package and the registry of methods. `report` and `study` may import it.
"""
