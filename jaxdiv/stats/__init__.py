"""Statistics of a finished study: correlations with intervals, what else could explain them, the controlled experiment.

In: rows of numbers. Out: rows of numbers. NumPy and SciPy alone: nothing here knows images, networks or jax.
Imports only the foot of the package. `report` and `study` may import it.
"""
