"""Decoding pictures in processes that a hostile picture may kill."""
