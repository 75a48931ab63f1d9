"""Images: any source -> a stored table (`store`) -> an `ImageTable` -> few-shot tasks and batches (`episodes`).

In: archives, folders and generated sets, by a benchmark's name (`benchmarks`). Out: `ImageTable`, `Task`.
Imports only the foot of the package (`errors`, `files`, `download`). Everything above may import it.
"""
