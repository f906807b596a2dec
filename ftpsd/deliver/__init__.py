"""`ftpsd deliver`: sends the events of the journal to webhooks and programs, in a process of its own.

The daemon's sandbox forbids programs and outgoing connections, so another process delivers, and the journal
(`ftpsd.outbox`) is all that the two share. Each event reaches each target of its rules at least once:

1. `reader` takes entries over from the journal into a SQLite database (`queue`): the deliveries that they cause, the
   intents that are not decided, and the position in the journal, in one transaction. Then it removes the files of the
   journal that it has read completely.
2. `dispatcher` gives each delivery to its target (`webhook` or `program`). A delivery that a target has accepted is
   removed. A crash in between delivers it again, with the same `id`.
3. A delivery that fails is tried again, later each time, until `events.give_up`. Then it is put aside: `ftpsd events
   --failed` shows it, and `ftpsd events --retry` delivers it again.

Deliveries to one target that share a path wait for each other, in the order of their events. Others do not: a target
has several at the same time, and a target that fails does not delay another one.

May import the protocol, settings, events, `system`, `outbox` and `config`. Start with `service`.
"""
