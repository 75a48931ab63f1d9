"""Images: any source (`prepare`) -> a stored table (`store`) -> an `ImageTable` (`benchmarks`, `table`) -> tasks and
batches (`episodes`). `registry` has the facts of every data set; `public` reads the archives of the
public ones, `own` whatever a user has.

In: archives, folders and generated sets, by a benchmark's name. Out: `ImageTable`, `Task`.
Imports only the foot of the package (`errors`, `files`, `download`). Everything above may import it.
"""
