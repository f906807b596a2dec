"""The benchmark with a client that costs little: what several worker processes bring."""
