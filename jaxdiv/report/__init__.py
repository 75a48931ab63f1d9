"""What a study leaves to read: sentences, tables (HTML, CSV, LaTeX, terminal), figures and report.html.

In: the rows of an analysis, or the embeddings of folders. Out: files in a folder, and rich tables for a terminal.
Imports `stats`, and `task2vec` and `data` for a survey of folders. `study` may import it.
"""
