"""The Faust that loses nothing: a transport that commits watermarks, a feed that closes holes."""
