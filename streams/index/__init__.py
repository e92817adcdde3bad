"""One partition's index: which stored pictures lie within a Hamming radius of this one.

From the bottom up: `space` is the contract of a search among codes, `scan` the brute-force answer,
`mih` the fast one (multi-index hashing over sorted bands), `files` its memory-mapped files;
`columns` is what is known of each picture without its row; `arrays` is all that is searched.
`store` is what is on disk. `partition` joins them: an index as a function of its log, which
`applying` brings up to date and `verify` compares; `history` tells whether it is still that log.
`bench` measures `mih` against FAISS.
"""
