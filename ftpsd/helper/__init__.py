"""`ftpsd-pam-helper`: checks the passwords of system users with PAM, in a process of its own that runs as root.

pam_unix verifies the passwords of other users for root only, and the daemon's sandbox forbids programs. So the daemon
asks this process on a Unix socket (the source `type: helper`), with the line protocol of `messages`.

1. `server` accepts connections of one user, and answers each in a process of its own with a deadline: a PAM module
   that waits or crashes concerns one login.
2. `pam` checks the password and the account, and tells apart why a login is not permitted.
3. `system_users` looks users up in the name service, and knows which of them may log in at all.

It is small, and imports nothing of the daemon: what runs as root should be read in a few minutes.
May import nothing of ftpsd. Start with `main`.
"""
