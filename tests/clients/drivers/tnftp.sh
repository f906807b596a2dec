#!/bin/sh
# tnftp, the BSDs' ftp, which knows no TLS for FTP: MODE HOST PORT USER DIRECTORY
cd "$5" && mkdir dir || exit 1
printf '%s\n' "open $2 $3" "user $4 secret" binary "mkdir dir" "put up.bin dir/a.bin" "nlist dir" "mget dir" \
    "get dir/a.bin down.bin" "rename dir/a.bin dir/b.bin" "reget dir/b.bin part.bin" quit | tnftp -inv
cmp up.bin dir/a.bin && echo done
