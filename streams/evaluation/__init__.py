"""How good the matching is: alterations people make, peers, and the measuring commands."""
