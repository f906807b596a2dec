#!/bin/sh
# curl: MODE HOST PORT USER DIRECTORY, and more of its options
set -e
case $1 in implicit) at=ftps ;; *) at=ftp ;; esac
url=$at://$2:$3 user=$4 directory=$5
shift 5
run() { curl -sSk --ssl-reqd -u "$user:secret" --max-time 15 "$@"; }
run "$@" --ftp-create-dirs -T "$directory/up.bin" "$url/dir/a.bin"
run "$@" -l "$url/dir/"
run "$@" -o "$directory/down.bin" "$url/dir/a.bin"
run "$@" -C - -o "$directory/part.bin" "$url/dir/a.bin"
run "$@" -Q "-RNFR dir/a.bin" -Q "-RNTO dir/b.bin" "$url/" -o /dev/null
echo done
