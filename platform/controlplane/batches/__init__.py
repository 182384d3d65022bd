"""OpenAI's files and batches: what a project asks for by the thousand, on spare capacity.

Vocabulary. A *file* is content that a project asked to have kept, encrypted, for a time. A *batch*
is a file of requests; each is a *line*. A *runner* (`workers.batching`) sends lines to a gateway.
A line is *claimed* under a lease and *settled* once; what it was *answered* goes to the output
file, or to the error file.

Invariants. Nothing of a file's content is in the clear at rest, in a log or in an audit event. A
project's files do not exist for another project. A line has one result, whoever ran it and however
often. What a batch has done when it ends, however it ends, is in its files. Deleting a file
deletes its key and its chunks at once.

    content.py     chunks and their keys      lines.py     who runs which line, until when
    files.py       the verbs of files         services.py  the verbs of batches
    validating.py  what a line must look like finishing.py the output and error files
"""
