"""A user's own data sets, whatever their form: what is at a path (`layout`, with a reader for each kind) -> what a
table of it would hold, before a pixel is read (`outline`) -> the stored table (`prepare`).

In: `OwnSet`, from a configuration or a caller; arrays. Out: `Found`, `Outline`, a stored table, a hash of the contents.
`jaxdiv.data` and the study may import it.
"""
