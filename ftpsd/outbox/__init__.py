"""Durable events: what the rules of the configuration want is written down, for `ftpsd deliver` to send.

The promise: every upload, removal and rename that was made, and that a rule wants, is delivered at least once, and none
that was not made ever is, whatever crashes: the daemon, the deliverer or (with `uploads.fsync`) the machine.

The journal is a directory of append-only files, one line for each entry, each line one write(2) (see `segments`). Every
run of the daemon begins files of its own, so a line that a crash has cut is the last one of its file, and is skipped.

    {"intent": ID, "record": …, "evidence": …}   a change is about to be made
    {"done": ID} or {"void": ID}                 it was made, or it was not
    {"event": ID, "record": …}                   something has happened

1. The worker thread that publishes an upload writes the intent (`claims`), with fdatasync if `uploads.fsync` is set. If
   that fails, the upload is refused: 452 if there is no room, 451 for other errors. So nothing happens unrecorded.
2. It renames, with `uploads.fsync` durably, and writes the decision. If that fails, the decision waits in memory and is
   written later. The part file of an upload that was refused goes after the decision only.
3. At the start, before clients are served and part files are swept, intents without a decision are decided by where the
   inode is (`evidence`, `reconcile`). The lock file of a run tells whether its daemon is alive: a daemon that stops
   gracefully still decides its own intents.
4. Other events have no before: they are written when they have happened, in a worker thread (`feed`). A crash may lose
   those of the last moment. When the journal is full, they are dropped, and the log says how many.

The deliverer removes files whose entries it has all taken over. `events.journal_size` bounds what it has not: beyond
that, step 1 answers 452. Only worker threads wait for the disk, never the reactor.

May import the protocol, settings, events and `system`. Read first: `journal`, then `claims` and `evidence`.
"""
