#!/bin/sh
# NcFTP, which knows no TLS: MODE HOST PORT USER DIRECTORY
cd "$5" && touch -d 2000-01-01 part.bin || exit 1
printf '%s\n' "open -u $4 -p secret -P $3 $2" binary "mkdir dir" "put -z up.bin dir/a.bin" "ls dir" \
    "get -z dir/a.bin down.bin" "get -z dir/a.bin part.bin" "rename dir/a.bin dir/b.bin" "echo done" quit | HOME=$5 ncftp
