"""The index's search core: which stored codes lie within a Hamming radius of these.

`space` is the contract, `scan` the brute-force answer, `mih` the fast one (multi-index hashing over
sorted bands), `files` its memory-mapped files, `bench` its measurement against FAISS.
"""
