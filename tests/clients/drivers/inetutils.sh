#!/bin/sh
# GNU inetutils' ftp, which knows no TLS: MODE HOST PORT USER DIRECTORY
cd "$5" || exit 1
printf '%s\n' "open $2 $3" "user $4 secret" binary passive "mkdir dir" "put up.bin dir/a.bin" "nlist dir" \
    "get dir/a.bin down.bin" "rename dir/a.bin dir/b.bin" "reget dir/b.bin part.bin" quit | inetutils-ftp -inv && echo done
