#!/bin/sh
# Linux NetKit's ftp with TLS: MODE HOST PORT USER DIRECTORY
cd "$5" || exit 1
printf '%s\n' "open $2 $3" "user $4 secret" binary passive "mkdir dir" "put up.bin dir/a.bin" "nlist dir -" \
    "get dir/a.bin down.bin" "rename dir/a.bin dir/b.bin" "cd dir" "get b.bin" quit | ftp-ssl -nv -z secure
cmp up.bin b.bin && echo done
