"""`ftpsd doctor`: find out why clients cannot connect, log in, list or transfer, and say what helps.

`--from` checks from a client's side, over the network alone; without it the server's side is checked, too. Pure
checks take plain values and return findings. May import `config` and `system`. Read first: `findings`, then `remote`
and `server`.
"""
